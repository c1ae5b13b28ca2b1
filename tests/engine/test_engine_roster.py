"""Kernels follow addresses: whatever changes behind their back is respected, done eagerly, or refused by name."""

import copy
import io
import pickle

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, values
from engine_support import (
    SGD,
    copies,
    fates,
    feed,
    is_compiled,
    march,
    same,
    shared_cache,  # noqa: F401
    snapshot,
    state_of,
    twins,
)
from torch.optim.optimizer import register_optimizer_step_post_hook

import dashpot as dp

pytestmark = pytest.mark.needs_compiler

DOUBLE = 1e-12  # float64: the bound of test_engine_equality
SHAPES = ((3, 3), (4,), ())


def adamw(params, **how):
    return dp.AdamW(params, lr=0.02, weight_decay=0.1, **how)


def agree(first, second):
    assert distance(second[0], values(first[0])) < DOUBLE
    for p, q in zip(first[0], second[0], strict=True):
        a, b = state_of(first[1], p), state_of(second[1], q)
        assert a.keys() == b.keys()
        assert distance(list(b.values()), list(a.values())) < DOUBLE


# ---- edits between steps --------------------------------------------------------------------------------------------


@torch.no_grad()
def _weight_in_place(params, optimizer):
    params[0].mul_(-2)


def _weight_elsewhere(params, optimizer):
    params[0].data = params[0].data * 3


def _weight_transposed(params, optimizer):
    params[0].data = params[0].data.t()


def _weight_dtype(params, optimizer):
    params[0].data = params[0].data.float()


def _weight_of_another_shape(params, optimizer):
    params[1].data = params[1].data.view(2, 2)
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[params[1]][key] = optimizer.state[params[1]][key].view(2, 2)


def _weights_swapped(params, optimizer):
    params[0].data, params[1].data = params[1].data, params[0].data
    optimizer.state.clear()


def _state_in_place(params, optimizer):
    optimizer.state[params[0]]["exp_avg"].fill_(0.5)


def _state_elsewhere(params, optimizer):
    optimizer.state[params[0]]["exp_avg"] = torch.full((3, 3), 0.25, dtype=torch.float64)


def _state_by_data(params, optimizer):
    state = optimizer.state[params[0]]
    state["exp_avg"].data = torch.full((3, 3), 0.25, dtype=torch.float64)


def _state_transposed(params, optimizer):
    state = optimizer.state[params[0]]
    state["exp_avg"].data = state["exp_avg"].data.t()


def _state_dtype(params, optimizer):
    state = optimizer.state[params[0]]
    state["exp_avg"] = state["exp_avg"].float()


def _state_dictionary(params, optimizer):
    optimizer.state[params[0]] = {key: value.clone() for key, value in optimizer.state[params[0]].items()}
    optimizer.state[params[0]]["exp_avg"] *= 2


def _state_removed(params, optimizer):
    del optimizer.state[params[0]]


def _slot_removed(params, optimizer):
    del optimizer.state[params[0]]["exp_avg_sq"]


def _all_state_removed(params, optimizer):
    optimizer.state.clear()


def _count_in_place(params, optimizer):
    optimizer.state[params[0]]["step"].fill_(50)


def _count_elsewhere(params, optimizer):
    optimizer.state[params[0]]["step"] = torch.tensor(7.0)


def _count_as_a_number(params, optimizer):
    optimizer.state[params[0]]["step"] = 7


def _count_by_data(params, optimizer):
    optimizer.state[params[0]]["step"].data = torch.tensor(30.0)


def _all_counts_at_once(params, optimizer):
    for p in params:
        optimizer.state[p]["step"].zero_()


def _loaded(params, optimizer):
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"].mul_(3)
    state["state"][1]["step"].fill_(2)
    state["param_groups"][0]["lr"] = 0.1
    optimizer.load_state_dict(state)


def _loaded_its_own(params, optimizer):
    optimizer.load_state_dict(optimizer.state_dict())


def _loaded_from_torch(params, optimizer):
    others = [p.detach().float().requires_grad_() for p in params]
    other = torch.optim.AdamW(others, lr=0.1)
    march([(others, other)], range(3))
    optimizer.load_state_dict(other.state_dict())


