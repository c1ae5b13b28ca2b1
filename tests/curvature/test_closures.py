"""Gradients, closures and arguments of backward in steps with a product."""

import pytest
import torch
from curvature.second_order_support import (
    WAYS,
    backward_with_graph,
    batch,
    error,
    exact,
    ignoring_cycles,
    leaves,
    probe_of,
    probes_of,
    quartic,
    residual,
    take_step,
    weights,
)
from curvature_closures_support import (
    ANSWERS,
    DOUBLE,
    PROBES,
    _backward,
    bound_of,
    expected_products,
    methodical,
    products_held,
)
from torch import nn

import dashpot as dp

IN_STEP = ("closure", "forward", "differences")  # routes that use step(closure)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_equal_those_of_backward(way):
    params = weights()
    optimizer = dp.AdaHessian(params, lr=0.01, probe=probe_of(way))
    for k in range(4):
        copies = [p.detach().clone().requires_grad_() for p in params]
        expected = residual(copies, batch(k))
        expected.backward()
        assert optimizer.should_create_graph()
        loss = take_step(way, optimizer, [lambda k=k: residual(params, batch(k))])
        # 1e-15: backward passes with and without a graph may add in a different order.
        assert error([p.grad for p in params], [q.grad for q in copies]) < 1e-15
        assert loss.item() == pytest.approx(expected.item(), rel=1e-15)
        assert not any(p.grad.requires_grad for p in params)


@pytest.mark.parametrize("way", WAYS)
def test_parameters_the_loss_does_not_depend_on_have_no_gradient(way):
    params, (idle,) = leaves((3,)), leaves((2,))
    optimizer = dp.AdaHessian([*params, idle], lr=0.1, probe=probe_of(way))
    take_step(way, optimizer, [lambda: quartic(params)])
    assert idle.grad is None
    assert not optimizer.state.get(idle)
    assert optimizer.curvature_stats.products == 1


@pytest.mark.parametrize("way", [way for way in WAYS if way != "graph"])
def test_parameter_in_which_the_loss_is_linear_has_the_product_zero(way):
    """A constant gradient has product zero; on the route "graph" it is indistinguishable from a gradient without a
    graph and raises."""
    params, (bias,) = leaves((3,)), leaves((2,))
    optimizer = methodical([*params, bias], way, eps=1.0)
    expected = expected_products(optimizer, [*params, bias], lambda values: quartic(values[:1]) + values[1].sum())
    take_step(way, optimizer, [lambda: quartic(params) + bias.sum()])
    assert error(products_held(optimizer, [*params, bias]), expected) < bound_of(way)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("probe", PROBES)
def test_curvature_step_preserves_gradients(probe, answer):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe)
    params[0].grad = held = torch.full_like(params[0], 5.0)
    versions = held._version

    def closure():
        optimizer.zero_grad()
        for p in params:
            p.grad = None
        loss = quartic(params)
        if answer == "backward":
            loss.backward()
        return loss

    loss = optimizer.curvature_step(closure)
    assert loss.item() == pytest.approx(quartic(params).item(), rel=1e-3)  # evaluated at nearby points
    assert params[0].grad is held
    assert held._version == versions
    assert torch.equal(held, torch.full_like(held, 5.0))
    assert params[1].grad is None
    assert not optimizer.state


@pytest.mark.parametrize("probe", PROBES)
def test_raising_closure_changes_nothing(probe):
    params = leaves((3,), (2,))
    start = [p.detach().clone() for p in params]
    layer = nn.BatchNorm1d(3, dtype=torch.float64)
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe)
    quartic(params).backward()
    held, calls, last = [p.grad for p in params], [], [0]

    def closure():
        optimizer.zero_grad()
        layer(torch.randn(4, 3, dtype=torch.float64) + params[0].detach())
        quartic(params).backward()
        calls.append(1)
        if len(calls) == last[0]:
            raise KeyError("data ended")
        return quartic(params)

    for last[0] in (1, 2) if probe == "differences" else (1,):
        calls.clear()
        with pytest.raises(KeyError, match="data ended"):
            optimizer.curvature_step(closure)
        assert all(p.grad is g for p, g in zip(params, held, strict=True))
        assert all(torch.equal(p, w) for p, w in zip(params, start, strict=True))
        assert torch.equal(layer.running_mean, torch.zeros(3, dtype=torch.float64))
        assert not torch.autograd.forward_ad.unpack_dual(params[0]).tangent
    # The missing product is requested again in the next step.
    assert optimizer.should_create_graph()
    optimizer.curvature_step(lambda: quartic(params))
    optimizer.step()
    assert optimizer.curvature_stats.products == 1


