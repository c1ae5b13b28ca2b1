"""Invalid custom stages raise an error that names the stage before anything is written, in both engines."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from engine_support import is_equal, snapshot

import dashpot as dp
from dashpot.engine import dry_run

pytestmark = pytest.mark.needs_compiler

ENGINES = ("eager", "compiled")
SLOTS = dp.elementwise("memory"), dp.per_tensor("level")


def named(name, function):
    """Give a function the name of a method, including the name in tracebacks."""
    if function is not None:
        function.__name__, function.__code__ = name, function.__code__.replace(co_name=name)
    return function


def stage(apply, *, name="Mine", scalars=None, observe=None, slots=SLOTS):
    """Return a stage with the given methods and the settings `n: int` and `beta: float`."""
    methods = {key: named(key, given) for key, given in (("apply", apply), ("scalars", scalars), ("observe", observe))}
    body = {key: method for key, method in methods.items() if method is not None}
    body |= {"__annotations__": {"beta": float, "n": int}, "beta": 0.5, "n": 2, "slots": slots}
    body |= {"__module__": __name__, "observes": observe is not None}
    return dataclass(frozen=True)(type(name, (dp.Stage,), body))()


def _assigns_to_itself(mine, x, s):
    mine.n = 3
    return x, s


def _assigns(x, s):
    x.v = x.v * 2
    return x, s


def _assigns_slot(x, s):
    s.memory = x.v
    return x, s


def _in_place(x, s):
    x.g.mul_(2)
    return x, s


def _in_place_out(x, s):
    torch.mul(x.w, 2, out=x.w)
    return x, s


def _in_place_data(x, s):
    x.g.data.mul_(2)
    return x, s


def _in_place_numpy(x, s):
    x.g.numpy()[...] = 0
    return x, s


def _in_place_index(x, s):
    x.v[0] = 0
    return x, s


def _in_place_slot(x, s):
    s.memory.add_(x.v)
    return x, s


def _in_place_detached(x, s):
    x.w.detach().zero_()
    return x, s


PAIR = r"apply must return the pair \(x, s\)"
INVALID_APPLY = {
    "only x": (lambda self, x, s, c, ctx: x, PAIR + ", got x alone"),
    "nothing": (lambda self, x, s, c, ctx: None, PAIR + ", got None"),
    "a tensor": (lambda self, x, s, c, ctx: x.v, PAIR + r", got a tensor of shape \(4, 3\)"),
    "v and s": (lambda self, x, s, c, ctx: (x.v, s), PAIR + ", got a tuple of 2"),
    "swapped": (lambda self, x, s, c, ctx: (s, x), PAIR + ", got a tuple of 2"),
    "three": (lambda self, x, s, c, ctx: (x, s, c), PAIR + ", got a tuple of 3"),
    "x twice": (lambda self, x, s, c, ctx: (x, x), PAIR + " with s a tuple of its 2 slots"),
    "one slot": (lambda self, x, s, c, ctx: (x, (s.memory,)), PAIR + " with s a tuple of its 2 slots"),
    "slots as a dict": (lambda self, x, s, c, ctx: (x, s._asdict()), PAIR + " with s a tuple of its 2 slots"),
    "int through c": (
        lambda self, x, s, c, ctx: (x._replace(v=x.v * c.n), s),
        r"c\.n is not a scalar; annotate n float, or read self\.n",
    ),
    "no such scalar": (
        lambda self, x, s, c, ctx: (x._replace(v=x.v * c.beta2), s),
        "c has no scalar 'beta2', only beta; add a field beta2: float",
    ),
    "undeclared slot read": (
        lambda self, x, s, c, ctx: (x._replace(v=s.average), s),
        "s has no slot 'average', only memory, level; declare it in slots",
    ),
    "undeclared slot replaced": (
        lambda self, x, s, c, ctx: (x, s._replace(average=x.v)),
        "s has no slot 'average', only memory, level; declare it in slots",
    ),
    "no such field": (
        lambda self, x, s, c, ctx: (x._replace(v=x.grad), s),
        "x has no field 'grad'; it has w, g, d, v, rate, shrink",
    ),
    "no such field replaced": (lambda self, x, s, c, ctx: (x._replace(update=x.v), s), "x has no field 'update'"),
    "vector in a single": (
        lambda self, x, s, c, ctx: (x, s._replace(level=x.v)),
        r"per_tensor slot level must be a 0-d tensor, got a tensor of shape \(4, 3\)",
    ),
    "one-element single": (
        lambda self, x, s, c, ctx: (x, s._replace(level=x.v.mean(dim=(0, 1), keepdim=True))),
        r"per_tensor slot level must be a 0-d tensor, got a tensor of shape \(1, 1\)",
    ),
    "single in a vector": (
        lambda self, x, s, c, ctx: (x, s._replace(memory=ctx.mean(x.v))),
        r"elementwise slot memory must be a tensor of the parameter's shape \(4, 3\), got a tensor of shape \(\)",
    ),
    "rows in a vector": (
        lambda self, x, s, c, ctx: (x, s._replace(memory=x.v.sum(dim=1))),
        r"elementwise slot memory must be .* got a tensor of shape \(4,\)",
    ),
    "a number in a slot": (
        lambda self, x, s, c, ctx: (x, s._replace(level=1.0)),
        r"per_tensor slot level must be a 0-d tensor, got 1\.0",
    ),
    "direction of one number": (
        lambda self, x, s, c, ctx: (x._replace(v=ctx.mean(x.v)), s),
        r"the direction must keep the shape \(4, 3\), got \(\)",
    ),
    "no direction": (lambda self, x, s, c, ctx: (x._replace(v=None), s), "the direction must keep .* got None"),
    "rate of another shape": (
        lambda self, x, s, c, ctx: (x._replace(rate=x.v.sum(dim=1)), s),
        r"x\.rate must be a number or fit the shape \(4, 3\), got a tensor of shape \(4,\)",
    ),
    "broken": (
        lambda self, x, s, c, ctx: (x._replace(v=x.v.reshape(5)), s),
        r"apply raised RuntimeError \(test_engine_dry_run.py, line \d+\) for a parameter of shape \(4, 3\): shape",
    ),
    "wrong signature": (lambda self, x, s, c: (x, s), "apply has the wrong signature, .*positional"),
    "no self": (lambda x, s, c, ctx: (x, s), "apply has the wrong signature, .*positional"),
    "on self": (
        lambda self, x, s, c, ctx: _assigns_to_itself(self, x, s),
        r"apply assigns to self \(.*; store changing values",
    ),
    "on x": (lambda self, x, s, c, ctx: _assigns(x, s), "v is assigned to, .*; use _replace"),
    "on s": (lambda self, x, s, c, ctx: _assigns_slot(x, s), "memory is assigned to, .*; use _replace"),
    "another reduction": (
        lambda self, x, s, c, ctx: (x, s._replace(level=ctx.max(x.v))),
        "ctx has no 'max'; it has mean",
    ),
    "in place on g": (lambda self, x, s, c, ctx: _in_place(x, s), r"apply changes x\.g and x\.v in place"),
    "out=": (lambda self, x, s, c, ctx: _in_place_out(x, s), r"apply changes x\.w in place"),
    "in place on data": (lambda self, x, s, c, ctx: _in_place_data(x, s), r"apply changes x\.g and x\.v in place"),
    "in place in numpy": (lambda self, x, s, c, ctx: _in_place_numpy(x, s), r"apply changes x\.g and x\.v in place"),
    "assigned index": (lambda self, x, s, c, ctx: _in_place_index(x, s), r"apply changes x\.g and x\.v in place"),
    "in place on a slot": (lambda self, x, s, c, ctx: _in_place_slot(x, s), r"apply changes s\.memory in place"),
    "in place on a view": (lambda self, x, s, c, ctx: _in_place_detached(x, s), r"apply changes x\.w in place"),
}


def check_rejected(params, grads, made, engine, message):
    """Check that a step raises an error with `message` and changes nothing."""
    optimizer = dp.SGM.from_recipe(params, dp.Recipe(made, dp.Filter(0.5), lr=0.1), engine=engine)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    before = snapshot(params, optimizer)
    with pytest.raises(dp.ArgumentError, match=message) as caught:
        optimizer.step()
    assert str(caught.value).startswith("Mine: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert is_equal(snapshot(params, optimizer), before)
    assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True))
    assert not any(optimizer.state.values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", INVALID_APPLY)
def test_invalid_apply_raises_before_anything_is_written(name, engine):
    apply, message = INVALID_APPLY[name]
    params = [torch.randn(4, 3, requires_grad=True)]
    check_rejected(params, [torch.randn(4, 3)], stage(apply), engine, message)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (300, 200)])
def test_gradients_of_any_shape_and_dtype_stay_unchanged(shape, dtype, engine):
    made = stage(lambda self, x, s, c, ctx: (x._replace(v=x.v.mul_(2)), s))
    p = torch.randn(shape, dtype=dtype, requires_grad=True)
    check_rejected([p], [torch.randn(shape, dtype=dtype)], made, engine, r"apply changes x\.g and x\.v in place")


@pytest.mark.parametrize("engine", ENGINES)
def test_error_for_one_shape_leaves_other_parameters_unchanged(engine):
    """The stage fails for the second parameter; the first is not updated either."""
    made = stage(lambda self, x, s, c, ctx: (x._replace(v=x.v.reshape(-1, 4).reshape(x.v.shape)), s))
    params = [torch.randn(shape, requires_grad=True) for shape in ((8,), (7,))]
    check_rejected(
        params, [torch.randn(8), torch.randn(7)], made, engine, r"parameter of shape \(7,\): shape '\[-1, 4\]'"
    )


INVALID_SCALARS = {
    "none": (lambda self, clock: None, "scalars must return a mapping from names to numbers, got None"),
    "broken": (lambda self, clock: {"beta": self.beta / 0}, r"scalars raised ZeroDivisionError \(test_engine"),
    "left out": (lambda self, clock: {"t": clock.t}, r"scalars does not return 'beta'; return it, or read self\.beta"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", INVALID_SCALARS)
def test_invalid_scalars_raise(name, engine):
    scalars, message = INVALID_SCALARS[name]
    made = stage(lambda self, x, s, c, ctx: (x._replace(v=x.v * c.beta), s), scalars=scalars)
    check_rejected([torch.ones(3, requires_grad=True)], [torch.ones(3)], made, engine, message)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_exception_at_later_step_is_converted(engine):
    """The stage raises for the second parameter after the first was updated; both are restored."""

    def apply(self, x, s, c, ctx):
        level = s.level + 1
        if level > 2 and x.v.numel() == 2:
            raise LookupError("three steps")
        return x._replace(v=x.v * 2), s._replace(level=level)

    params = [torch.ones(size, requires_grad=True) for size in (3, 2)]
    optimizer = dp.SGM.from_recipe(params, dp.Recipe(stage(apply), lr=0.1), engine=engine)
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(2):
        optimizer.step()
    before = snapshot(params, optimizer)
    message = (
        r"^Mine: apply raised LookupError \(test_engine_dry_run.py, line \d+\) for .* shape \(2,\): three steps\.$"
    )
    with pytest.raises(dp.ArgumentError, match=message) as caught:
        optimizer.step()
    assert isinstance(caught.value.__cause__, LookupError)
    assert is_equal(snapshot(params, optimizer), before)


def test_out_of_memory_error_is_not_converted():
    def apply(self, x, s, c, ctx):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        dp.functional.init(dp.Recipe(stage(apply)), torch.ones(2))


INVALID_OBSERVE = {
    "nothing": (lambda self, o, s, c, ctx: None, "observe must return s with s a tuple of its 2 slots, got None"),
    "undeclared": (lambda self, o, s, c, ctx: s._replace(hess=o.hv), "s has no slot 'hess'"),
    "shape": (lambda self, o, s, c, ctx: s._replace(level=o.hv), "per_tensor slot level must be a 0-d tensor"),
    "no such field": (lambda self, o, s, c, ctx: s._replace(memory=o.g), "o has no field 'g'; it has v, hv, dims"),
    "in place": (lambda self, o, s, c, ctx: s._replace(memory=o.hv.abs_()), r"observe changes o\.hv in place"),
    "broken": (lambda self, o, s, c, ctx: s[7], r"observe raised IndexError"),
}


@pytest.mark.parametrize("name", INVALID_OBSERVE)
def test_invalid_observe_raises(name):
    observe, message = INVALID_OBSERVE[name]
    made = stage(lambda self, x, s, c, ctx: (x, s), observe=observe)
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(dp.ArgumentError, match=r"^Mine: " + message):
        dp.functional.init(dp.Recipe(made), w)
    opt = dp.SGM([w], lr=0.1, rate=made)
    opt.backward((w * w).sum())
    with pytest.raises(dp.ArgumentError, match=r"^Mine: " + message):
        opt.step()
    assert w.tolist() == [1.0] * 3


def test_functional_init_runs_dry_run():
    for apply, message in INVALID_APPLY.values():
        with pytest.raises(dp.ArgumentError, match=r"^Mine: " + message):
            dp.functional.init(dp.Recipe(stage(apply)), torch.ones(4, 3))


def counting(calls, change=lambda v: v):
    def apply(self, x, s, c, ctx):
        if isinstance(x.w, torch.Tensor):
            calls.append(tuple(x.w.shape))
        return x._replace(v=change(x.v)), s

    return dp.Recipe(stage(apply))


def test_dry_run_is_cached_by_structure_and_dtype():
    calls = []
    recipe = counting(calls)
    for shape in ((2, 3), (7,), (5000, 4000)):
        dry_run.dry_run_stages(recipe, torch.ones(shape))
        dry_run.dry_run_stages(recipe.with_settings(beta=0.75), torch.zeros(shape))
    assert calls == [(2, 3)]
    dry_run.dry_run_stages(recipe, torch.ones(2, dtype=torch.float64))
    assert calls == [(2, 3), (2,)]


def test_shape_dependent_stage_runs_once_per_shape_cropped():
    calls = []
    recipe = counting(calls, lambda v: v.reshape(v.shape))
    for shape in ((2, 3), (2, 3), (7,), (5000, 4000)):
        dry_run.dry_run_stages(recipe, torch.ones(shape))
    assert calls[:2] == [(2, 3), (7,)]
    assert len(calls) == 3
    assert torch.Size(calls[2]).numel() <= 1 << 14


def test_dry_run_preserves_random_state():
    recipe = counting([], lambda v: v * torch.rand(()) * random.random() * np.random.rand())
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    dry_run.dry_run_stages(recipe, torch.ones(2))
    assert (torch.rand(()), random.random(), np.random.rand()) == expected


def test_stage_that_fails_cropped_runs_on_full_shape():
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v.reshape(700, 50).reshape(x.v.shape)), s

    dry_run.dry_run_stages(dp.Recipe(stage(apply)), torch.ones(350, 100))


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_valid_stage_idioms_pass():
    """Examples: lists as settings, defaults for missing scalars, caught errors, and changing new tensors in place."""

    def apply(self, x, s, c, ctx):
        assert not hasattr(c, "absent")
        v = x.v * getattr(c, "limit", 2.0)
        v.mul_(0.5).add_(s.memory)
        try:
            v = v / s.nothing
        except AttributeError:
            v = v * 1
        return x._replace(v=v, d=x.d * 2, rate=ctx.mean(v), shrink=0.1), type(s)(x.v > 0, ctx.norm(v))

    made = stage(apply)
    for engine in ENGINES:
        p = torch.ones(4, requires_grad=True)
        optimizer = dp.SGM.from_recipe([p], dp.Recipe(made, lr=torch.tensor(0.1)), engine=engine)
        p.grad = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])
        optimizer.step()
        assert optimizer.state[p]["memory"].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_in_place_change_of_tensor_setting_raises():
    beta = torch.tensor(0.5)

    @dataclass(frozen=True)
    class Mine(dp.Stage):
        beta: float = 0.5

        def apply(self, x, s, c, ctx):
            return x._replace(v=x.v * c.beta.mul_(2)), s

    with pytest.raises(dp.ArgumentError, match=r"Mine: apply changes c\.beta in place"):
        dp.functional.init(dp.Recipe(Mine(beta)), torch.ones(2))
    assert beta.item() == 0.5


def test_functional_init_works_under_vmap_and_compile():
    recipe = dp.Recipe(stage(lambda self, x, s, c, ctx: (x._replace(v=x.v * c.beta), s)), lr=0.1)

    def trained(w, beta):
        now = recipe.with_settings(beta=beta)
        return dp.functional.update(now, w, w, dp.functional.init(now, w), 0)[0]

    w, betas = torch.ones(3, 2), torch.tensor([0.5, 0.25, 0.0])
    assert torch.allclose(torch.func.vmap(trained)(w, betas), w * (1 - 0.1 * betas[:, None]))
