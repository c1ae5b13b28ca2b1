"""Four small networks for 8 x 8 images, with smooth activations and at most 50 000 parameters."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Pre-norm transformer of two layers on the 8 rows of an image, with `scaled_dot_product_attention`."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.place = nn.Parameter(0.02 * nn.init.normal_(nn.Linear(width, 8).weight.detach().clone()))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.rows(images.squeeze(1)) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Block(nn.Module):
    """Transformer block: attention and a network of one hidden layer, each after LayerNorm and with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.mix(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.dense(self.second(x))


class Residual(nn.Module):
    """Residual convolution network: three blocks of normalization over channels and pixels and two convolutions."""

    def __init__(self, normalized: bool = True, channels: int = 6, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_branch(channels, normalized) for _ in range(blocks))
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.flatten(1))


def _branch(channels: int, normalized: bool) -> nn.Sequential:
    norm = nn.GroupNorm(1, channels) if normalized else nn.Identity()
    return nn.Sequential(norm, _conv(channels), nn.GELU(), _conv(channels))


def _conv(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1)


def mlp() -> nn.Module:
    """Return a network of two hidden layers of 64."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))


def batchnorm() -> nn.Module:
    """Return a network of two convolutions, each with BatchNorm in training mode."""
    first = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.GELU()
    second = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.GELU()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64, 10))


NETWORKS = {
    "MLP": mlp,
    "CNN, BatchNorm": batchnorm,
    "transformer": Attention,
    "residual": Residual,
    "unnormalized": lambda: Residual(normalized=False),
}
