"""Clipping and half-precision weights with Hessian-vector products."""

import copy

import pytest
import torch
from curvature.second_order_support import diagonal, scalar_weights
from curvature_amp_support import (
    EACH,
    ROUTES,
    SCALE,
    assert_identical,
    distance,
    kept,
    loss_of,
    make,
    net,
    probe_of,
    product,
    scaled_step,
    take_step,
    tolerance,
)
from torch import nn

import dashpot as dp


@EACH
@pytest.mark.parametrize("clip", [{"max_norm": 1e-3}, {"clip_value": 1e-5}], ids=str)
def test_clipping_does_not_change_the_product(name, clip, route):
    keys = {"hess", "hess_sq", "hess_weight", "products"}
    found = []
    for options in ({}, clip):
        model = net()
        opt = make(name, model, probe=probe_of(route), **options)
        take_step(model, opt, route)
        found.append((model, [{k: v for k, v in opt.state[p].items() if k in keys} for p in model.parameters()]))
    (free, expected), (clipped, states) = found
    for state, other in zip(states, expected, strict=True):
        assert state
        assert all(torch.equal(state[key], other[key]) for key in other)
    assert not torch.equal(free.last.weight, clipped.last.weight)


def test_clipping_a_scaled_loss():
    """`max_norm` refers to the unscaled gradient; the product is also unscaled."""
    model, other = net(), net()
    opt, expected = (make("ESGD-1", m, max_norm=0.05) for m in (model, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for _ in range(6):
        scaled_step(lambda: loss_of(model), opt, scaler, "scaled")
        take_step(other, expected, "backward")
        assert opt.last_step == "clipped"
    assert_identical(kept(model, opt), kept(other, expected))


@EACH
def test_bfloat16_weights_receive_products(name, route):
    model = net(torch.bfloat16)
    options = {"rounding": "stochastic", "state_dtype": torch.bfloat16}
    opt = make(name, model, probe=probe_of(route), **options)
    losses = [take_step(model, opt, route).item() for _ in range(6)]
    assert losses[-1] < losses[0]
    assert opt.curvature_stats.skipped == 0
    for p in model.parameters():
        for key in {"hess", "hess_sq"} & opt.state[p].keys():
            assert opt.state[p][key].dtype == torch.bfloat16
            assert opt.state[p][key].isfinite().all()


@pytest.mark.parametrize("route", ROUTES)
def test_products_of_bfloat16_weights(route):
    """Compare with float32 arithmetic on the same rounded weights."""
    rounded = net(torch.bfloat16)
    same = copy.deepcopy(rounded).float()
    step = 0.1 if route == "differences" else None
    found = distance(product(route, model=rounded, relative_step=step), product("backward", model=same))
    assert 0 < found < 2 * tolerance(route, torch.bfloat16, step)


def test_bfloat16_accumulator_is_unbiased():
    """Updates of D are below half the resolution of bfloat16, so that rounding to nearest would never change D."""
    count, products = 1024, 100
    held = {}
    for dtype, options in (
        (torch.float32, {}),
        (torch.bfloat16, {"rounding": "stochastic", "state_dtype": torch.bfloat16}),
    ):
        w = nn.Parameter(torch.zeros(count))
        given = torch.linspace(0.5, 1.5, products)
        draws = iter(given)

        def product(params, probes, draws=draws):
            return [torch.full((count,), float(next(draws)))]

        opt = dp.ESGD([w], lr=0.0, betas=(0.0, 0.999), update_d_every=1, probe=product, **options)
        for _ in range(products):
            w.grad = torch.ones(count)
            opt.step()
        held[dtype] = opt.state[w]["hess_sq"].double()
    exact, mean = float(held[torch.float32].mean()), float(held[torch.bfloat16].mean())
    # Each of 100 roundings of numbers below 0.3 has a variance of at most (2^-9)^2/4, of mean 0.
    deviation = (products * 2.0**-18 / 4 / count) ** 0.5
    assert abs(mean - exact) < 5 * deviation
    assert exact > 20 * deviation


PLAIN = {"betas": (0.0, 0.0), "lr": 0.01}


@pytest.mark.parametrize("probe", ["closure", "forward", "differences"])
def test_closure_may_clip_gradients(probe):
    (w,) = scalar_weights([3.0, 4.0])
    opt = dp.AdaHessian([w], **PLAIN, probe=probe)

    def closure():
        opt.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        nn.utils.clip_grad_norm_([w], 1.0)
        return loss

    opt.step(closure)
    assert diagonal(opt, w).tolist() == pytest.approx([2.0, 2.0], rel=1e-8)  # rel allows for finite differences
