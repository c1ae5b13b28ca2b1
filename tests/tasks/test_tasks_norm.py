from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dashpot.errors import ArgumentError
from dashpot.tasks import DetachedBatchNorm2d

EPS, MOMENTUM = 1e-5, 0.1


def reference(x, weight, bias, mean=None, variance=None):
    """Return output, mean and variance by definition; by default, use the statistics of the batch."""
    if mean is None:
        count = x.numel() // x.shape[1]
        mean = x.sum((0, 2, 3)) / count
        variance = ((x - mean[:, None, None]) ** 2).sum((0, 2, 3)) / (count - 1)
    y = (x - mean[:, None, None]) / (variance[:, None, None] + EPS) ** 0.5
    return y * weight[:, None, None] + bias[:, None, None], mean, variance


@pytest.fixture
def norm():
    torch.manual_seed(0)
    layer = DetachedBatchNorm2d(3).double()
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    return layer


def batches(count: int):
    generator = torch.Generator().manual_seed(1)
    return [2 * torch.randn(4, 3, 5, 2, generator=generator, dtype=torch.float64) - 1 for _ in range(count)]


def test_norm_is_initially_identity_in_evaluation_mode():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    norm = DetachedBatchNorm2d(3).double().eval()
    torch.testing.assert_close(norm(x), x / (1 + EPS) ** 0.5, rtol=1e-14, atol=0)


def test_norm_in_training_mode_matches_reference(norm):
    """The tolerance of 1e-12 allows for float64 rounding."""
    running_mean, running_var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for x in batches(4):
        expected, mean, variance = reference(x, norm.weight, norm.bias)
        torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
        running_mean = (1 - MOMENTUM) * running_mean + MOMENTUM * mean
        running_var = (1 - MOMENTUM) * running_var + MOMENTUM * variance
        torch.testing.assert_close(norm.running_mean, running_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, running_var, rtol=1e-12, atol=1e-12)


def test_norm_in_evaluation_mode_uses_running_statistics(norm):
    first, second = batches(2)
    norm(first)
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    expected, *_ = reference(second, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    torch.testing.assert_close(norm(second), expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_norm_gradient_excludes_statistics(norm):
    (x,) = batches(1)
    x.requires_grad_()
    upstream = torch.randn_like(x)
    norm(x).backward(upstream)
    copied = x.detach().clone().requires_grad_()
    with torch.no_grad():
        _, mean, variance = reference(copied, norm.weight, norm.bias)
    weight, bias = (p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias))
    expected, *_ = reference(copied, weight, bias, mean, variance)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, copied.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.weight.grad, weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.bias.grad, bias.grad, rtol=1e-12, atol=1e-12)
    factor = norm.weight[:, None, None] / (variance[:, None, None] + EPS) ** 0.5
    torch.testing.assert_close(x.grad, upstream * factor, rtol=1e-12, atol=1e-12)


def test_norm_gradient_differs_from_torch_batch_norm(norm):
    """Check that the two tests above would fail if gradients flowed through the statistics."""
    (x,) = batches(1)
    torchs = nn.BatchNorm2d(3).double()
    torchs.load_state_dict(norm.state_dict())
    grads = []
    for layer in (norm, torchs):
        copied = x.clone().requires_grad_()
        layer(copied).pow(3).sum().backward()
        grads.append(copied.grad)
    assert not torch.allclose(*grads, rtol=0.1)


def test_norm_second_derivative_matches_formula(norm):
    (x,) = batches(1)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(norm(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    # With fixed statistics y is linear in x, y = kx + c, so d2(y^3)/dx2 = 6 y k^2.
    with torch.no_grad():
        y, _, variance = reference(x, norm.weight, norm.bias)
        k = norm.weight[:, None, None] / (variance[:, None, None] + EPS) ** 0.5
    torch.testing.assert_close(second, 6 * y * k**2, rtol=1e-10, atol=1e-10)


def test_norm_momentum_none_averages_all_batches(norm):
    norm.momentum = None
    means = []
    for x in batches(3):
        norm(x)
        means.append(x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-12, atol=1e-12)


def test_norm_with_one_value_per_channel_raises(norm):
    x = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    with pytest.raises(
        ArgumentError, match=r"must have at least two values per channel in training mode, got shape \(1, 3, 1, 1\)\.$"
    ):
        norm(x)
    assert norm.running_var.tolist() == [1, 1, 1]
    assert norm.eval()(x).isfinite().all()


def test_norm_under_autocast_keeps_float32_statistics():
    """bfloat16 has 8 bits, so statistics must be computed in float32; the relative error of the output is 2^-8."""
    norm, wide = DetachedBatchNorm2d(3), DetachedBatchNorm2d(3)
    x = batches(1)[0].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    expected = wide(x.float())
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(norm.running_var, wide.running_var, rtol=1e-6, atol=0)
    torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"num_features must be an integer in \[1, inf\), got 0\.$"),
        ((3, -1e-5), r"eps must be a number in \[0, inf\), got -1e-05\.$"),
        ((3, 1e-5, 0.0), r"momentum must be None or a number in \(0, 1\], got 0\.0\.$"),
    ],
)
def test_norm_with_invalid_argument_raises(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        DetachedBatchNorm2d(*arguments)


def test_norm_with_wrong_number_of_dimensions_raises(norm):
    with pytest.raises(ValueError, match="expected 4D input"):
        norm(torch.zeros(3, 3, dtype=torch.float64))
