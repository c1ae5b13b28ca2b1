from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dashpot.tasks.resnet import RESNET18, ResNet, ResNetSize

SMALL = ResNetSize((8, 16), blocks=2)


def reference(model: ResNet, size: ResNetSize, x: torch.Tensor) -> torch.Tensor:
    """Output in training mode, by convolutions and batch statistics of the published definition."""
    state = dict(model.named_parameters())

    def normalized(x, name, stride=1):
        weight = state[f"{name}.0.weight"]
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = (state[f"{name}.1.{key}"][:, None, None] for key in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = normalized(x, "stem", size.stem).clamp(min=0)
    for index in range(len(size.widths) * size.blocks):
        name, stride = f"blocks.{index}", 2 if index and index % size.blocks == 0 else 1
        branch = normalized(normalized(x, f"{name}.first", stride).clamp(min=0), f"{name}.last")
        shortcut = f"{name}.shortcut"
        x = branch + (normalized(x, shortcut, stride) if f"{shortcut}.0.weight" in state else x)
        x = x.clamp(min=0)
    return x.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("size", [SMALL, ResNetSize((8, 8, 16), blocks=1, stem=2)])
def test_resnet_equals_reference(size):
    torch.manual_seed(0)
    model, x = ResNet(size).double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    actual = model(x)
    expected = reference(model, size, x)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)  # float64, another order of sums
    weights = list(model.parameters())
    for one, two in zip(
        torch.autograd.grad(actual.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)  # float64, another order of sums


def test_resnet18_has_the_published_number_of_parameters():
    model = ResNet(RESNET18)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 17 + 3, "3 convolutions are shortcuts"


def test_resnet_initialization_is_kaiming_normal_by_fan_out():
    """The std is sqrt(2/fan_out); for 147 456 draws, five standard errors of the std are 0.9 %."""
    torch.manual_seed(0)
    model = ResNet(ResNetSize((128,), blocks=1))
    weight = model.get_parameter("blocks.0.first.0.weight")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.009)
    assert weight.abs().max() > 3 * weight.std(), "a uniform distribution has a maximum of 1.7 standard deviations"


def test_resnet_initial_loss_is_near_chance():
    """Outputs have a standard deviation below 1, which adds less than 0.5 to ln 10."""
    torch.manual_seed(0)
    model = ResNet(ResNetSize((16, 32, 64), blocks=1))
    loss = nn.functional.cross_entropy(model(torch.randn(64, 3, 32, 32)), torch.arange(64) % 10).item()
    assert math.log(10) - 0.1 < loss < math.log(10) + 0.5


def test_resnet_accepts_other_memory_formats_and_sizes():
    model = ResNet(SMALL).eval()
    x = torch.randn(2, 3, 24, 20)
    with torch.no_grad():
        # float32 convolutions may sum in a different order for a different memory format
        torch.testing.assert_close(model(x), model(x.to(memory_format=torch.channels_last)), rtol=1e-5, atol=1e-5)
