"""The comparison of kernels with their stages before first use."""

from dataclasses import dataclass

import pytest
import torch
from engine_support import explanation

import dashpot as dp
from dashpot.constraints import Scalar
from dashpot.engine.native import kernel

ENGINES = ("eager", "compiled")


@pytest.fixture(autouse=True)
def reset_warnings(monkeypatch):
    monkeypatch.setattr(kernel, "_warned", set())


def weights_after(stage, engine, gradients, lr=1.0, **options):
    """Return the weight after each step with the given gradients, and the optimizer."""
    w = torch.zeros(len(gradients[0]), dtype=torch.float64, requires_grad=True)
    optimizer = dp.SGM.from_recipe([w], dp.Recipe(*stage, lr=lr), engine=engine, **options)
    weights = []
    for g in gradients:
        w.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        weights.append(w.tolist())
    return weights, optimizer


@dataclass(frozen=True)
class BranchesOnTensor(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * (x.d if isinstance(x.d, torch.Tensor) else 1.0)), s


@dataclass(frozen=True)
class BranchesOnFloat(dp.Stage):
    alpha: Scalar = 0.5

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * (c.alpha if isinstance(c.alpha, float) else 7.0)), s


@dataclass(frozen=True)
class CatchesShapeError(dp.Stage):
    def apply(self, x, s, c, ctx):
        try:
            return x._replace(v=x.v * x.v.shape[0]), s
        except Exception:
            return x, s


@pytest.mark.needs_compiler
@pytest.mark.parametrize("stage", [BranchesOnTensor(), BranchesOnFloat()], ids=lambda s: type(s).__name__)
def test_kernel_that_disagrees_with_its_stage_is_not_used(stage):
    """The stage branches on types; the kernel is compared with the eager engine before its first use."""
    gradients = [[1.0, -2.0], [0.5, 3.0]]
    eager, _ = weights_after([dp.SecondMoment(), stage], "eager", gradients)
    with pytest.warns(RuntimeWarning, match="A kernel disagrees with the stages of its recipe"):
        compiled, _ = weights_after([dp.SecondMoment(), stage], "compiled", gradients)
    assert compiled == eager


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_stage_that_catches_shape_errors_agrees_in_both_engines():
    (eager, _), (compiled, _) = (
        weights_after([dp.SecondMoment(), CatchesShapeError()], e, [[1.0, -2.0]]) for e in ENGINES
    )
    assert compiled == eager


@dataclass(frozen=True)
class CapturedExponent(dp.Stage):
    exponent = torch.tensor(2.0)

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v.abs() ** self.exponent), s


@pytest.mark.filterwarnings("ignore:.* cannot be compiled, so engine=.compiled.:RuntimeWarning")
def test_captured_tensor_is_not_compiled_as_constant():
    _, optimizer = weights_after([CapturedExponent()], "compiled", [[1.0]])
    assert "cannot be compiled" in explanation(optimizer)


@dataclass(frozen=True)
class Long(dp.Stage):
    def apply(self, x, s, c, ctx):
        v = x.v
        for _ in range(1200):
            v = v * 0.5 + 0.5 * x.g
        return x._replace(v=v), s


@pytest.mark.needs_compiler
def test_stage_with_a_thousand_operations_compiles():
    weights, _ = weights_after([Long()], "compiled", [[1.0]])
    assert weights == [[-1.0]]