EDITS = [value for name, value in dict(globals()).items() if name.startswith("_") and not name.startswith("__")]
EDITS = [edit for edit in EDITS if getattr(edit, "__module__", None) == __name__]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__[1:])
def test_an_edit_from_outside_counts_as_in_eager(edit):
    first, second = twins(adamw, parameters(shapes=SHAPES))
    march((first, second), range(4))
    for params, optimizer in (first, second):
        edit(params, optimizer)
    march((first, second), range(4, 8))
    assert "compiled" in fates(second[1])
    agree(first, second)


def test_every_edit_above_is_tried():
    assert len(EDITS) == 23


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(
    ("edit", "count"),
    [(_count_in_place, 50), (_count_elsewhere, 7), (_count_as_a_number, 7), (_count_by_data, 30)],
    ids=lambda edit: getattr(edit, "__name__", None),
)
def test_a_step_count_goes_on_from_what_somebody_wrote(edit, count, engine):
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine=engine)
    march([(params, optimizer)], range(4))
    edit(params, optimizer)
    march([(params, optimizer)], range(4, 6))
    assert [int(optimizer.state[p]["step"]) for p in params] == [count + 2, 6, 6]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_continues_and_shares_nothing(copied):
    first, second = twins(adamw, parameters(shapes=SHAPES))
    march((first, second), range(4))
    third = copied(second)
    march((first, second), range(4, 8))
    untouched = snapshot(*second)
    march((third,), range(4, 8))
    agree(first, third)
    march((third,), range(8, 10))
    assert same(snapshot(*second), untouched)
    assert is_compiled(third[1])


