"""Non-finite products and invalid user-defined products."""

import pytest
import torch
from curvature.second_order_support import (
    leaves,
    quartic,
    same,
    take_step,
)
from curvature_errors_support import each_class, refused

import dashpot as dp


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@each_class
def test_nonfinite_product_is_skipped_and_counted(cls, bad):
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    bad_now = False

    def products(weights, probes):
        found = [2 * v + w.detach() for w, v in zip(weights, probes, strict=True)]
        found[1][0] = bad if bad_now else found[1][0]
        return found

    known = {"probe": products, "update_d_every": 2, "d_warmup": 1, "lr": 0.01}
    optimizer, twin = cls(params, **known), cls(twins, **{**known, "update_d_every": 100})
    for k in range(3):
        bad_now = k == 2
        assert optimizer.should_create_graph() == (k != 1)
        for each, ws in ((optimizer, params), (twin, twins)):
            each.zero_grad()
            quartic(ws).backward()
            each.step()
    # The other optimizer computed no product in the last step and took the same path.
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    for p, q in zip(params, twins, strict=True):
        assert same(dict(optimizer.state[p]), dict(twin.state[q]))
    assert (optimizer.curvature_stats.products, optimizer.curvature_stats.skipped) == (1, 1)
    assert optimizer.last_step == "applied"
    bad_now = False
    assert not optimizer.should_create_graph()  # the product is computed at its next scheduled step, not immediately


def test_product_of_a_nonfinite_loss_is_skipped():
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.01)
    with torch.no_grad():
        params[0][0] = 0.0

    def loss():  # at 0, the first derivative of |x|^1.5 is 0 and the second is infinite
        return quartic(params) + (params[0][0].clamp_min(0) ** 1.5) + (params[0][0] ** 1.5)

    take_step("backward", optimizer, [loss])
    assert all(torch.isfinite(p.grad).all() for p in params)
    assert (optimizer.curvature_stats.products, optimizer.curvature_stats.skipped) == (0, 1)


@each_class
def test_parameter_with_skipped_first_product_is_not_updated(cls):
    params = leaves((3,), (2,))
    start = [p.detach().clone() for p in params]
    bad = True

    def products(weights, probes):
        return [torch.full_like(v, torch.nan) if bad else 2 * v for v in probes]

    optimizer = cls(params, lr=0.01, probe=products, weight_decay=0.0, d_warmup=1, update_d_every=10)
    for k in range(3):
        assert optimizer.should_create_graph()  # retried until there is a product
        quartic(params).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(torch.equal(p, w) for p, w in zip(params, start, strict=True))
        assert all(optimizer.state[p]["step"] == k + 1 and optimizer.state[p]["products"] == 0 for p in params)
    bad = False
    quartic(params).backward()
    optimizer.step()
    assert not any(torch.equal(p, w) for p, w in zip(params, start, strict=True))
    assert not optimizer.should_create_graph()
    assert (optimizer.curvature_stats.products, optimizer.curvature_stats.skipped) == (1, 3)


@pytest.mark.parametrize(
    "answer",
    [lambda v: [v[0]], lambda v: [*v, v[0]], lambda v: [v[0][:2], v[1]], lambda v: None, lambda v: [3.0, v[1]]],
    ids=["too few", "too many", "shape", "none", "number"],
)
def test_callable_without_products_raises(answer):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=lambda weights, probes: answer(probes))
    quartic(params).backward()
    refused(optimizer, optimizer.step, "AdaHessian: ", (dp.CurvatureError, dp.ArgumentError))
    assert not optimizer.state
