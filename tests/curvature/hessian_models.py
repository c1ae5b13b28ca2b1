"""Small models and losses for tests of Hessians, with explicit Hessians by torch.func."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """Self-attention by SDPA between two LayerNorms, with a tied output."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.mix, self.after = nn.LayerNorm(4), nn.Linear(4, 12), nn.LayerNorm(4)

    def forward(self, x):
        q, k, v = self.mix(self.before(x.unflatten(1, (3, 4)))).unflatten(-1, (1, 12)).transpose(1, 2).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return nn.functional.linear(self.after(mixed.mean(2).squeeze(1)), self.mix.weight[:3])


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 3)),
    "conv-batchnorm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(),
        nn.Linear(24, 3),
    ),
    "attention-layernorm": Attention,
    "dropout": lambda: nn.Sequential(nn.Linear(12, 3), nn.Dropout(0.5), nn.SiLU(), nn.Linear(3, 3)),
}  # fmt: skip


def problem(name, dtype=torch.float64):
    """Return (model, closure) with fixed data."""
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype).train()
    x, y = torch.randn(10, 12, dtype=dtype), torch.randint(3, (10,))
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def explicit(model, closure):
    """Return the Hessian from products with unit vectors by double backward, independent of the package."""
    params = list(model.parameters())
    state = torch.get_rng_state()
    buffers = [b.clone() for b in model.buffers()]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        grads = torch.autograd.grad(closure(), params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [torch.autograd.grad(g, params, retain_graph=True, materialize_grads=True) for g in flat]
    torch.set_rng_state(state)
    for b, kept in zip(model.buffers(), buffers, strict=True):
        b.copy_(kept)
    return torch.stack([torch.cat([x.reshape(-1) for x in row]) for row in rows])
