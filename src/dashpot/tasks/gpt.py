"""GPT: a decoder-only transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

INIT_STD = 0.02
"""Standard deviation of initial weights."""


@dataclass(frozen=True)
class GPTSize:
    """Size of a GPT.

    Args:
        layers: Number of blocks.
        heads: Number of attention heads per block, a divisor of `width`.
        width: Number of features of a token.
        block: Largest number of tokens of an input.
        dropout: Probability of dropout of embeddings, attention weights and the outputs of branches.
        causal: If True, a token attends only to itself and earlier tokens; otherwise, to all tokens.
    """

    layers: int
    heads: int
    width: int
    block: int
    dropout: float = 0.0
    causal: bool = True


class GPT(nn.Module):
    """A decoder-only transformer with learned positions, normalization before each branch, and tied embeddings.

    The input is a tensor of tokens of shape (N, T) with T <= `size.block`, and the output are logits of shape
    (N, T, `vocabulary`). Linear and normalization layers have no bias, as in GPT-2 without biases. Weights are drawn
    from torch's global generator: N(0, 0.02^2), and N(0, 0.02^2/(2 layers)) for the last layer of each branch.

    Args:
        vocabulary: Number of tokens.
        size: Size of the network.

    Source: Radford et al., "Language models are unsupervised multitask learners", 2019; nanoGPT by Karpathy.

    >>> import torch
    >>> model = GPT(65, GPTSize(layers=4, heads=4, width=128, block=64))
    >>> sum(p.numel() for p in model.parameters()), model(torch.zeros(2, 64, dtype=torch.int64)).shape
    (804096, torch.Size([2, 64, 65]))
    """

    def __init__(self, vocabulary: int, size: GPTSize) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, size.width)
        self.positions = nn.Embedding(size.block, size.width)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                last = name.endswith("last.weight")
                nn.init.normal_(weight, std=INIT_STD / math.sqrt(2 * size.layers) if last else INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return functional.linear(self.norm(self.blocks(self.dropout(x))), self.tokens.weight)


class Block(nn.Module):
    """Attention and a two-layer network, each added to its input."""

    def __init__(self, size: GPTSize) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(size.width, bias=False), _Attention(size))
        self.network = nn.Sequential(nn.LayerNorm(size.width, bias=False), _Network(size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.network(x)


class _Attention(nn.Module):
    """Self-attention."""

    def __init__(self, size: GPTSize) -> None:
        super().__init__()
        self.heads, self.rate, self.causal = size.heads, size.dropout, size.causal
        self.first = nn.Linear(size.width, 3 * size.width, bias=False)
        self.last = nn.Linear(size.width, size.width, bias=False)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        parts = self.first(x).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        y = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=self.causal)
        return self.dropout(self.last(y.transpose(1, 2).reshape(count, length, width)))


class _Network(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, size: GPTSize) -> None:
        super().__init__()
        self.first = nn.Linear(size.width, 4 * size.width, bias=False)
        self.last = nn.Linear(4 * size.width, size.width, bias=False)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.last(functional.gelu(self.first(x))))


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per token of logits of shape (N, T, vocabulary)."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