@pytest.mark.parametrize("probe", PROBES)
def test_curvature_step_may_come_between_a_loss_and_its_backward_pass(probe):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe)
    loss = quartic(params)
    optimizer.curvature_step(lambda: quartic(params))
    loss.backward()
    optimizer.step()
    assert optimizer.curvature_stats.products == 1


@pytest.mark.parametrize("way", IN_STEP)
def test_closure_may_return_a_number(way):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe_of(way))

    def closure():
        optimizer.zero_grad()
        loss = quartic(params)
        loss.backward()
        return loss.item()

    expected = quartic(params).item()
    assert optimizer.step(closure) == expected
    assert isinstance(optimizer.curvature_step(closure), float)
    assert optimizer.curvature_stats.products == 1


@pytest.mark.parametrize("way", IN_STEP)
def test_training_framework_closure(way):
    """Lightning-style closure: evaluate, clear, backward, with the optimizer wrapped by a scheduler."""
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, update_d_every=2, probe=probe_of(way))
    plain = dp.AdaHessian(twins, lr=0.1, update_d_every=2)
    schedulers = [torch.optim.lr_scheduler.StepLR(each, 3, 0.5) for each in (optimizer, plain)]

    def closure():
        with torch.enable_grad():
            loss = quartic(params)
        optimizer.zero_grad()
        loss.backward()
        return loss

    for _ in range(8):
        loss = optimizer.step(closure=closure)
        plain.zero_grad()
        expected = quartic(twins)
        plain.backward(expected)
        plain.step()
        for scheduler in schedulers:
            scheduler.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # Differences have a relative error of 1e-9 per product, magnified over 8 steps of ordinary size.
    assert error(params, [q.detach() for q in twins]) < (1e-7 if way == "differences" else DOUBLE)
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_closure_may_call_optimizer_backward():
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, update_d_every=2)

    def closure():
        optimizer.zero_grad()
        loss = quartic(params)
        optimizer.backward(loss)
        return loss

    for _ in range(4):
        optimizer.step(closure)
    assert optimizer.curvature_stats.products == 2


@pytest.mark.parametrize("probe", PROBES)
def test_closure_under_no_grad(probe):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe)
    with torch.no_grad():
        optimizer.step(lambda: _backward(quartic(params)))
        optimizer.curvature_step(lambda: quartic(params))
        optimizer.step()
        assert not torch.is_grad_enabled()
    assert optimizer.curvature_stats.products == 2


def test_backward_takes_a_gradient_of_the_loss():
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer, twin = methodical(params), methodical(twins)
    optimizer.backward(quartic(params), gradient=torch.tensor(3.0, dtype=torch.float64))
    twin.backward(3 * quartic(twins))
    for each in (optimizer, twin):
        each.step()
    assert error([p.grad for p in params], [q.grad for q in twins]) < DOUBLE
    assert error(products_held(optimizer, params), products_held(twin, twins)) < DOUBLE


def test_backward_of_some_inputs_only():
    """The product uses the Hessian block of the given inputs."""
    params = leaves((3,), (2,))
    optimizer = methodical(params)
    probes = probes_of(optimizer, 0)
    (hv,) = exact(lambda values: quartic([values[0], params[1].detach()]), params[:1], probes[:1])[1]
    optimizer.backward(quartic(params), inputs=[params[0]])
    assert params[1].grad is None
    optimizer.step()
    assert error(products_held(optimizer, params[:1]), [(probes[0] * hv).abs()]) < DOUBLE
    assert not optimizer.state.get(params[1])


