"""Hessian operators of closures equal explicit Hessians, and leave no trace in the training."""

import pytest
import torch
from hessian_models import MODELS, explicit, problem
from torch import nn

from dashpot.curvature import eigenvalues, hessian
from dashpot.errors import ArgumentError, CurvatureError


def matrix_of(h):
    return torch.stack([h(row) for row in torch.eye(h.size, dtype=torch.float64)])


@pytest.mark.parametrize("name", MODELS)
def test_hessian_by_graph_equals_explicit(name):
    model, closure = problem(name)
    expected = explicit(model, closure)
    with hessian(closure, list(model.parameters())) as h:
        found = matrix_of(h)
    assert h.route == "graph"
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # the same derivatives in float64


def test_hessian_of_mlp_equals_torch_func():
    model, closure = problem("mlp")
    x, y = closure.__closure__[1].cell_contents, closure.__closure__[2].cell_contents
    params = dict(model.named_parameters())

    def loss(values):
        return nn.functional.cross_entropy(torch.func.functional_call(model, values, (x,)), y)

    blocks = torch.func.jacrev(torch.func.jacrev(loss))(params)  # forward mode warns in torch 2.9 and later
    sizes = {key: p.numel() for key, p in params.items()}
    expected = torch.cat(
        [torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in params], 1) for a in params]
    ).detach()
    with hessian(closure, list(model.parameters())) as h:
        torch.testing.assert_close(matrix_of(h), expected, rtol=1e-10, atol=1e-12)  # float64


@pytest.mark.parametrize("name", MODELS)
def test_hessian_by_differences_equals_explicit(name):
    model, closure = problem(name)
    expected = explicit(model, closure)
    with hessian(closure, list(model.parameters()), route="differences") as h:
        found = matrix_of(h)
    assert (h.route, h.reason) == ("differences", "requested")
    # Central differences in float64 have about 10 correct digits for step lengths that suit the norm of the weights;
    # BatchNorm varies over shorter lengths.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_rates_and_shifts_scale_the_hessian():
    model, closure = problem("mlp")
    params = list(model.parameters())
    generator = torch.Generator().manual_seed(1)
    rates = [torch.rand(p.shape, generator=generator, dtype=torch.float64) for p in params]
    root = torch.cat([r.reshape(-1) for r in rates]).sqrt()
    with hessian(closure, params, rates=rates, shifts=[0.1] * len(params)) as h:
        found = matrix_of(h)
    expected = root[:, None] * (explicit(model, closure) + 0.1 * torch.eye(len(root), dtype=torch.float64)) * root
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # the same derivatives in float64


@pytest.mark.parametrize("route", ["graph", "differences"])
@pytest.mark.parametrize("name", ["conv-batchnorm", "dropout"])
def test_measurement_restores_everything(name, route):
    model, closure = problem(name)
    params = list(model.parameters())
    closure().backward()
    calls = []
    params[0].register_hook(lambda grad: calls.append(1))
    kept = [(p.grad, p.grad.clone(), p.detach().clone()) for p in params]
    buffers = [b.clone() for b in model.buffers()]
    random = torch.get_rng_state()
    with hessian(closure, params, route=route) as h:
        eigenvalues(h, iterations=3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    for p, (grad, value, weight) in zip(params, kept, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, value)
        assert torch.equal(p, weight)
    assert calls == []
    closure().backward()
    assert calls == [1]


def test_closure_that_calls_backward_has_the_same_hessian():
    model, closure = problem("mlp")
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1)

    def training_closure():
        optimizer.zero_grad()
        loss = closure()
        loss.backward()
        return loss

    with hessian(closure, params) as h, hessian(training_closure, params) as other:
        v = torch.ones(h.size, dtype=torch.float64)
        assert torch.equal(h(v), other(v))


@pytest.mark.slow  # importing torch's compiler takes seconds
def test_compiled_model_runs_eagerly_in_the_measurement():
    model, closure = problem("conv-batchnorm")
    compiled = torch.compile(model, backend="eager")
    x, y = closure.__closure__[1].cell_contents, closure.__closure__[2].cell_contents

    def compiled_closure():
        return nn.functional.cross_entropy(compiled(x), y)

    compiled_closure().backward()
    params = list(model.parameters())
    v = torch.ones(sum(p.numel() for p in params), dtype=torch.float64)
    with hessian(closure, params) as h:
        expected = h(v)
    with hessian(compiled_closure, params) as h:
        torch.testing.assert_close(h(v), expected, rtol=1e-12, atol=1e-12)  # the same operations in float64
    assert h.route == "graph"


class Once(torch.autograd.Function):
    """Square without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_operation_without_second_derivative_uses_differences():
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    with hessian(lambda: Once.apply(w).sum(), [w]) as h:
        found = matrix_of(h)
    assert (h.route, h.reason) == ("differences", "Once has no double backward")
    torch.testing.assert_close(found, 2 * torch.eye(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)  # differences
    with pytest.raises(CurvatureError, match="Once"), hessian(lambda: Once.apply(w).sum(), [w], route="graph"):
        pass


def test_parameters_outside_the_loss_have_zero_rows():
    a, b = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for route in ("graph", "differences"):
        with hessian(lambda: a.square().sum(), [a, b], route=route) as h:
            assert torch.equal(matrix_of(h)[2:], torch.zeros(2, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "not be empty"),
        ([torch.zeros(2, dtype=torch.complex64)], "real and dense"),
        ([torch.eye(2).to_sparse()], "real and dense"),
        ([torch.zeros(2, dtype=torch.int64)], "real and dense"),
    ],
)
def test_unsupported_parameters_raise(params, message):
    with pytest.raises(CurvatureError, match=message), hessian(lambda: torch.zeros(()), params):
        pass


def test_bad_arguments_raise():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ArgumentError, match=r"hessian: route must be one of"), hessian(w.sum, [w], route="no"):
        pass
    with pytest.raises(CurvatureError, match="rates >= 0"), hessian(w.sum, [w], rates=[-1.0]):
        pass
    with hessian(lambda: (w * float("nan")).square().sum(), [w]) as h, pytest.raises(CurvatureError, match="finite"):
        h(torch.ones(2, dtype=torch.float64))


def test_linear_loss_has_zero_hessian():
    w = torch.ones(2, requires_grad=True)
    with hessian(w.sum, [w]) as h:
        found = eigenvalues(h)
    assert (found.values, found.converged) == ((0.0,), True)
