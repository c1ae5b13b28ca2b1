"""What kernels can say: every function of the tracer against torch, what cannot be traced, and passes over memory.

Arithmetic that IEEE 754 rounds correctly must agree in every bit, for special values too. The other functions come from
two libraries (torch's vectorised ones and the C++ compiler's), each within an ulp: at most 2 between them. torch's own
square root is among those, as its vectorised form is not always correctly rounded.
"""

import math
import random
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from contracts.trajectories import distance, parameters, values
from engine_support import fates, is_compiled, march, shared_cache, twins  # noqa: F401

import dashpot as dp
from dashpot.engine.native import build, symbols
from dashpot.engine.native.kernel import Kernel
from dashpot.engine.native.phases import passes
from dashpot.engine.native.trace import Layout, trace
from dashpot.engine.program import AS_COMPUTED
from dashpot.stages.base import Clock

NAN, INF = math.nan, math.inf
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.7, 1e-3, 37.0, 1e-40, -1e-42, 2**-126, 1e30, -3e38, INF, -INF, NAN)
DTYPES = (torch.float32, torch.float64)

EXACT = {
    "abs": lambda a, b: a.abs(),
    "absolute": lambda a, b: torch.absolute(a),
    "neg": lambda a, b: torch.neg(a) + -b,
    "sign": lambda a, b: torch.sign(a),
    "sgn": lambda a, b: a.sgn(),
    "square": lambda a, b: a.square(),
    "reciprocal": lambda a, b: a.reciprocal(),
    "add": torch.add,
    "sub": lambda a, b: a.sub(b),
    "subtract": torch.subtract,
    "rsub": torch.rsub,
    "mul": torch.mul,
    "multiply": lambda a, b: a.multiply(b),
    "div": torch.div,
    "true_divide": lambda a, b: a.true_divide(b),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=1.0),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "max": torch.max,
    "min": lambda a, b: a.min(b),
    "clamp": lambda a, b: a.clamp(-0.7, 1.5),
    "clip": lambda a, b: torch.clip(a, min=b),
    "clamp_min": lambda a, b: a.clamp_min(b),
    "clamp_max": lambda a, b: a.clamp_max(b),
    "clamp both": lambda a, b: torch.clamp(a, min=b, max=b + 1),
    "relu": lambda a, b: a.relu(),
    "where": lambda a, b: torch.where(a > b, a, 2.0),
    "lt": lambda a, b: torch.lt(a, b).to(a.dtype),
    "le": lambda a, b: (a <= b).to(a.dtype),
    "gt": lambda a, b: a.gt(b).to(a.dtype),
    "ge": lambda a, b: (a >= 0.5) + 0 * b,
    "eq": lambda a, b: (a == b).to(a.dtype),
    "ne": lambda a, b: torch.ne(a, b) * torch.ones_like(a),
    "logical_and": lambda a, b: torch.logical_and(a > 0, b > 0).to(a.dtype),
    "logical_or": lambda a, b: torch.logical_or(a > 0, b > 0).to(a.dtype),
    "logical_not": lambda a, b: torch.logical_not(a > b).to(a.dtype),
    "bitwise_and": lambda a, b: torch.bitwise_and(a > 0, b > 0).to(a.dtype),
    "bitwise_or": lambda a, b: ((a > 0) | (b > 0)).to(a.dtype),
    "bitwise_xor": lambda a, b: ((a > 0) ^ (b > 0)).to(a.dtype),
    "not": lambda a, b: (~(a > b)).to(a.dtype),
    "isnan": lambda a, b: torch.isnan(a).to(a.dtype),
    "isinf": lambda a, b: a.isinf().to(a.dtype),
    "isfinite": lambda a, b: a.isfinite().to(a.dtype),
    "zeros_like": lambda a, b: torch.zeros_like(a) + b,
    "ones_like": lambda a, b: torch.ones_like(a) * b,
    "full_like": lambda a, b: torch.full_like(a, 0.1) * b,
    "to": lambda a, b: (a.to(torch.float32) * b.to(torch.float32)).to(a.dtype),
    "float": lambda a, b: a.float().to(a.dtype),
    "double": lambda a, b: (a.double() * 0.1).to(a.dtype),
    "clone": lambda a, b: a.clone() + b.detach().contiguous(),
    "floor": lambda a, b: a.floor(),
    "ceil": lambda a, b: a.ceil(),
    "trunc": lambda a, b: torch.trunc(a),
    "reflected": lambda a, b: (1 - a) + (2 / b) + 3 * a,
    "power 2": lambda a, b: a**2 + 2.0**0.5,
    "power 1": lambda a, b: a**1 + b**-1,
    "power 0": lambda a, b: a**0,
    "bfloat16": lambda a, b: a.to(torch.bfloat16).to(a.dtype),
    "truth beside numbers": lambda a, b: a * (b > 0) + (a > 0),
}
ROUNDED = {
    "sqrt": lambda a, b: torch.sqrt(a),
    "rsqrt": lambda a, b: a.rsqrt(),
    "exp": lambda a, b: a.exp(),
    "expm1": lambda a, b: torch.expm1(a),
    "log": lambda a, b: torch.log(a),
    "log1p": lambda a, b: a.log1p(),
    "log2": lambda a, b: a.log2(),
    "tanh": lambda a, b: a.tanh(),
    "sin": lambda a, b: torch.sin(a.clamp(-100, 100)),
    "cos": lambda a, b: torch.cos(a.clamp(-100, 100)),
    "erf": lambda a, b: a.erf(),
    "sigmoid": lambda a, b: torch.sigmoid(a),
    "pow": torch.pow,
    "power 3": lambda a, b: a**3,
    "power 0.5": lambda a, b: a**0.5,
    "power -0.5": lambda a, b: a**-0.5,
    "power of 2": lambda a, b: 2**a,
}
# Where two zeros are compared, torch leaves open which is the larger.
SIGN_OF_ZERO = ("maximum", "minimum", "max", "min", "clip", "clamp_min", "clamp_max", "clamp both", "relu")
INTEGERS = {  # float32 alone has an integer view
    "view": lambda a, b: (a.view(torch.int32) + 1).view(torch.float32),
    "bitwise_left_shift": lambda a, b: torch.bitwise_left_shift(a.view(torch.int32), 3).view(torch.float32),
    "bitwise_right_shift": lambda a, b: torch.bitwise_right_shift(a.view(torch.int32), 3).view(torch.float32),
    "integer bits": lambda a, b: ((a.view(torch.int32) & 0x7FFF) | (b.view(torch.int32) ^ 5)).view(torch.float32),
    "integer not": lambda a, b: (~a.view(torch.int32)).view(torch.float32),
    "integer product": lambda a, b: (a.view(torch.int32) * -1640531527 - b.view(torch.int32)).view(torch.float32),
    "integer order": lambda a, b: (a.view(torch.int32) < b.view(torch.int32)).to(torch.float32),
    "integer to float": lambda a, b: a.view(torch.int32).to(torch.float32),
    "shift left": lambda a, b: ((a.view(torch.int32) << 31) >> 16).to(torch.float32),
}
FUSED = {  # sums in another order; multiply-adds that torch rounds once and a kernel twice
    "mean": lambda a, b: a.mean() * b,
    "sum": lambda a, b: torch.sum(a) + b,
    "norm": lambda a, b: b / a.norm(),
    "linalg_vector_norm": lambda a, b: b + torch.linalg.vector_norm(a),
    "vector_norm": lambda a, b: b - torch.linalg.vector_norm(a, 2, dtype=torch.float64).to(b.dtype),
    "mean in double": lambda a, b: b * a.mean(dtype=torch.float64).to(b.dtype),
    "lerp": lambda a, b: torch.lerp(a, b, 0.25) + a.lerp(b, 0.75) + torch.lerp(a, b, -2.0) + a.lerp(b, b),
    "add with alpha": lambda a, b: torch.add(a, b, alpha=0.3) - a.sub(b, alpha=3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "nested": lambda a, b: (a - a.mean()).square().mean().sqrt() * b + (b * a.mean()).mean(),
}


def stage_of(functions, suffix):
    """A stage that keeps the result of every function in a slot of its own."""

    @dataclass(frozen=True)
    class Tried(dp.Stage):
        label_: str = suffix

        @property
        def slots(self):
            return tuple(dp.elementwise(f"r{number}") for number in range(len(functions)))

        def apply(self, x, s, c, ctx):
            results = [function(x.g, x.w) for function in functions.values()]
            return x._replace(v=x.v * 0), type(s)(*results)

    return Tried()


def tried(functions, dtype, a, b, suffix):
    """What both engines computed of each function, by name."""
    found = []
    for engine in ("eager", "compiled"):
        p = b.clone().requires_grad_()
        optimizer = dp.SGM.from_recipe([p], dp.Recipe(stage_of(functions, suffix)), engine=engine)
        p.grad = a.clone()
        optimizer.step()
        if engine == "compiled":
            assert is_compiled(optimizer), fates(optimizer)
        state = optimizer.state[p]
        found.append([state[f"r{number}"] for number in range(len(functions))])
    return {name: pair for name, *pair in zip(functions, *found, strict=True)}


def grid(dtype):
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    a, b = torch.meshgrid(special, special, indexing="ij")
    return a.flatten(), b.flatten()


def ordered(x):
    """Integers in the order of floats, one apart for neighbours."""
    kind, sign = (torch.int32, 2**31) if x.dtype == torch.float32 else (torch.int64, 2**63)
    bits = x.contiguous().view(kind).to(torch.int64)
    return torch.where(bits < 0, -(bits & (sign - 1)), bits)


def assert_close_in_ulps(name, eager, compiled, ulps):
    assert torch.equal(torch.isnan(eager), torch.isnan(compiled)), name
    real = ~torch.isnan(eager)
    far = (ordered(eager) - ordered(compiled)).abs()[real] > ulps
    assert not far.any(), (name, eager[real][far][:5], compiled[real][far][:5])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_function_of_a_kernel_is_torchs(dtype):
    functions = {**EXACT, **ROUNDED, **(INTEGERS if dtype == torch.float32 else {})}
    for name, (eager, compiled) in tried(functions, dtype, *grid(dtype), "functions").items():
        assert_close_in_ulps(name, eager, compiled, 2 if name in ROUNDED else 0)
        if name not in (*ROUNDED, *SIGN_OF_ZERO):
            zero = eager == 0
            assert torch.equal(torch.signbit(eager[zero]), torch.signbit(compiled[zero])), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_and_fused_functions_of_a_kernel_are_torchs(dtype):
    """To some roundings of numbers near 10."""
    a, b = (p.detach() for p in parameters(dtype, shapes=((999,), (999,))))
    bound = 1e-5 if dtype == torch.float32 else 1e-13
    for name, (eager, compiled) in tried(FUSED, dtype, a, b, "reductions").items():
        assert distance([compiled], [eager]) < bound, name


def test_every_function_of_the_tracer_is_tried():
    assert symbols._FUNCTIONS.keys() - {"detach", "contiguous"} <= {*EXACT, *ROUNDED, *INTEGERS, *FUSED}


# ---- what cannot be traced ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class By(dp.Stage):
    """A stage that does what it is told."""

    function: object = None

    def apply(self, x, s, c, ctx):
        return x._replace(v=self.function(x, c, ctx)), s


def _decided(x, c, ctx):
    return x.v if x.v.sum() > 0 else -x.v


UNTRACEABLE = {
    "shape": (lambda x, c, ctx: x.v / x.v.shape[0], "Tensor.shape"),
    "numel": (lambda x, c, ctx: x.v / x.v.numel(), "Tensor.numel"),
    "item": (lambda x, c, ctx: x.v / (1 + x.v.abs().sum().item()), "Tensor.item"),
    "decision": (_decided, "a Python decision on a tensor's value"),
    "float": (lambda x, c, ctx: x.v / (1 + abs(float(x.v.sum()))), "a Python decision on a tensor's value"),
    "norm of order 1": (lambda x, c, ctx: x.v / x.v.norm(1), "a norm of order 1"),
    "unknown function": (lambda x, c, ctx: torch.atan(x.v), "torch.atan"),
    "unknown method": (lambda x, c, ctx: x.v.roll(1), "Tensor.roll"),
    "random": (lambda x, c, ctx: x.v + 0 * torch.rand_like(x.v), "torch.rand_like"),
    "random number": (lambda x, c, ctx: x.v * (1 + 0 * random.random()), None),
    "another tensor": (lambda x, c, ctx: x.v * torch.ones(()), "a Tensor beside a traced tensor"),
    "negative integer": (lambda x, c, ctx: (-x.v.float().view(torch.int32) * 0).to(x.v.dtype) + x.v, "neg of i32"),
    "index": (lambda x, c, ctx: x.v[..., :] * 1, "TypeError"),
    "sum over a dimension": (lambda x, c, ctx: x.v - x.v.sum(dim=0), "sum with these arguments"),
    "maximum over all": (lambda x, c, ctx: x.v / (1 + x.v.abs().max()), "max with these arguments"),
    "in place": (lambda x, c, ctx: x.v.clone().mul_(2), "Tensor.mul_"),
}


def by(function):
    return lambda params, **how: dp.SGM.from_recipe(params, dp.Recipe(dp.Filter(0.5), By(function)), **how)


@pytest.mark.parametrize("name", [name for name in UNTRACEABLE if name != "random number"])
def test_what_cannot_be_traced_goes_eager_and_the_reason_is_named(name):
    function, reason = UNTRACEABLE[name]
    first, second = twins(by(function), parameters(shapes=((3, 2), (4,))))
    march((first, second), range(4))
    assert f"eager: {reason}" in fates(second[1])
    assert "cannot be compiled" in fates(second[1])
    assert distance(second[0], values(first[0])) == 0


def test_a_random_number_is_not_written_into_a_kernel():
    """A kernel would use the one that was drawn while tracing, at every step."""
    p = torch.zeros(3, requires_grad=True)
    optimizer = by(lambda x, c, ctx: x.v * random.random())([p], engine="compiled", max_norm=1e9)
    moves = []
    for _ in range(5):
        before = p.detach().clone()
        p.grad = torch.ones(3)
        optimizer.step()
        moves.append((before - p.detach())[0].item())
    assert len(set(moves)) == 5
    assert "another one each time" in fates(optimizer)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_direction_of_another_shape_is_refused(engine):
    params = parameters(shapes=((4,),))
    optimizer = by(lambda x, c, ctx: x.v.reshape(2, 2))(params, engine=engine)
    before = values(params)
    with pytest.raises(dp.ArgumentError, match=r"By: the direction must keep the shape \(4,\), got \(2, 2\)"):
        march([(params, optimizer)], range(1))
    assert distance(params, before) == 0


def test_an_error_in_a_stage_is_named_whatever_the_engine():
    for engine in ("eager", "compiled"):
        params = parameters()
        optimizer = by(lambda x, c, ctx: 1 / 0)(params, engine=engine)
        with pytest.raises(dp.ArgumentError, match=r"By: apply raised ZeroDivisionError \(.*, line \d+\)") as caught:
            march([(params, optimizer)], range(1))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


# ---- numbers of a stage are never written into a kernel -------------------------------------------------------------


@dataclass(frozen=True)
class FromItself(dp.Stage):
    beta: float = 0.5

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.beta), s