def test_backward_may_retain_the_graph():
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer, twin = methodical(params), methodical(twins)
    loss = quartic(params)
    optimizer.backward(loss, retain_graph=True)
    optimizer.backward(loss)
    optimizer.step()
    twin.backward(2 * quartic(twins))
    twin.step()
    assert error(products_held(optimizer, params), products_held(twin, twins)) < DOUBLE


def test_backward_with_a_graph_leaves_one():
    params = leaves((3,), (2,))
    optimizer = methodical(params)
    with ignoring_cycles():
        optimizer.backward(quartic(params), create_graph=True)
    assert all(p.grad.requires_grad for p in params)
    optimizer.step()
    assert not any(p.grad.requires_grad for p in params)


def test_backward_without_a_product_is_loss_backward():
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, update_d_every=10)
    optimizer.backward(quartic(params))
    optimizer.step()
    optimizer.zero_grad()
    seen = []
    params[0].register_hook(lambda g: seen.append(1))
    loss = quartic(params)
    optimizer.backward(loss, retain_graph=True)
    (again,) = torch.autograd.grad(loss, params[:1])
    assert torch.equal(params[0].grad, again)
    assert len(seen) == 2


def test_products_from_a_callable():
    params = leaves((3,), (2,))
    calls = []

    def products(weights_now, probes):
        calls.append([w is p for w, p in zip(weights_now, params, strict=True)])
        return [3 * probes[0], None]

    optimizer = methodical(params, probe=products, update_d_every=2, eps=1.0)
    for k in range(4):
        assert optimizer.should_create_graph() == (k % 2 == 0)
        optimizer.zero_grad()
        quartic(params).backward()
        optimizer.step()
    assert len(calls) == 2
    assert error(products_held(optimizer, params), [torch.full((3,), 3.0), torch.zeros(2)]) < DOUBLE
    assert optimizer.curvature_stats[:4] == ("callable", "requested", 2, 0)
    optimizer.zero_grad()
    optimizer.backward(quartic(params))  # a plain backward pass, because the callable provides products
    optimizer.step()
    optimizer.step(lambda: _backward(quartic(params)))
    assert optimizer.curvature_stats[:4] == ("callable", "requested", 3, 0)


@pytest.mark.parametrize("way", WAYS)
def test_stats_name_the_route(way):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe_of(way))
    assert optimizer.curvature_stats == (None, None, 0, 0, None, None, None)
    take_step(way, optimizer, [lambda: quartic(params)])
    route, reason, products, skipped, *_ = optimizer.curvature_stats
    expected = {"graph": "graph", "forward": "forward", "differences": "differences"}
    assert (route, products, skipped) == (expected.get(way, "closure"), 1, 0)
    assert isinstance(reason, str)
    assert reason


@pytest.mark.parametrize("way", [way for way in WAYS if way != "forward"])
def test_torch_schedulers_set_the_learning_rate(way):
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer, twin = (dp.Sophia(ws, lr=0.1, update_d_every=2, probe=probe_of(way)) for ws in (params, twins))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for k in range(5):
        twin.param_groups[0]["lr"] = 0.1 * 0.5**k
        take_step(way, optimizer, [lambda: quartic(params)])
        take_step(way, twin, [lambda: quartic(twins)])
        scheduler.step()
        assert error(params, [q.detach() for q in twins]) < 1e-15


def test_gradient_clipping_does_not_change_the_curvature():
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer, twin = methodical(params), methodical(twins, max_norm=1e-3)
    expected = expected_products(optimizer, params, quartic)
    backward_with_graph(quartic(params), True)
    torch.nn.utils.clip_grad_norm_(params, 1e-3)
    optimizer.step()
    twin.backward(quartic(twins))
    twin.step()
    for each, mine in ((optimizer, params), (twin, twins)):
        assert error(products_held(each, mine), expected) < DOUBLE
