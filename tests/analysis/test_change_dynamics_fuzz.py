"""The recursion of the parameter change for random combinations of stages."""

import random

import pytest
import torch

import dashpot as dp
from dashpot import analysis


def random_recipe(draw):
    """Return a recipe with one filter, or none, and random stages before and after it."""
    denominators = [
        [],
        [dp.SecondMoment(draw.choice((0.0, 0.5, 0.99)), draw.choice((1e-8, 1e-2)), average=draw.choice(AVERAGES))],
        [dp.CenteredMoment(draw.choice((0.5, 0.9)), 0.1, average=draw.choice(AVERAGES), uncentered_steps=3)],
    ]
    denominator = draw.choice(denominators)
    scale = draw.choice(("lr", "schedule", "constant"))
    decays = [
        [],
        [dp.ChangeDecay(0.1, draw.choice((0.5, 1.0)), scale)],
        [dp.DecoupledDecay(0.1, scale)],
        [dp.ChangeDecay(0.05, 1.0, "lr"), dp.DecoupledDecay(0.05, scale)],
    ]
    rates = [[], [dp.Parcor(0.5)], [dp.HuberParcor(0.5, 0.5)], [dp.MomentRate(0.5)]]
    clips = [[], [dp.HuberClip(0.9, cap=draw.choice((0.5, 4.0)))], [dp.AdaptiveClip(0.1)]]
    after = [*draw.choice(decays), *draw.choice(clips), *draw.choice(rates)]
    start = draw.choice(([], [dp.CoupledDecay(0.1)], [dp.AdaptiveClip(0.2), dp.CoupledDecay(0.1)]))
    middle = [*random_filter(draw), *denominator] if draw.random() < 0.7 else [*denominator, *random_filter(draw)]
    return dp.Recipe(*start, *middle, *after, lr=draw.choice((0.01, 0.1)))


AVERAGES = ("debiased", "plain", "first", "running")


def random_filter(draw):
    pole = draw.choice((0.0, 0.5, 0.9, draw.uniform(0, 0.99)))
    zero = draw.choice((0.0, pole, pole / (1 + pole), draw.uniform(-2, 0.95)))
    kind = draw.choice(("exact", "none", "autosgm", "memory", "running"))
    if kind == "running":
        return [dp.Filter(pole, normalise=kind)]
    if kind == "none":
        start, gain = draw.choice(("zero", "first", "unscaled")), draw.choice((None, 1.0, 0.3))
        return [dp.Filter(pole, zero, gain, kind, start)]
    return [] if draw.random() < 0.1 else [dp.Filter(pole, zero, normalise=kind)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Filter. zero")
def test_recursion_holds_for_random_recipes():
    draw = random.Random(0)
    forms = set()
    for number in range(300):
        recipe = random_recipe(draw)
        generator = torch.Generator().manual_seed(number)
        w = torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_()
        optimizer = dp.SGM.from_recipe([w], recipe)
        with analysis.record_steps(optimizer) as recording:
            for _ in range(12):
                w.grad = w.detach() + torch.randn(7, generator=generator, dtype=torch.float64)
                optimizer.step()
        found = analysis.dynamics(recording)
        tensor = found["0"]
        # 1e-12 of the largest change, and the rounding of the weights before the changes
        assert (tensor.residual <= 1e-12 + tensor.resolution).all(), (number, recipe, found.residual)
        assert found.bound_holds, (number, recipe)
        assert not tensor.restarts.sum() or "Parcor" in repr(recipe), (number, recipe)
        forms |= {bool(constant) for constant in tensor.constant}
    assert forms == {True, False}
