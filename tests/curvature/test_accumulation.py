"""Gradients and products of micro-batches add up to those of the whole batch, on every route."""

import pytest
import torch
from curvature.second_order_support import (
    EXACT_WAYS,
    WAYS,
    backward_with_graph,
    batch,
    diagonal,
    error,
    exact,
    leaves,
    probe_of,
    probes_of,
    quartic,
    residual,
    scalar_weights,
    take_step,
    weights,
)

import dashpot as dp

# Double precision: the four parts are summed in a different order, with about ten rounding errors of 1e-16 per step.
# These errors are magnified by the denominators and by the feedback over 6 steps.
DOUBLE = 1e-10
# Central differences with a step of 6e-6 (1 + |w|)/|v|: the roundoff of the gradients, 1e-16, divided by that step is
# about 1e-10. The truncation error has the same size and is the same for both runs. Errors feed back over 6 steps.
DIFFERENCES = 1e-7
SIZE = 16
WHOLE = [(0, SIZE)]
EVEN = [(0, 4), (4, 8), (8, 12), (12, 16)]
UNEVEN = [(0, 1), (1, 6), (6, 9), (9, 16)]


def tolerance(way):
    return DIFFERENCES if way == "differences" else DOUBLE


def parts(params, k, cuts):
    """Return the weighted losses of micro-batches whose sum is the mean loss of step k."""
    x, y = batch(k, SIZE)

    def piece(first, last):
        return lambda: residual(params, (x[first:last], y[first:last])) * ((last - first) / SIZE)

    return [piece(first, last) for first, last in cuts]


def optimizer_over(params, way, **changes):
    settings = {"lr": 0.02, "d_warmup": 2, "update_d_every": 2, "probe": probe_of(way)}
    return dp.AdaHessian(params, **{**settings, **changes})


def assert_alike(one, two, bound):
    """Check that two (optimizer, parameters) pairs have equal weights, gradients and state."""
    for p, q in zip(one[1], two[1], strict=True):
        mine, theirs = one[0].state[p], two[0].state[q]
        assert mine.keys() == theirs.keys()
        assert error([p.detach(), p.grad], [q.detach(), q.grad]) < bound
        assert error(mine.values(), list(theirs.values())) < bound


@pytest.mark.diagonal
@pytest.mark.parametrize("cuts", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_equal_the_batch(way, cuts):
    whole, pieces = weights(), weights()
    one, two = optimizer_over(whole, "backward"), optimizer_over(pieces, way)
    bound = tolerance(way)
    for k in range(6):
        loss = take_step("backward", one, parts(whole, k, WHOLE))
        again = take_step(way, two, parts(pieces, k, cuts))
        assert abs(float(loss) - float(again)) < bound
        assert_alike((two, pieces), (one, whole), bound)
    assert one.curvature_stats.products == two.curvature_stats.products == 4


@pytest.mark.parametrize("way", WAYS)
def test_product_is_that_of_the_mean_loss(way):
    """The result is v H v of the whole batch, not of the last micro-batch, and not a mean of squares."""
    params = weights()
    optimizer = optimizer_over(params, way, betas=(0.0, 0.0), spatial_averaging=False)
    probes = probes_of(optimizer, 0)
    _, products = exact(lambda values: residual(values, batch(0, SIZE)), params, probes)
    expected = [(v * hv).abs() for v, hv in zip(probes, products, strict=True)]
    take_step(way, optimizer, parts(params, 0, UNEVEN))
    assert error([optimizer.state[p]["hess_sq"].sqrt() for p in params], expected) < tolerance(way)


def reference(params, loss):
    """Return the state after one step with the loss."""
    copies = [p.detach().clone().requires_grad_() for p in params]
    optimizer = dp.AdaHessian(copies, lr=0.1)
    optimizer.backward(loss(copies))
    optimizer.step()
    return optimizer, copies


def one(values):
    return quartic(values)


def other(values):
    return 3 * quartic([p - 1 for p in values])


@pytest.mark.parametrize("way", EXACT_WAYS)
@pytest.mark.parametrize("clear", ["optimizer", "optimizer to zero", "model"])
def test_clearing_the_gradients_discards_the_products(way, clear):
    """A discarded loss has no effect on the next step, on any route."""
    params = leaves((3,), (2, 2))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe_of(way))
    expected = reference(params, other)
    if way != "forward":  # the route "forward" requires a closure
        optimizer.backward(one(params))
        optimizer.backward(one(params))
    if clear == "model":
        for p in params:
            p.grad = None
    else:
        optimizer.zero_grad(set_to_none=clear == "optimizer")
    if way == "graph":
        backward_with_graph(other(params), optimizer.should_create_graph())
        optimizer.step()
    elif way == "backward":
        optimizer.backward(other(params))
        optimizer.step()
    elif way == "curvature_step":
        optimizer.curvature_step(lambda: other(params))
        other(params).backward()
        optimizer.step()
    else:
        optimizer.step(lambda: _back(optimizer, other(params)))
    assert_alike((optimizer, params), expected, DOUBLE)