@dataclass(frozen=True)
class Derived(dp.Stage):
    """Keeps a number that follows from its setting."""

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


@pytest.mark.parametrize("kind", [FromItself, Derived, ByProperty, ByScalars, Branching])
def test_no_kernel_is_stale_after_a_setting_changed(kind):
    for beta in (0.5, 0.75, 0.25):
        first, second = twins(
            lambda ps, beta=beta, **how: dp.SGM.from_recipe(ps, dp.Recipe(dp.Filter(0.5), kind(beta), lr=0.1), **how),
            parameters(),
        )
        march((first, second), range(3))
        assert distance(second[0], values(first[0])) < 1e-12, beta
    assert is_compiled(second[1]) is (kind not in (Derived, Branching)), fates(second[1])


@dataclass(frozen=True)
class Changing(dp.Stage):
    """Other scalars at the first step than later."""

    def scalars(self, clock):
        return {"a": 1.0, "b": 2.0} if clock.t == 1 else {"b": 2.0, "a": 1.0, "c": 0.5}

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.a), s


def test_scalars_that_change_their_names_are_refused_before_anything_is_read():
    params = parameters()
    optimizer = dp.SGM.from_recipe(params, dp.Recipe(Changing(), lr=0.1), engine="compiled")
    march([(params, optimizer)], range(1))
    assert is_compiled(optimizer)
    before = values(params)
    with pytest.raises(dp.ArgumentError, match=r"Changing: .* the same scalars at every step, a, b; got b, a, c"):
        march([(params, optimizer)], range(1, 2))
    assert distance(params, before) == 0