def test_a_checkpoint_continues_bit_for_bit():
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine="compiled")
    march([(params, optimizer)], range(4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    others = copies(params)
    other = adamw(others, engine="compiled")
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for pair in ((params, optimizer), (others, other)):
        march([pair], range(4, 9))
    assert same(snapshot(params, optimizer), snapshot(others, other))


def test_a_weight_that_shrinks_is_refused_and_nothing_is_written():
    """Its state has the old size; beyond the weight's own memory nothing may be written."""
    for engine in ("eager", "compiled"):
        memory = torch.ones(9, dtype=torch.float64)
        p = torch.zeros(9, dtype=torch.float64, requires_grad=True)
        optimizer = adamw([p], engine=engine)
        march([([p], optimizer)], range(2))
        p.grad, p.data = None, memory[:4]
        p.grad = torch.ones(4, dtype=torch.float64)
        with pytest.raises(dp.ArgumentError, match=r"must have its parameter.s shape"):
            optimizer.step()
        assert torch.equal(memory, torch.ones_like(memory))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _sparse_gradient(params, optimizer):
    params[1].grad = params[1].grad.to_sparse()


def _gradient_dtype(params, optimizer):
    params[1].grad_dtype = None
    params[1].grad = params[1].grad.float()


def _gradient_shape(params, optimizer):
    params[1].grad.data = params[1].grad.data.view(2, 2)


def _gradient_size(params, optimizer):
    params[1].grad.data = params[1].grad.data[:2]


def _gradient_without_memory(params, optimizer):
    params[1].grad.untyped_storage().resize_(0)


def _weight_without_memory(params, optimizer):
    params[1].untyped_storage().resize_(0)


def _state_without_memory(params, optimizer):
    optimizer.state[params[1]]["exp_avg"].untyped_storage().resize_(0)


RELEASED = r"a parameter of shape \(4,\), its gradient and its state must have memory"
REFUSED = {
    _sparse_gradient: "gradients must be dense, got layout torch.sparse_coo",
    _gradient_dtype: "dtype must be its parameter's, torch.float64, got torch.float32",
    _gradient_shape: r"shape must be its parameter's, torch.Size\(\[4\]\), got torch.Size\(\[2, 2\]\)",
    _gradient_size: r"shape must be its parameter's, torch.Size\(\[4\]\), got torch.Size\(\[2\]\)",
    _gradient_without_memory: RELEASED,
    _weight_without_memory: RELEASED,
    _state_without_memory: RELEASED,
}


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(
    ("fault", "steps"),
    [(fault, steps) for fault in REFUSED for steps in (0, 3) if steps or fault is not _state_without_memory],
    ids=lambda value: getattr(value, "__name__", f"_after {value}")[1:],
)
def test_bad_input_is_refused_by_name_before_anything_is_written(fault, steps, engine):
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine=engine)
    march([(params, optimizer)], range(steps))
    feed(params, steps)
    others = [params[0], params[2]]  # the second's memory may be gone
    before = snapshot(others, optimizer), len(optimizer.state)
    fault(params, optimizer)
    with pytest.raises(dp.ArgumentError, match=f"AdamW: .*{REFUSED[fault]}"):
        optimizer.step()
    assert same((snapshot(others, optimizer), len(optimizer.state)), before)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_weight_read_as_another_dtype_at_the_same_address_is_refused(engine):
    p = torch.ones(4, dtype=torch.float16, requires_grad=True)
    optimizer = adamw([p], engine=engine)
    march([([p], optimizer)], range(2))
    before = p.detach().clone()
    feed([p], 2)
    p.data = p.data.view(torch.bfloat16)
    with pytest.raises(dp.ArgumentError, match=r"dtype must be its parameter's, torch.bfloat16, got torch.float16"):
        optimizer.step()
    assert torch.equal(p.data.view(torch.float16), before)


def test_after_a_refusal_the_next_good_step_goes_on():
    first, second = twins(adamw, parameters(shapes=SHAPES))
    march((first, second), range(3))
    feed(second[0], 99)
    second[0][1].grad = second[0][1].grad.to_sparse()
    with pytest.raises(dp.ArgumentError, match="dense"):
        second[1].step()
    march((first, second), range(3, 6))
    agree(first, second)


# ---- shared memory --------------------------------------------------------------------------------------------------


def _twice_the_same(buffer):
    return [buffer[:6], buffer[:6]]


def _part_of_another(buffer):
    return [buffer[:6], buffer[2:4]]


def _overlapping_slices(buffer):
    return [buffer[:6], buffer[4:9], buffer[10:12]]


def _side_by_side(buffer):
    return [buffer[:6], buffer[6:9], buffer[9:]]


def _with_gaps_first(buffer):
    return [buffer[::2], buffer[:6]]


@pytest.mark.parametrize(
    "cut", [_twice_the_same, _part_of_another, _overlapping_slices, _with_gaps_first], ids=lambda cut: cut.__name__[1:]
)
def test_parameters_that_share_memory_go_eager_in_order(cut):
    pairs = []
    for engine in ("eager", "compiled"):
        buffer = torch.linspace(-1, 1, 12, dtype=torch.float64)
        params = [part.detach().requires_grad_() for part in cut(buffer)]
        pairs.append((params, adamw(params, engine=engine)))
    march(pairs, range(5))
    agree(*pairs)
    assert "shares memory with another tensor" in fates(pairs[1][1])


def test_parameters_side_by_side_in_one_buffer_are_compiled():
    buffer = torch.linspace(-1, 1, 12, dtype=torch.float64)
    params = [part.detach().requires_grad_() for part in _side_by_side(buffer)]
    optimizer = adamw(params, engine="compiled")
    march([(params, optimizer)], range(2))
    assert is_compiled(optimizer)


ALIASES = {
    "its own weight": lambda params, state: params[1].detach(),
    "another's weight": lambda params, state: params[0].detach().view(-1)[5:],
    "its own state": lambda params, state: state[params[1]]["exp_avg"],
    "another's state": lambda params, state: state[params[0]]["exp_avg_sq"].view(-1)[:4],
}


@pytest.mark.parametrize("name", ALIASES)
def test_a_gradient_that_is_something_written(name):
    """The gradient moves to another address from one step to the next, in either direction."""
    first, second = twins(adamw, parameters(shapes=SHAPES))
    march((first, second), range(2))
    for step in range(2, 8):
        for params, optimizer in (first, second):
            feed(params, step)
            if step % 3:
                params[1].grad = ALIASES[name](params, optimizer.state)
            optimizer.step()
        agree(first, second)
    assert "compiled" in fates(second[1])


def test_two_parameters_with_one_gradient():
    first, second = twins(adamw, parameters(shapes=((4,), (4,))))
    for step in range(4):
        for params, optimizer in (first, second):
            params[0].grad = params[1].grad = gradient(params[0], step)
            optimizer.step()
    agree(first, second)
    assert is_compiled(second[1])


# ---- kinds of tensors -----------------------------------------------------------------------------------------------


class Labelled(torch.nn.Parameter):
    pass


class Counting(torch.nn.Parameter):
    calls = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Counting.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize(("kind", "compiled"), [(Labelled, True), (Counting, False)])
def test_a_subclass_is_compiled_unless_it_has_a_dispatch_of_its_own(kind, compiled):
    pairs = []
    for engine in ("eager", "compiled"):
        params = [kind(p.detach()) for p in parameters(shapes=SHAPES)]
        pairs.append((params, adamw(params, engine=engine)))
    march(pairs, range(3))
    assert is_compiled(pairs[1][1]) is compiled
    assert (f"tensor subclass {kind.__name__}" in fates(pairs[1][1])) is not compiled
    agree(*pairs)


def test_tensors_of_inference_mode_go_as_in_eager():
    for engine in ("eager", "compiled"):
        with torch.inference_mode():
            p = torch.ones(3, dtype=torch.float64)
        optimizer = adamw([p], engine=engine)
        with torch.inference_mode():
            p.grad = torch.ones(3, dtype=torch.float64)
            optimizer.step()
        assert p.tolist() == pytest.approx([1 - 0.02 * 0.1 - 0.02] * 3, abs=1e-9)  # eps = 1e-8 of a unit step
    assert "inference tensor" in fates(optimizer)


def test_a_step_within_inference_mode():
    first, second = twins(adamw, parameters(shapes=SHAPES))
    with torch.inference_mode():
        march((first, second), range(3))
        agree(first, second)


# ---- autograd -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("needed", ["weight", "state"])
def test_backward_through_something_a_step_has_changed_raises_torchs_error(engine, needed):
    params = parameters()
    optimizer = adamw(params, engine=engine)
    march([(params, optimizer)], range(2))
    factor = params[0] if needed == "weight" else optimizer.state[params[0]]["exp_avg"]
    leaf = torch.ones_like(params[0], requires_grad=True)
    loss = (factor * leaf).sum()
    feed(params, 2)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_are_called_around_a_compiled_step():
    params = parameters()
    optimizer = dp.SGD(params, **SGD, engine="compiled")
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", params[0].detach().clone())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", params[0].detach().clone())))
    march([(params, optimizer)], range(1))
    assert [name for name, _ in seen] == ["before", "after"]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert is_compiled(optimizer)


def test_a_closure_is_called_once_with_gradients_enabled():
    params = parameters()
    optimizer = dp.SGD(params, **SGD, engine="compiled")
    modes = []

    def closure():
        modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    before = values(params)
    loss = optimizer.step(closure)
    assert modes == [True]
    assert loss.item() == pytest.approx(sum((p * p).sum().item() for p in before))
    assert is_compiled(optimizer)


# ---- who watches ----------------------------------------------------------------------------------------------------


def test_a_profiler_sees_the_step_under_torchs_name():
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine="compiled")
    march([(params, optimizer)], range(1))
    with torch.autograd.profiler.profile() as profile:
        march([(params, optimizer)], range(1, 2))
    assert "Optimizer.step#AdamW.step" in [event.key for event in profile.key_averages()]


def test_a_hook_for_all_optimizers_is_called():
    params = parameters(shapes=SHAPES)
    optimizer, calls = adamw(params, engine="compiled"), []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    try:
        march([(params, optimizer)], range(2))
    finally:
        handle.remove()
    march([(params, optimizer)], range(2, 3))
    assert calls == [1, 1]