def _back(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    return loss


def test_discarded_product_is_computed_again():
    """If the gradients are cleared and the next backward pass computes no product, the step raises an error."""
    params = leaves((3,), (2, 2))
    optimizer = dp.AdaHessian(params, lr=0.1)
    optimizer.backward(one(params))
    for p in params:
        p.grad = None
    other(params).backward()
    with pytest.raises(dp.CurvatureError, match=r"was replaced after"):
        optimizer.step()


def test_products_of_a_skipped_step_are_not_kept():
    params = leaves((3,), (2, 2))
    expected = reference(params, other)
    optimizer = dp.AdaHessian(params, lr=0.1, nonfinite="skip")
    optimizer.backward(one(params))
    params[0].grad[0] = torch.nan
    optimizer.step()
    assert optimizer.last_step == "skipped"
    optimizer.zero_grad()
    optimizer.backward(other(params))
    optimizer.step()
    assert_alike((optimizer, params), expected, DOUBLE)


def test_second_curvature_step_replaces_the_first():
    params = leaves((3,), (2, 2))
    expected = reference(params, other)
    optimizer = dp.AdaHessian(params, lr=0.1)
    optimizer.curvature_step(lambda: one(params))
    optimizer.curvature_step(lambda: other(params))
    other(params).backward()
    optimizer.step()
    assert_alike((optimizer, params), expected, DOUBLE)
    assert optimizer.curvature_stats.products == 1


def test_curvature_step_product_survives_zero_grad():
    params = leaves((3,), (2, 2))
    optimizer = dp.AdaHessian(params, lr=0.1, betas=(0.0, 0.0), update_d_every=10)
    for k in range(3):
        if k == 2:
            expected = [12 * p.detach() ** 2 for p in params]
            optimizer.curvature_step(lambda: sum((p**4).sum() for p in params))
            assert not optimizer.should_create_graph()
        optimizer.zero_grad()
        optimizer.backward(quartic(params))
        optimizer.step()
    assert error([optimizer.state[p]["hess_sq"].sqrt() for p in params], expected) < 1e-12
    assert optimizer.state_dict()["param_groups"][0]["product_at"] == 2
    assert optimizer.curvature_stats.products == 2


@pytest.mark.parametrize("way", EXACT_WAYS)
def test_parameter_in_some_micro_batches_only(way):
    """A parameter used in half of the micro-batches has zero gradients and products in the others."""
    results = []
    for pieces in (1, 4):
        params = leaves((3,), (2,))
        optimizer = dp.AdaHessian(params, lr=0.1, probe=probe_of(way))

        def piece(i, params=params, pieces=pieces):
            rest = quartic(params) if i < max(pieces // 2, 1) else (params[0] ** 4).sum()
            return rest / 4 if pieces == 4 else (2 * rest + 2 * (params[0] ** 4).sum()) / 4

        for _ in range(3):
            take_step(way, optimizer, [lambda i=i, piece=piece: piece(i) for i in range(pieces)])
        results.append((optimizer, params))
    assert_alike(*results, DOUBLE)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_accumulate_onto_existing_ones(way):
    """A closure may accumulate gradients over several calls."""
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe_of(way))
    held = [p.detach() * 0 + 2.0 for p in params]
    for p, g in zip(params, held, strict=True):
        p.grad = g.clone()
    quartic(twins).backward()
    if way in ("backward", "graph"):
        optimizer.backward(quartic(params)) if way == "backward" else backward_with_graph(quartic(params), True)
    elif way == "curvature_step":
        optimizer.curvature_step(lambda: quartic(params))
        quartic(params).backward()
    else:

        def closure():
            loss = quartic(params)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert error([p.grad for p in params], [q.grad + 2 for q in twins]) < 1e-14


PLAIN = {"betas": (0.0, 0.0), "lr": 0.01}


def test_parameter_without_a_product_is_not_updated():
    a, b = scalar_weights([1.0, 2.0], [1.0, 2.0])
    opt = dp.AdaHessian([a, b], **PLAIN, update_d_every=10)
    opt.curvature_step(lambda: (a**4).sum())  # noqa: PLW0108 - evaluated when it is called
    ((a**4).sum() + (b**4).sum()).backward()
    opt.step()
    assert opt.state[a]["products"] == 1
    assert opt.state[b]["products"] == 0
    assert b.tolist() == [1.0, 2.0]
    assert opt.should_create_graph()


@pytest.mark.parametrize("probe", ["closure", "forward", "differences"])
def test_products_cleared_inside_a_closure_are_discarded(probe):
    (w,) = scalar_weights([1.0, 2.0])
    opt = dp.AdaHessian([w], **PLAIN, probe=probe)

    def closure():
        (5 * (w**2).sum()).backward()
        opt.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    opt.step(closure)
    opt.curvature_step(closure)
    assert diagonal(opt, w).tolist() == pytest.approx([2.0, 2.0], rel=1e-8)
    opt.step(closure)
    assert diagonal(opt, w).tolist() == pytest.approx([2.0, 2.0], rel=1e-8)
