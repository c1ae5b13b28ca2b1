"""Tensors that change between steps: they are validated, prepared again, or rejected by name."""

import copy
import io
import pickle

import pytest
import torch
from contracts.trajectories import distance, parameters, values
from engine_support import (
    clone_leaves,
    eager_and_compiled,
    explanation,
    is_compiled,
    is_equal,
    run_steps,
    set_gradients,
    snapshot,
    state_of,
)

import dashpot as dp

pytestmark = pytest.mark.needs_compiler


DOUBLE = 1e-12  # bound for float64, as in test_engine_equality


SHAPES = ((3, 3), (4,), ())


def adamw(params, **how):
    return dp.AdamW(params, lr=0.02, weight_decay=0.1, **how)


def assert_agree(first, second):
    assert distance(second[0], values(first[0])) < DOUBLE
    for p, q in zip(first[0], second[0], strict=True):
        a, b = state_of(first[1], p), state_of(second[1], q)
        assert a.keys() == b.keys()
        assert distance(list(b.values()), list(a.values())) < DOUBLE


@torch.no_grad()
def _weight_in_place(params, optimizer):
    params[0].mul_(-2)


def _weight_replaced(params, optimizer):
    params[0].data = params[0].data * 3


def _weight_transposed(params, optimizer):
    params[0].data = params[0].data.t()


def _weight_dtype(params, optimizer):
    params[0].data = params[0].data.float()


def _weight_reshaped(params, optimizer):
    params[1].data = params[1].data.view(2, 2)
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[params[1]][key] = optimizer.state[params[1]][key].view(2, 2)


def _weights_swapped(params, optimizer):
    params[0].data, params[1].data = params[1].data, params[0].data
    optimizer.state.clear()


def _state_in_place(params, optimizer):
    optimizer.state[params[0]]["exp_avg"].fill_(0.5)


def _state_replaced(params, optimizer):
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


def _count_replaced(params, optimizer):
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


def _loaded_own_state(params, optimizer):
    optimizer.load_state_dict(optimizer.state_dict())


def _loaded_from_torch(params, optimizer):
    others = [p.detach().float().requires_grad_() for p in params]
    other = torch.optim.AdamW(others, lr=0.1)
    run_steps([(others, other)], range(3))
    optimizer.load_state_dict(other.state_dict())


EDITS = [value for name, value in dict(globals()).items() if name.startswith("_") and not name.startswith("__")]


EDITS = [edit for edit in EDITS if getattr(edit, "__module__", None) == __name__]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__[1:])
def test_external_edit_has_same_effect_in_both_engines(edit):
    first, second = eager_and_compiled(adamw, parameters(shapes=SHAPES))
    run_steps((first, second), range(4))
    for params, optimizer in (first, second):
        edit(params, optimizer)
    run_steps((first, second), range(4, 8))
    assert "compiled" in explanation(second[1])
    assert_agree(first, second)


def test_all_edits_are_collected():
    assert len(EDITS) == 23


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(
    ("edit", "count"),
    [(_count_in_place, 50), (_count_replaced, 7), (_count_as_a_number, 7), (_count_by_data, 30)],
    ids=lambda edit: getattr(edit, "__name__", None),
)
def test_step_count_continues_from_edited_value(edit, count, engine):
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine=engine)
    run_steps([(params, optimizer)], range(4))
    edit(params, optimizer)
    run_steps([(params, optimizer)], range(4, 6))
    assert [int(optimizer.state[p]["step"]) for p in params] == [count + 2, 6, 6]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copy_continues_independently(copied):
    first, second = eager_and_compiled(adamw, parameters(shapes=SHAPES))
    run_steps((first, second), range(4))
    third = copied(second)
    run_steps((first, second), range(4, 8))
    untouched = snapshot(*second)
    run_steps((third,), range(4, 8))
    assert_agree(first, third)
    run_steps((third,), range(8, 10))
    assert is_equal(snapshot(*second), untouched)
    assert is_compiled(third[1])


def test_checkpoint_continues_bit_for_bit():
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine="compiled")
    run_steps([(params, optimizer)], range(4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    others = clone_leaves(params)
    other = adamw(others, engine="compiled")
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for pair in ((params, optimizer), (others, other)):
        run_steps([pair], range(4, 9))
    assert is_equal(snapshot(params, optimizer), snapshot(others, other))


def test_shrunk_weight_raises_and_writes_nothing():
    """The state keeps the old size, but memory beyond the weight must not be written."""
    for engine in ("eager", "compiled"):
        memory = torch.ones(9, dtype=torch.float64)
        p = torch.zeros(9, dtype=torch.float64, requires_grad=True)
        optimizer = adamw([p], engine=engine)
        run_steps([([p], optimizer)], range(2))
        p.grad, p.data = None, memory[:4]
        p.grad = torch.ones(4, dtype=torch.float64)
        with pytest.raises(dp.ArgumentError, match=r"must have its parameter.s shape"):
            optimizer.step()
        assert torch.equal(memory, torch.ones_like(memory))


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
def test_invalid_tensor_raises_before_anything_is_written(fault, steps, engine):
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine=engine)
    run_steps([(params, optimizer)], range(steps))
    set_gradients(params, steps)
    others = [params[0], params[2]]  # the memory of the second parameter may be released
    before = snapshot(others, optimizer), len(optimizer.state)
    fault(params, optimizer)
    with pytest.raises(dp.ArgumentError, match=f"AdamW: .*{REFUSED[fault]}"):
        optimizer.step()
    assert is_equal((snapshot(others, optimizer), len(optimizer.state)), before)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_weight_viewed_as_other_dtype_raises(engine):
    p = torch.ones(4, dtype=torch.float16, requires_grad=True)
    optimizer = adamw([p], engine=engine)
    run_steps([([p], optimizer)], range(2))
    before = p.detach().clone()
    set_gradients([p], 2)
    p.data = p.data.view(torch.bfloat16)
    with pytest.raises(dp.ArgumentError, match=r"dtype must be its parameter's, torch.bfloat16, got torch.float16"):
        optimizer.step()
    assert torch.equal(p.data.view(torch.float16), before)


def test_valid_step_after_rejected_step_succeeds():
    first, second = eager_and_compiled(adamw, parameters(shapes=SHAPES))
    run_steps((first, second), range(3))
    set_gradients(second[0], 99)
    second[0][1].grad = second[0][1].grad.to_sparse()
    with pytest.raises(dp.ArgumentError, match="dense"):
        second[1].step()
    run_steps((first, second), range(3, 6))
    assert_agree(first, second)
