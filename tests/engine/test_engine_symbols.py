"""Tracing: untraceable operations, settings that remain variable in a kernel, and passes over memory."""

import math
import random
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from contracts.trajectories import distance, parameters, values
from engine_support import eager_and_compiled, explanation, is_compiled, run_steps

import dashpot as dp
from dashpot.engine.native import build
from dashpot.engine.native.kernel import Kernel
from dashpot.engine.native.passes import passes
from dashpot.engine.native.trace import Layout, trace
from dashpot.engine.program import DEFAULT_FORMAT

pytestmark = pytest.mark.needs_compiler

# ---- untraceable operations -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class By(dp.Stage):
    """A stage that applies a function."""

    function: object = None
    beta: float = 0.25

    def apply(self, x, s, c, ctx):
        return x._replace(v=self.function(x, c, ctx)), s


def _assign(v):
    v[v < 0] = 0
    return v


def _branch(x, c, ctx):
    return x.v if x.v.sum() > 0 else -x.v


UNTRACEABLE = {
    "shape": (lambda x, c, ctx: x.v / x.v.shape[0], "Tensor.shape"),
    "numel": (lambda x, c, ctx: x.v / x.v.numel(), "Tensor.numel"),
    "item": (lambda x, c, ctx: x.v / (1 + x.v.abs().sum().item()), "Tensor.item"),
    "decision": (_branch, "a Python branch on a tensor's value"),
    "float": (lambda x, c, ctx: x.v / (1 + abs(float(x.v.sum()))), "a Python conversion of a tensor's value"),
    "decision on a scalar": (lambda x, c, ctx: x.v if c.beta > 0 else -x.v, "a Python branch on a scalar"),
    "scalar in Python": (lambda x, c, ctx: x.v * math.sqrt(c.beta), "a Python conversion of a scalar"),
    "norm of order 1": (lambda x, c, ctx: x.v / x.v.norm(1), "a norm of order 1"),
    "unknown function": (lambda x, c, ctx: torch.digamma(x.v), "torch.digamma"),
    "unknown option": (lambda x, c, ctx: x.v.round(decimals=3), "round with these arguments"),
    "dimensions": (lambda x, c, ctx: x.v / x.v.dim(), "Tensor.dim"),
    "length": (lambda x, c, ctx: x.v / len(x.v), "the length of a tensor"),
    "new tensor": (lambda x, c, ctx: x.v + x.v.new_zeros(()), "Tensor.new_zeros"),
    "other dtype": (lambda x, c, ctx: (x.v * 0).long() + x.v, "Tensor.long"),
    "sum of booleans": (lambda x, c, ctx: x.v / (1 + (x.v > 0).sum()), "sum of a vector of bool"),
    "floor division": (lambda x, c, ctx: x.v + 0 * (x.v // 1.0), "floor division"),
    "unknown method": (lambda x, c, ctx: x.v.roll(1), "Tensor.roll"),
    "random": (lambda x, c, ctx: x.v + 0 * torch.rand_like(x.v), "torch.rand_like"),
    "random number": (lambda x, c, ctx: x.v * (1 + 0 * random.random()), None),
    "other tensor": (lambda x, c, ctx: x.v * torch.ones(()), "a Tensor combined with a traced tensor"),
    "negative integer": (lambda x, c, ctx: (-x.v.float().view(torch.int32) * 0).to(x.v.dtype) + x.v, "neg of i32"),
    "index": (lambda x, c, ctx: x.v[..., :] * 1, "indexing a tensor"),
    "assignment": (lambda x, c, ctx: _assign(x.v * 1), "item assignment"),
    "sum over a dimension": (lambda x, c, ctx: x.v - x.v.sum(dim=0), "sum with these arguments"),
    "maximum over all": (lambda x, c, ctx: x.v / (1 + x.v.abs().max()), "max with these arguments"),
    "in place": (lambda x, c, ctx: x.v.clone().mul_(2), "Tensor.mul_"),
}


def by(function):
    return lambda params, **how: dp.SGM.from_recipe(params, dp.Recipe(dp.Filter(0.5), By(function)), **how)


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
@pytest.mark.parametrize("name", [name for name in UNTRACEABLE if name != "random number"])
def test_untraceable_stage_runs_eagerly_with_reason(name):
    function, reason = UNTRACEABLE[name]
    first, second = eager_and_compiled(by(function), parameters(shapes=((3, 2), (4,))))
    run_steps((first, second), range(4))
    assert f"eager: By: {reason}" in explanation(second[1])
    assert "cannot be compiled" in explanation(second[1])
    assert distance(second[0], values(first[0])) == 0


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_random_constant_is_not_compiled():
    """A kernel would repeat the random number that was drawn during tracing."""
    p = torch.zeros(3, requires_grad=True)
    optimizer = by(lambda x, c, ctx: x.v * random.random())([p], engine="compiled", max_norm=1e9)
    moves = []
    for _ in range(5):
        before = p.detach().clone()
        p.grad = torch.ones(3)
        optimizer.step()
        moves.append((before - p.detach())[0].item())
    assert len(set(moves)) == 5
    assert "a non-deterministic constant" in explanation(optimizer)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_direction_of_different_shape_raises(engine):
    params = parameters(shapes=((4,),))
    optimizer = by(lambda x, c, ctx: x.v.reshape(2, 2))(params, engine=engine)
    before = values(params)
    with pytest.raises(dp.ArgumentError, match=r"By: the direction must keep the shape \(4,\), got \(2, 2\)"):
        run_steps([(params, optimizer)], range(1))
    assert distance(params, before) == 0


def test_error_in_stage_names_it_on_both_engines():
    for engine in ("eager", "compiled"):
        params = parameters()
        optimizer = by(lambda x, c, ctx: 1 / 0)(params, engine=engine)
        with pytest.raises(dp.ArgumentError, match=r"By: apply raised ZeroDivisionError \(.*, line \d+\)") as caught:
            run_steps([(params, optimizer)], range(1))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


# ---- settings stay variable -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FromItself(dp.Stage):
    beta: float = 0.5

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.beta), s


@dataclass(frozen=True)
class Derived(dp.Stage):
    """A stage that stores a number derived from its setting."""

    beta: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "rest", 1 - self.beta)

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.rest), s


