"""Faults a review found, each as it was reproduced."""

from dataclasses import dataclass

import pytest
import torch
from engine_support import fates, shared_cache  # noqa: F401 - a fixture for every test here

import dashpot as dp
from dashpot.constraints import Scalar
from dashpot.engine.native import kernel
from dashpot.errors import ArgumentError

ENGINES = ("eager", "compiled")


@pytest.fixture(autouse=True)
def warned_anew(monkeypatch):
    monkeypatch.setattr(kernel, "_warned", set())


def path(stage, engine, gradients, lr=1.0, **options):
    """The weight after each step with the given gradients, and the optimizer."""
    w = torch.zeros(len(gradients[0]), dtype=torch.float64, requires_grad=True)
    optimizer = dp.SGM.from_recipe([w], dp.Recipe(*stage, lr=lr), engine=engine, **options)
    weights = []
    for g in gradients:
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        weights.append(w.tolist())
    return weights, optimizer


@dataclass(frozen=True)
class Delay(dp.Stage):
    """The direction of two steps ago: one slot moves into another."""

    slots = (dp.elementwise("last"), dp.elementwise("older"))

    def apply(self, x, s, c, ctx):
        return x._replace(v=s.older), s._replace(last=x.v, older=s.last)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    "options", [{"engine": "eager"}, {"engine": "compiled"}, {"engine": "eager", "capturable": True}]
)
def test_a_slot_may_move_into_another(options):
    options = dict(options)
    weights, _ = path([Delay()], options.pop("engine"), [[1.0], [10.0], [100.0], [1000.0]], **options)
    assert weights == [[0.0], [0.0], [-1.0], [-11.0]]


@dataclass(frozen=True)
class AsksForTensors(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * (x.d if isinstance(x.d, torch.Tensor) else 1.0)), s


@dataclass(frozen=True)
class AsksForNumbers(dp.Stage):
    alpha: Scalar = 0.5

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * (c.alpha if isinstance(c.alpha, float) else 7.0)), s


@dataclass(frozen=True)
class TriesShapes(dp.Stage):
    def apply(self, x, s, c, ctx):
        try:
            return x._replace(v=x.v * x.v.shape[0]), s
        except Exception:
            return x, s


@pytest.mark.needs_compiler
@pytest.mark.parametrize("stage", [AsksForTensors(), AsksForNumbers()], ids=lambda s: type(s).__name__)
def test_a_kernel_that_went_another_way_than_its_stage_is_not_used(stage):
    """A stage that asks for types: the kernel is compared with the eager engine before its first use."""
    gradients = [[1.0, -2.0], [0.5, 3.0]]
    eager, _ = path([dp.SecondMoment(), stage], "eager", gradients)
    with pytest.warns(RuntimeWarning, match="A kernel disagrees with the stages of its recipe"):
        compiled, _ = path([dp.SecondMoment(), stage], "compiled", gradients)
    assert compiled == eager


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_a_stage_that_tries_shapes_goes_the_same_way_in_both_engines():
    (eager, _), (compiled, _) = (path([dp.SecondMoment(), TriesShapes()], e, [[1.0, -2.0]]) for e in ENGINES)
    assert compiled == eager


@dataclass(frozen=True)
class OutsideExponent(dp.Stage):
    exponent = torch.tensor(2.0)

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v.abs() ** self.exponent), s


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_a_tensor_from_outside_is_not_written_into_a_kernel():
    _, optimizer = path([OutsideExponent()], "compiled", [[1.0]])
    assert "cannot be compiled" in fates(optimizer)


@dataclass(frozen=True)
class Long(dp.Stage):
    def apply(self, x, s, c, ctx):
        v = x.v
        for _ in range(1200):
            v = v * 0.5 + 0.5 * x.g
        return x._replace(v=v), s


@pytest.mark.needs_compiler
def test_a_stage_of_a_thousand_operations_compiles():
    weights, _ = path([Long()], "compiled", [[1.0]])
    assert weights == [[-1.0]]


@dataclass(frozen=True)
class OneForAll(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=ctx.norm(x.v)), s


@dataclass(frozen=True)
class JustANumber(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=1.0), s


@pytest.mark.parametrize("stage", [OneForAll(), JustANumber()], ids=lambda stage: type(stage).__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_direction_of_another_shape_is_refused_by_both_engines(stage, engine):
    with pytest.raises(ArgumentError, match="direction must keep the shape"):
        path([stage], engine, [[1.0, 2.0]])


@pytest.mark.parametrize("engine", ENGINES)
def test_counts_stay_on_the_host_whatever_the_default_device(engine):
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    optimizer = dp.AdamW([w], engine=engine)
    torch.set_default_device("meta")
    try:
        for _ in range(2):
            optimizer.step()
    finally:
        torch.set_default_device(None)
    assert optimizer.state[w]["step"] == 2


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_norm_beyond_float32_still_clips(engine, capturable):
    w = torch.zeros(2, requires_grad=True)
    w.grad = torch.tensor([3e30, 4e30])
    optimizer = dp.SGD([w], lr=1.0, max_norm=1.0, engine=engine, capturable=capturable)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([-0.6, -0.8]))
    assert optimizer.last_grad_norm.item() == pytest.approx(5e30, rel=1e-6)  # float32 gradients


def test_set_options_of_an_option_fixed_at_construction_raises():
    optimizer = dp.SGD([torch.zeros(1, requires_grad=True)], max_norm=1.0)
    with pytest.raises(ArgumentError, match=r"SGD: set_options must be given max_norm, .*, got engine"):
        optimizer.set_options(engine="compiled")
    with pytest.raises(ArgumentError, match="SGD: max_norm must be"):
        optimizer.set_options(max_norm=-1.0)
    optimizer.set_options(max_norm=0.5)
    assert optimizer.options.max_norm == 0.5


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_set_options_of_adaptive_clip_applies_to_the_next_step(engine):
    w = torch.ones(3, requires_grad=True)
    optimizer = dp.SGD([w], lr=1.0, engine=engine)
    w.grad = torch.ones(3)
    optimizer.step()
    optimizer.set_options(adaptive_clip=0.001)
    with torch.no_grad():
        w.fill_(1.0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3,), 0.999))


@pytest.mark.needs_compiler
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_right_whatever_the_size_of_the_gradients(dtype, scale):
    """Blocks of 256 squares are added in float32 where that is safe: 16 additions in a lane, 1e-6 at most."""
    params = [torch.zeros(n, dtype=dtype, requires_grad=True) for n in (1, 255, 256, 257, 20000)]
    for p in params:
        p.grad = torch.randn_like(p) * scale
    optimizer = dp.SGD(params, max_norm=1.0, engine="compiled")
    optimizer.step()
    expected = torch.cat([p.grad.double() for p in params]).norm().item()
    assert optimizer.last_grad_norm.item() == pytest.approx(expected, rel=1e-6)
    params[-1].grad[-1] = float("inf")
    optimizer.set_options(nonfinite="skip")
    optimizer.step()
    assert optimizer.last_step == "skipped"
