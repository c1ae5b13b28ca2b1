"""Vision transformer for small color images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dashpot.tasks.gpt import INIT_STD, Block, GPTSize


@dataclass(frozen=True)
class ViTSize:
    """Size of a vision transformer.

    Args:
        layers: Number of blocks.
        heads: Number of attention heads per block, a divisor of `width`.
        width: Number of features of a patch.
        patch: Height and width of a patch in pixels, a divisor of `image`.
        image: Height and width of an image in pixels.
        dropout: Probability of dropout of embeddings, attention weights and the outputs of branches.
    """

    layers: int
    heads: int
    width: int
    patch: int = 4
    image: int = 32
    dropout: float = 0.0


class ViT(nn.Module):
    """A vision transformer, with inputs of shape (N, 3, `size.image`, `size.image`) and outputs (N, `classes`).

    Each patch is mapped to a token by a linear layer, and a learned position is added. The blocks are those of `GPT`,
    but every token attends to all tokens. The mean of the normalized tokens is the input of a linear layer. Weights
    are drawn from torch's global generator: positions and the last layer from N(0, 0.02^2), and the other matrices
    uniformly with variance 2/(fan_in + fan_out). Biases have torch's default initialization, since biases that
    start at zero would never change under a correlation numerator.

    Args:
        size: Size of the network.
        classes: Number of classes.

    Source: Dosovitskiy et al., "An image is worth 16x16 words", arXiv:2010.11929, with the mean of the tokens in place
    of a class token, as in Beyer et al., "Better plain ViT baselines for ImageNet-1k", arXiv:2205.01580.

    >>> model = ViT(ViTSize(layers=12, heads=8, width=256))
    >>> sum(p.numel() for p in model.parameters())
    9475082
    """

    def __init__(self, size: ViTSize, classes: int = 10) -> None:
        super().__init__()
        self.patch = size.patch
        tokens = (size.image // size.patch) ** 2
        blocks = GPTSize(size.layers, size.heads, size.width, tokens, size.dropout, causal=False)
        self.embedding = nn.Linear(3 * size.patch**2, size.width)
        self.positions = nn.Embedding(tokens, size.width)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.Sequential(*(Block(blocks) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width, bias=False)
        self.head = nn.Linear(size.width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        for weight in (self.positions.weight, self.head.weight):
            nn.init.normal_(weight, std=INIT_STD)

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)
        tokens = self.dropout(self.embedding(patches) + self.positions.weight)
        return self.head(self.norm(self.blocks(tokens)).mean(1))
