"""Errors of second-order methods, raised before weights or state change."""

import pytest
import torch
from curvature.second_order_support import (
    WAYS,
    backward_with_graph,
    diagonal,
    error,
    leaves,
    probe_of,
    quartic,
    take_step,
)
from curvature_errors_support import each_class, refused
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import dashpot as dp

PROBES = ("auto", "forward", "differences")


def started(params, steps=1, **settings):
    """Return an optimizer after one step, with a product due in the next one."""
    settings = {"lr": 0.1, **settings}
    probe = settings.pop("probe", "auto")
    optimizer = dp.AdaHessian(params, probe=probe, **settings)
    for _ in range(steps):
        take_step("curvature_step", optimizer, [lambda: quartic(params)])
    return optimizer


@each_class
def test_gradient_without_a_graph_raises(cls):
    params = leaves((3, 2), (2,))
    optimizer = cls(params, lr=0.1, d_warmup=2)
    for _ in range(2):
        quartic(params).backward()
        text = refused(optimizer, optimizer.step, r"shape \(3, 2\)")
        assert text.startswith(f"{cls.__name__}: ")
        assert "opt.backward(loss)" in text
        assert "create_graph=opt.should_create_graph()" in text
        # The suggested alternative works, and the rejected step was not counted.
        optimizer.zero_grad()
        optimizer.backward(quartic(params))
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.curvature_stats.products == optimizer.steps_done() == 2


@pytest.mark.parametrize("probe", ["forward", "differences", "closure"])
def test_route_that_requires_a_closure_raises(probe):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)
    quartic(params).backward()
    text = refused(optimizer, optimizer.step, "requires a closure")
    assert repr(probe) in text
    assert "curvature_step" in text
    if probe != "closure":
        optimizer.zero_grad()
        refused(optimizer, lambda: optimizer.backward(quartic(params)), "closure")
        assert all(p.grad is None for p in params)


@pytest.mark.parametrize(
    "value", [None, "loss", True, torch.ones(2), torch.ones(0), torch.ones((), dtype=torch.cfloat)]
)
@pytest.mark.parametrize("way", ["step", "curvature_step"])
@pytest.mark.parametrize("probe", PROBES)
def test_closure_without_a_loss_raises(probe, way, value):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)

    def closure():
        optimizer.zero_grad()
        quartic(params).backward()
        return value

    act = getattr(optimizer, way)
    expected = "AdaHessian: the closure must return the loss, a single number, got "
    text = refused(optimizer, lambda: act(closure), expected)
    assert (f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)) in text


@pytest.mark.parametrize("probe", PROBES)
def test_step_closure_without_backward_raises(probe):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)
    optimizer.zero_grad()
    refused(optimizer, lambda: optimizer.step(lambda: quartic(params)), "must call loss.backward")


@pytest.mark.parametrize("value", [1.5, 2, torch.tensor(3.0)])
@pytest.mark.parametrize("probe", PROBES)
def test_curvature_step_loss_without_graph_raises(probe, value):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)
    text = refused(optimizer, lambda: optimizer.curvature_step(lambda: value), "depends on the parameters, got ")
    assert repr(value) in text


