"""Results of custom stages: aliased slots and invalid directions."""

from dataclasses import dataclass

import pytest
import torch
from engine_support import explanation  # noqa: F401 - a fixture for every test here

import dashpot as dp
from dashpot.errors import ArgumentError

ENGINES = ("eager", "compiled")


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
class Delay(dp.Stage):
    """A stage that returns the direction of two steps ago, with one slot returned under a different key."""

    slots = (dp.elementwise("last"), dp.elementwise("older"))

    def apply(self, x, s, c, ctx):
        return x._replace(v=s.older), s._replace(last=x.v, older=s.last)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    "options", [{"engine": "eager"}, {"engine": "compiled"}, {"engine": "eager", "capturable": True}]
)
def test_slot_returned_under_another_key_is_copied(options):
    options = dict(options)
    weights, _ = weights_after([Delay()], options.pop("engine"), [[1.0], [10.0], [100.0], [1000.0]], **options)
    assert weights == [[0.0], [0.0], [-1.0], [-11.0]]


@dataclass(frozen=True)
class ScalarDirection(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=ctx.norm(x.v)), s


@dataclass(frozen=True)
class FloatDirection(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=1.0), s


@pytest.mark.parametrize("stage", [ScalarDirection(), FloatDirection()], ids=lambda stage: type(stage).__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_direction_with_wrong_shape_raises(stage, engine):
    with pytest.raises(ArgumentError, match="direction must keep the shape"):
        weights_after([stage], engine, [[1.0, 2.0]])
