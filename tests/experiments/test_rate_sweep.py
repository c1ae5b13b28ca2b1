"""Sweeps over learning rates: rows against separate optimizers, and the largest usable rate."""

import math

import pytest
import torch

import dashpot as dp
from dashpot.curvature.hvp_options import Probing
from dashpot.data.seeding import generator
from dashpot.experiments.rate_sweep import BATCH, WIDTHS, Sweep, sweep, usable_rates
from dashpot.experiments.stacked_network import StackedNetwork, batches, digit_vectors, losses

RATES = (0.003, 0.03)


def trained(make, seed, steps, factor=lambda step: 1.0):
    """Train one network with an optimizer, and return its training loss and the optimizer."""
    model = StackedNetwork(WIDTHS, [seed])
    optimizer, source = make(model.parameters()), batches([seed], BATCH)
    lr = optimizer.param_groups[0]["lr"]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * factor(step)
        optimizer.zero_grad(set_to_none=True)
        value = losses(model, *next(source)).sum()
        optimizer.backward(value) if isinstance(optimizer, dp.ESGD) else value.backward()
        optimizer.step()
    inputs, labels, _, _ = digit_vectors()
    return losses(model, inputs[None], labels[None]).item(), optimizer


@pytest.mark.parametrize("numerator", [1, 3])
def test_numerator_is_that_of_a_separate_network(numerator):
    """The numerator is a mean over a tensor, so that networks must not share it."""
    found = sweep(dp.AutoSGM.recipe_for(numerator=numerator), RATES, (0, 1), 8)
    loss, optimizer = trained(lambda p: dp.AutoSGM(p, lr=0.03, numerator=numerator), 1, 8)
    assert found.loss[1, 1].item() == pytest.approx(loss, rel=1e-5)  # float32
    rates = [float(state["rate"]) for state in optimizer.state.values()]
    assert found.applied[1, 1].item() == pytest.approx(sum(rates) / len(rates) / 0.03, rel=1e-5)


def test_factor_multiplies_the_rate_of_each_step():
    def ramp(step):
        return 1 - 0.9 ** (step + 1)

    found = sweep(dp.Adam.recipe_for(), RATES, (2,), 8, factor=ramp)
    loss, _ = trained(lambda p: dp.Adam(p, lr=0.03), 2, 8, ramp)
    assert found.loss[1, 0].item() == pytest.approx(loss, rel=1e-5)  # float32
    assert found.applied[:, 0].tolist() == pytest.approx([ramp(7)] * 2)


def test_hessian_vector_products_are_those_of_a_separate_network():
    def probes(params, draws):
        return [torch.randint(2, tuple(p.shape[1:]), generator=draw).float()[None] * 2 - 1 for p in params]

    draw = generator("probes", 1)
    steps = 4
    found = sweep(dp.ESGD.recipe_for(), (0.1, 1.0), (0, 1), steps, probing=Probing())
    model, source = StackedNetwork(WIDTHS, [1]), batches([1], BATCH)
    params = list(model.parameters())
    recipe = dp.ESGD.recipe_for(lr=1.0)
    state = dp.functional.init(recipe, [p.detach() for p in params])
    for step in range(steps):
        grads = torch.autograd.grad(losses(model, *next(source)).sum(), params, create_graph=True)
        signs = probes(params, draw)
        products = torch.autograd.grad(grads, params, signs)
        state = dp.functional.observe(recipe, state, signs, list(products), step)
        new, state = dp.functional.update(
            recipe, [p.detach() for p in params], [g.detach() for g in grads], state, step
        )
        with torch.no_grad():
            for p, value in zip(params, new, strict=True):
                p.copy_(value)
    inputs, labels, _, _ = digit_vectors()
    expected = losses(model, inputs[None], labels[None]).item()
    assert found.loss[1, 1].item() == pytest.approx(expected, rel=1e-4)  # float32, ratios of small numbers


def test_usable_rate_is_interpolated_and_bounded_by_the_grid():
    loss = torch.tensor([[0.01, 1.0, 0.01], [1.0, 2.0, 0.02]])
    applied = torch.tensor([[1.0, 1.0, 1.0], [0.25, 1.0, 1.0]])
    usable = usable_rates(Sweep((1.0, 4.0), loss, loss, applied), 0.1)
    assert usable.rates == pytest.approx([2.0, 1.0, 4.0])
    assert usable.applied == pytest.approx([2.0 * 0.5, 1.0, 4.0])


def test_usable_rate_is_the_largest_of_several():
    loss = torch.tensor([[0.01], [1.0], [0.01], [math.inf]])
    usable = usable_rates(Sweep((1.0, 10.0, 100.0, 1000.0), loss, loss, torch.ones(4, 1)), 0.1)
    assert 100 < usable.rates[0] < 1000


def test_best_rate_has_the_smallest_mean_logarithm():
    loss = torch.tensor([[0.1, 0.1], [0.001, 1.0], [math.inf, 1e-4]])
    assert Sweep((1.0, 2.0, 3.0), loss, loss, loss).best() == 1