class CubeOnce(torch.autograd.Function):
    """Function x^3 with a once-differentiable backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


def cube(params):
    return CubeOnce.apply(params[0]).sum() ** 2 + quartic(params)


def cubes_alone(params):
    """Sum of once-differentiable cubes, whose gradients have no graph."""
    return sum(CubeOnce.apply(p).sum() for p in params)


def attention(params):
    q, k, v = (p.view(1, 1, 2, 4) for p in params)
    return (scaled_dot_product_attention(q, k, v) ** 2).sum()


OBSTACLES = [
    pytest.param(cube, ((3,), (2,)), "CubeOnce", id="once-differentiable"),
    pytest.param(cubes_alone, ((3,), (2,)), "CubeOnce", id="once-differentiable-alone"),
    pytest.param(attention, ((8,), (8,), (8,)), "scaled_dot_product", id="attention"),
]


def going_back(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


@pytest.mark.parametrize(("loss", "shapes", "name"), OBSTACLES)
@pytest.mark.parametrize("way", ["backward", "graph", "closure", "curvature_step"])
def test_missing_double_backward_error_names_the_operation(way, loss, shapes, name):
    params = leaves(*shapes)
    optimizer = dp.AdaHessian(params, lr=0.1, probe="closure" if way in ("closure", "curvature_step") else "auto")
    closure = going_back(optimizer, lambda: loss(params))
    if way == "graph":
        backward_with_graph(loss(params), True)
        if not any(p.grad.requires_grad for p in params):
            refused(optimizer, optimizer.step, "has no graph")
            return
    act = {
        "backward": lambda: optimizer.backward(loss(params)),
        "graph": optimizer.step,
        "closure": lambda: optimizer.step(closure),
        "curvature_step": lambda: optimizer.curvature_step(closure),
    }[way]
    named = "operation" if way == "graph" and name == "CubeOnce" else name  # no operation name
    text = refused(optimizer, act, f"{named}.* has no double backward")
    assert "probe='differences' with a closure" in text
    assert text.startswith("AdaHessian: ")
    assert not optimizer.state


@pytest.mark.parametrize(("loss", "shapes", "name"), OBSTACLES)
@pytest.mark.parametrize("way", ["closure", "curvature_step"])
def test_auto_falls_back_to_differences_with_a_reason(way, loss, shapes, name):
    runs = []
    for probe in ("auto", "differences"):
        params = leaves(*shapes)
        optimizer = dp.AdaHessian(params, lr=0.01, update_d_every=2, probe=probe)
        for _ in range(5):
            closure = going_back(optimizer, lambda params=params: loss(params))
            if way == "closure":
                optimizer.step(closure)
            else:
                if optimizer.should_create_graph():
                    optimizer.curvature_step(closure)
                closure()
                optimizer.step()
        runs.append((optimizer, params))
    (auto, ours), (asked, theirs) = runs
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    assert auto.curvature_stats.route == asked.curvature_stats.route == "differences"
    assert name in auto.curvature_stats.reason
    assert "double backward" in auto.curvature_stats.reason
    assert asked.curvature_stats.reason == "requested"
    assert auto.curvature_stats.products == 3


def test_gradients_are_correct_in_the_fallback_step():
    params, copies = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.01)
    optimizer.step(going_back(optimizer, lambda: cube(params)))
    cube(copies).backward()
    assert error([p.grad for p in params], [q.grad for q in copies]) < 1e-15


class CubeReverseOnly(torch.autograd.Function):
    """Function x^3 with double backward but without forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


@pytest.mark.parametrize("way", ["step", "curvature_step"])
def test_forward_route_error_names_the_operation(way):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe="forward")
    closure = going_back(optimizer, lambda: CubeReverseOnly.apply(params[0]).sum() ** 2 + quartic(params))
    text = refused(optimizer, lambda: getattr(optimizer, way)(closure), "forward")
    assert text.startswith("AdaHessian: ")
    assert "forward-mode derivative" in text
    assert "CubeReverseOnly" in text
    assert "probe='differences'" in text


def test_user_errors_propagate():
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1)

    def closure():
        raise RuntimeError("out of memory")

    for act in (optimizer.step, optimizer.curvature_step):
        with pytest.raises(RuntimeError, match=r"^out of memory$") as caught:
            act(closure)
        assert not isinstance(caught.value, dp.CurvatureError)


@pytest.mark.parametrize("way", WAYS)
def test_sparse_gradients_raise(way):
    table = nn.Embedding(5, 3, sparse=True, dtype=torch.float64)
    optimizer = dp.AdaHessian(table.parameters(), lr=0.1, probe=probe_of(way))

    def loss():
        return (table(torch.tensor([1, 3])) ** 4).sum()

    refused(optimizer, lambda: take_step(way, optimizer, [loss]), "dense", dp.DashpotError)
    assert not optimizer.state


PLAIN = {"betas": (0.0, 0.0), "lr": 0.01}


@pytest.mark.parametrize("probe", ["auto", "forward"])
def test_reentrant_checkpointing_raises_or_falls_back(probe):
    layer = nn.Linear(3, 3, dtype=torch.float64)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    opt = dp.AdaHessian(layer.parameters(), **PLAIN, probe=probe)

    def closure():
        opt.zero_grad()
        loss = checkpoint(lambda z: torch.tanh(layer(z)), x, use_reentrant=True).square().mean()
        loss.backward()
        return loss

    if probe == "forward":
        with pytest.raises(dp.CurvatureError, match=r"AdaHessian: .*probe='differences'"):
            opt.step(closure)
        return
    opt.step(closure)
    assert opt.curvature_stats.route == "differences"
    assert "reentrant checkpointing" in str(opt.curvature_stats.reason)
    assert (diagonal(opt, layer.weight) > 0).any()
    with pytest.raises(dp.CurvatureError, match="reentrant checkpointing"):
        opt.backward(checkpoint(lambda z: torch.tanh(layer(z)), x, use_reentrant=True).square().mean())
