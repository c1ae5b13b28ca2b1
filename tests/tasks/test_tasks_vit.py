from __future__ import annotations

import math

import torch
from torch import nn

from dashpot.tasks.vit import ViT, ViTSize

SMALL = ViTSize(layers=2, heads=2, width=8, patch=4, image=12)


def reference(model: ViT, size: ViTSize, images: torch.Tensor) -> torch.Tensor:
    """Output by explicit loops over patches and heads."""
    state, count = dict(model.named_parameters()), size.image // size.patch

    def normed(x, name):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"]

    patches = [
        images[:, :, i * size.patch : (i + 1) * size.patch, j * size.patch : (j + 1) * size.patch].flatten(1)
        for i in range(count)
        for j in range(count)
    ]
    x = torch.stack(patches, 1) @ state["embedding.weight"].T + state["embedding.bias"] + state["positions.weight"]
    for layer in range(size.layers):
        name = f"blocks.{layer}"
        parts = (normed(x, f"{name}.attention.0") @ state[f"{name}.attention.1.first.weight"].T).chunk(3, -1)
        heads = []
        for query, key, value in zip(*(part.chunk(size.heads, -1) for part in parts), strict=True):
            weights = (query @ key.mT / math.sqrt(size.width / size.heads)).softmax(-1)
            heads.append(weights @ value)
        x = x + torch.cat(heads, -1) @ state[f"{name}.attention.1.last.weight"].T
        hidden = normed(x, f"{name}.network.0") @ state[f"{name}.network.1.first.weight"].T
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + hidden @ state[f"{name}.network.1.last.weight"].T
    return normed(x, "norm").mean(1) @ state["head.weight"].T + state["head.bias"]


def test_vit_equals_reference():
    torch.manual_seed(0)
    model, images = ViT(SMALL).double(), torch.randn(3, 3, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    actual, expected = model(images), reference(model, SMALL, images)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)  # float64, another order of sums
    weights = list(model.parameters())
    for one, two in zip(
        torch.autograd.grad(actual.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)  # float64, another order of sums


def test_vit_with_equal_positions_is_invariant_to_permutations_of_patches():
    torch.manual_seed(0)
    model, images = ViT(SMALL).double(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    moved = images.roll(4, -1)
    assert (model(images) - model(moved)).abs().max() > 1e-6
    nn.init.zeros_(model.positions.weight)
    torch.testing.assert_close(model(images), model(moved), rtol=1e-12, atol=1e-12)  # float64, another order of sums


def test_vit_initial_loss_is_near_chance():
    """Weights of standard deviation 0.02 give outputs near 0."""
    torch.manual_seed(0)
    model = ViT(ViTSize(layers=4, heads=4, width=64))
    loss = nn.functional.cross_entropy(model(torch.randn(32, 3, 32, 32)), torch.arange(32) % 10).item()
    assert abs(loss - math.log(10)) < 0.05


def test_vit_initialization_is_that_of_xavier():
    """The std is sqrt(2/(fan_in + fan_out)); for 65 536 uniform draws, five standard errors of the std are 0.9 %."""
    torch.manual_seed(0)
    model = ViT(ViTSize(layers=1, heads=4, width=128))
    for name in ("first", "last"):
        weight = model.get_parameter(f"blocks.0.network.1.{name}.weight")
        assert abs(weight.std().item() / math.sqrt(2 / (128 + 512)) - 1) < 0.009
    assert abs(model.head.weight.std().item() / 0.02 - 1) < 0.1, "1280 draws"
    assert model.embedding.bias.all(), "a bias of zero would never change under a correlation numerator"
    assert model.head.bias.all()