@dataclass(frozen=True)
class Worded(dp.Stage):
    """A scalar that is no number."""

    beta: float = 0.5

    def scalars(self, clock):
        return {"beta": self.beta, "how": "fast", "limit": None}

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.beta if c.limit is None else x.v * 0), s


@dataclass(frozen=True)
class Listing(dp.Stage):
    """A setting without a hash."""

    beta: float = 0.5
    weights: list = field(default_factory=lambda: [1.0, 2.0])

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.weights[1]), s


@pytest.mark.parametrize(("kind", "reason"), [(Worded, "Worded.scalars: how='fast'"), (Listing, "unhashable")])
def test_strange_settings_go_eager(kind, reason):
    first, second = twins(
        lambda ps, **how: dp.SGM.from_recipe(ps, dp.Recipe(dp.Filter(0.5), kind(), lr=0.1), **how), parameters()
    )
    march((first, second), range(3))
    assert distance(second[0], values(first[0])) == 0
    assert reason in fates(second[1])


def test_stages_of_one_name_share_no_kernel():
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
    found = passes(trace(recipe.lines, recipe.slots, AS_COMPUTED, layout, Clock(1, 0.1)))
    return len(found), Kernel(recipe, AS_COMPUTED, layout).bytes_per_element


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
def test_passes_over_memory_and_bytes_for_each_element(name):
    recipe, count, size = PLANS[name]
    assert plan_of(recipe) == (count, size)