@dataclass(frozen=True)
class ByProperty(dp.Stage):
    beta: float = 0.5

    @property
    def rest(self):
        return 1 - self.beta

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.rest), s


@dataclass(frozen=True)
class ByScalars(dp.Stage):
    beta: float = 0.5

    def scalars(self, clock):
        return {"a": self.beta**clock.t, "b": clock.t * clock.lr, "c": 1 / clock.lr}

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.a + c.b - c.c), s


@dataclass(frozen=True)
class Branching(dp.Stage):
    beta: float = 0.5

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * 2 if c.beta > 0.6 else x.v), s


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
@pytest.mark.parametrize("kind", [FromItself, Derived, ByProperty, ByScalars, Branching])
def test_changed_setting_reaches_kernel(kind):
    for beta in (0.5, 0.75, 0.25):
        first, second = eager_and_compiled(
            lambda ps, beta=beta, **how: dp.SGM.from_recipe(ps, dp.Recipe(dp.Filter(0.5), kind(beta), lr=0.1), **how),
            parameters(),
        )
        run_steps((first, second), range(3))
        assert distance(second[0], values(first[0])) < 1e-12, beta
    assert is_compiled(second[1]) is (kind not in (Derived, Branching)), explanation(second[1])


@dataclass(frozen=True)
class Changing(dp.Stage):
    """A stage that returns different scalars after the first step."""

    def scalars(self, clock):
        return {"a": 1.0, "b": 2.0} if clock.t == 1 else {"b": 2.0, "a": 1.0, "c": 0.5}

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.a), s


def test_changed_scalar_names_raise_before_any_write():
    params = parameters()
    optimizer = dp.SGM.from_recipe(params, dp.Recipe(Changing(), lr=0.1), engine="compiled")
    run_steps([(params, optimizer)], range(1))
    assert is_compiled(optimizer)
    before = values(params)
    with pytest.raises(dp.ArgumentError, match=r"Changing: .* the same names at every step, a, b; got b, a, c"):
        run_steps([(params, optimizer)], range(1, 2))
    assert distance(params, before) == 0


@dataclass(frozen=True)
class TextScalar(dp.Stage):
    """A stage with a scalar that is not a number."""

    beta: float = 0.5

    def scalars(self, clock):
        return {"beta": self.beta, "how": "fast", "limit": None}

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.beta if c.limit is None else x.v * 0), s


