"""Language-model tasks: next-token prediction by a GPT on random windows of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot.data import Batches, seeded
from dashpot.data.windows import Windows, blocks
from dashpot.tasks.gpt import GPT, GPTSize, token_cross_entropy
from dashpot.tasks.task import Problem, Target, Task


@dataclass(frozen=True)
class LanguageTier:
    """Size of the network and length of the training of a language-model task.

    Args:
        size: Size of the network.
        batch_size: Number of windows per batch.
        epoch: Number of steps per epoch.
        epochs: Number of epochs.
        target: Validation loss in nats per token to reach.
    """

    size: GPTSize
    batch_size: int
    epoch: int
    epochs: int
    target: float


@dataclass(frozen=True)
class TokenParts:
    """Training, validation and test tokens of a text; `validation` is None if no tokens are held out."""

    vocabulary: int
    train: Tensor
    validation: Tensor | None
    test: Tensor


def language_model(
    parts: TokenParts,
    tier: LanguageTier,
    *,
    name: str,
    batch_size: int | None,
    device: str,
    margin: float,
    description: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
) -> Task:
    """Return a task that minimizes the cross-entropy per token of a GPT.

    Training uses random windows, and evaluation consecutive windows without overlap. The evaluation data are the
    validation tokens, and the test data the test tokens; without validation tokens, the test tokens are the evaluation
    data. All problems share one copy of the tokens. The seed of a problem determines weights and windows.
    """
    size, batch = tier.size, tier.batch_size if batch_size is None else batch_size
    train = parts.train.to(device)
    test = _evaluated(parts.test, size.block, device)
    validation = None if parts.validation is None else _evaluated(parts.validation, size.block, device)

    def build(seed: int) -> Problem:
        with seeded(seed):
            model = GPT(parts.vocabulary, size).to(device)
        return Problem(
            model=model,
            train=Windows(train, size.block, batch, tier.epoch, seed),
            evaluation=test if validation is None else validation,
            loss=token_cross_entropy,
            metrics={} if metrics is None else metrics,
            test=None if validation is None else test,
        )

    return Task(
        name=name,
        build=build,
        epochs=tier.epochs,
        target=Target("loss", tier.target, "min"),
        description=description,
        config={
            "batch_size": batch,
            "device": str(device),
            "layers": size.layers,
            "heads": size.heads,
            "width": size.width,
            "block": size.block,
            "dropout": size.dropout,
            "steps_per_epoch": tier.epoch,
            **({} if parts.validation is None else {"validation_size": len(parts.validation)}),
            **config,
        },
        margin=margin,
    )


def _evaluated(tokens: Tensor, block: int, device: str) -> Batches:
    return Batches(*blocks(tokens.to(device), block), batch_size=max(1, 4096 // block))


def bits_per_byte(byte_lengths: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the metric of the cross-entropy in bits per byte of text, which does not depend on the tokens.

    The perplexity per word is 2^(bits per byte x bytes per word).

    Args:
        byte_lengths: Number of bytes of each token, of shape (vocabulary,).

    >>> metric = bits_per_byte(torch.tensor([1, 3]))
    >>> metric(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))
    (tensor(2.), tensor(4))
    """

    def metric(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = token_cross_entropy(logits, targets) * targets.numel()
        return nats / math.log(2), byte_lengths.to(targets.device)[targets].sum()

    return metric


def encode_characters(text: str) -> tuple[tuple[str, ...], Tensor]:
    """Return the sorted characters of a text, and the text as tokens, their indices.

    >>> encode_characters("abca")
    (('a', 'b', 'c'), tensor([0, 1, 2, 0]))
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    present = np.flatnonzero(np.bincount(codes))
    index = np.zeros(present[-1] + 1 if present.size else 0, np.int64)
    index[present] = np.arange(present.size)
    return tuple(map(chr, present)), torch.from_numpy(index[codes])