def test_explain_engine_says_the_bytes():
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine="compiled")
    march([(params, optimizer)], range(1))
    assert fates(optimizer) == ("group 0: 3 tensors, 11 elements, float32: compiled, 28 bytes moved for each element")


def test_an_array_is_not_overwritten_before_the_last_pass_that_reads_it():
    """The memory is needed, as it was, after the mean of something that depends on its new value."""

    @dataclass(frozen=True)
    class Late(dp.Stage):
        slots = (dp.elementwise("memory"), dp.per_tensor("level"))

        def apply(self, x, s, c, ctx):
            memory = s.memory * 0.5 + x.v
            level = ctx.mean(memory)
            spread = ctx.mean((memory - level).abs())
            return x._replace(v=x.v / (1 + spread) + s.memory), s._replace(memory=memory, level=level + spread)

    first, second = twins(
        lambda ps, **how: dp.SGM.from_recipe(ps, dp.Recipe(Late(), lr=0.1), **how),
        parameters(shapes=((3, 2), (20000,), (70000,))),
    )
    march((first, second), range(5))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < 1e-12
    assert plan_of(dp.Recipe(Late())) == (3, 36)


def test_nothing_warns_where_everything_can_be_compiled():
    before = build.compilations()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        march([(params := parameters(), dp.SGD(params, lr=0.1, engine="compiled"))], range(2))
    assert build.compilations() <= before + 1