@dataclass(frozen=True)
class Listing(dp.Stage):
    """A stage with an unhashable setting."""

    beta: float = 0.5
    weights: list = field(default_factory=lambda: [1.0, 2.0])

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.weights[1]), s


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
@pytest.mark.parametrize(("kind", "reason"), [(TextScalar, "TextScalar.scalars: how='fast'"), (Listing, "unhashable")])
def test_non_numeric_settings_run_eagerly(kind, reason):
    first, second = eager_and_compiled(
        lambda ps, **how: dp.SGM.from_recipe(ps, dp.Recipe(dp.Filter(0.5), kind(), lr=0.1), **how), parameters()
    )
    run_steps((first, second), range(3))
    assert distance(second[0], values(first[0])) == 0
    assert reason in explanation(second[1])


def test_stages_of_equal_name_have_separate_kernels():
    def stage(factor):
        def apply(self, x, s, c, ctx):
            return x._replace(v=x.v * factor), s

        made = type("Namesake", (dp.Stage,), {"apply": apply, "__module__": f"module_{factor}"})
        return dataclass(frozen=True)(made)()

    moved = []
    for factor in (1.0, 3.0):
        p = torch.zeros(2, requires_grad=True)
        optimizer = dp.SGM.from_recipe([p], dp.Recipe(stage(factor), lr=0.5), engine="compiled")
        p.grad = torch.ones(2)
        optimizer.step()
        assert is_compiled(optimizer)
        moved.append(p.tolist())
    assert moved == [[-0.5, -0.5], [-1.5, -1.5]]


# ---- passes ---------------------------------------------------------------------------------------------------------


def plan_of(recipe, weight=torch.float32):
    slots = tuple((slot.key, torch.float32) for slot in recipe.slots)
    layout = Layout(torch.float32, weight, weight, slots)
    found = passes(trace(recipe.bound_stages, recipe.slots, DEFAULT_FORMAT, layout))
    return len(found), Kernel(recipe, DEFAULT_FORMAT, layout).bytes_per_element


def autosgm(numerator):
    return dp.AutoSGM.recipe_for(numerator=numerator)


PLANS = {
    "SGD": (dp.SGD.recipe_for(), 1, 12),
    "SGD momentum": (dp.SGD.recipe_for(momentum=0.9), 1, 20),
    "AdamW": (dp.AdamW.recipe_for(), 1, 28),
    "AdamW without decay": (dp.AdamW.recipe_for(weight_decay=0.0), 1, 28),
    "NAdam": (dp.NAdam.recipe_for(), 1, 28),
    "AutoSGM 1": (autosgm(1), 2, 60),
    "AutoSGM 2": (autosgm(2), 2, 68),
    "AutoSGM 3": (autosgm(3), 2, 44),
    "clip by the weight": (dp.Recipe(dp.AdaptiveClip(0.1), dp.Filter(0.9)), 2, 28),
    "Huber clip": (dp.Recipe(dp.HuberClip()), 3, 20),
}


@pytest.mark.parametrize("name", PLANS)
def test_passes_and_bytes_per_element(name):
    recipe, count, size = PLANS[name]
    assert plan_of(recipe) == (count, size)


def test_explain_engine_reports_bytes():
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine="compiled")
    run_steps([(params, optimizer)], range(1))
    assert explanation(optimizer) == ("group 0: 3 tensors, 11 elements, float32: compiled, 28 bytes moved per element")


def test_array_is_written_after_last_pass_that_reads_it():
    """The old value of the slot is read after the mean of its new value."""

    @dataclass(frozen=True)
    class Late(dp.Stage):
        slots = (dp.elementwise("memory"), dp.per_tensor("level"))

        def apply(self, x, s, c, ctx):
            memory = s.memory * 0.5 + x.v
            level = ctx.mean(memory)
            spread = ctx.mean((memory - level).abs())
            return x._replace(v=x.v / (1 + spread) + s.memory), s._replace(memory=memory, level=level + spread)

    first, second = eager_and_compiled(
        lambda ps, **how: dp.SGM.from_recipe(ps, dp.Recipe(Late(), lr=0.1), **how),
        parameters(shapes=((3, 2), (20000,), (70000,))),
    )
    run_steps((first, second), range(5))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < 1e-12
    assert plan_of(dp.Recipe(Late())) == (3, 36)


def test_traceable_recipe_does_not_warn():
    before = build.compilations()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_steps([(params := parameters(), dp.SGD(params, lr=0.1, engine="compiled"))], range(2))
    assert build.compilations() <= before + 1
