"""The tasks of kills.py, each with its own form of data, loss and randomness.

The models create the file `KILLS_EVALUATION` whenever they are called in evaluation mode, from which kills.py detects
evaluations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dashpot.data import Batches
from dashpot.data import digits as digit_images
from dashpot.tasks import Problem, Task, accuracy

EVALUATION = "KILLS_EVALUATION"
"""Environment variable with the path of the file that marks evaluations."""
PADDING = -100
"""Label of positions without a target."""


class Marking(nn.Module):
    """Base class of models that mark evaluations."""

    def mark(self) -> None:
        if not self.training and EVALUATION in os.environ:
            Path(os.environ[EVALUATION]).touch()


# ---- digits: batches of tensors, augmentation by the global generator, dropout and batch norm ----------------------


class Shifted(Marking):
    """A convolutional network with 10 682 parameters, whose inputs are shifted and noisy in training."""

    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2)]
        self.layers = nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10))

    def forward(self, x: Tensor) -> Tensor:
        self.mark()
        if self.training:
            shift = torch.randint(-1, 2, (2,)).tolist()
            x = torch.roll(x, shift, (-2, -1)) + 0.1 * torch.randn_like(x)
        return self.layers(x)


def digits_problem(seed: int) -> Problem:
    """Return a problem with twenty batches of shuffled digits."""
    images = digit_images.load()
    x, y = (torch.from_numpy(part) for part in (images.train_images, images.train_labels))
    x, y = x[:1000].float().div(8).sub(1).reshape(-1, 1, 8, 8), y[:1000].long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Shifted()
    evaluation = Batches(x[:200], y[:200], 50)
    loss, metrics = nn.functional.cross_entropy, {"accuracy": accuracy}
    return Problem(model, Batches(x, y, 50, shuffle=True, seed=seed), loss, evaluation, metrics)


# ---- loader: a DataLoader that augments in a worker process --------------------------------------------------------


class Augmented(TensorDataset):
    """Images with noise, drawn from the global generators of torch and numpy."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x) + 0.1 * float(np.random.rand()), y


def loader_problem(seed: int) -> Problem:
    """Return a problem with 20 batches from a shuffled loader."""
    made = digits_problem(seed)
    draw = torch.Generator().manual_seed(seed)
    data = Augmented(made.train.x, made.train.y)
    train = DataLoader(data, batch_size=50, shuffle=True, generator=draw, num_workers=1)
    return Problem(made.model, train, made.loss, made.evaluation, made.metrics)


# ---- tokens: batches of dicts, padding, a loss and a metric with their counts --------------------------------------


class Sentences:
    """Stream of shuffled batches of padded sentences, whose next token mostly follows from the current one."""

    def __init__(self, sentences: int, seed: int, batch_size: int = 8) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(3, 13, (sentences,), generator=draw)
        tokens = [torch.randint(29, (sentences,), generator=draw)]
        for _ in range(12):
            noise = torch.randint(0, 10, (sentences,), generator=draw) // 9
            tokens.append((3 * tokens[-1] + 1 + noise) % 29)
        self.tokens, self.seed, self.batch_size = torch.stack(tokens, 1), seed, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.tokens) / self.batch_size)

    def epoch(self, index: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        order = torch.randperm(len(self.tokens), generator=torch.Generator().manual_seed(1000 * self.seed + index))
        for chosen in order.split(self.batch_size):
            mask = torch.arange(12) < self.lengths[chosen, None]
            yield (
                {"tokens": self.tokens[chosen, :-1] * mask, "mask": mask},
                self.tokens[chosen, 1:].masked_fill(~mask, PADDING),
            )


class LanguageModel(Marking):
    """A recurrent network with dropout, whose inputs are passed by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(29, 32), nn.GRU(32, 32, batch_first=True)
        self.dropout, self.output = nn.Dropout(0.1), nn.Linear(32, 29)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        self.mark()
        hidden, _ = self.recurrent(self.embedding(tokens) * mask[:, :, None])
        return self.output(self.dropout(hidden))


def token_loss(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of the tokens, and the number of tokens."""
    total = nn.functional.cross_entropy(output.flatten(0, 1), y.flatten(), ignore_index=PADDING, reduction="sum")
    return total, (y != PADDING).sum()


def token_accuracy(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of correct tokens, and the number of tokens."""
    return (output.argmax(-1) == y).sum(), (y != PADDING).sum()


def tokens_problem(seed: int) -> Problem:
    """Return a problem with 15 batches, an odd number, so that accumulated steps span two passes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LanguageModel()
    metrics = {"accuracy": token_accuracy}
    return Problem(model, Sentences(117, seed), token_loss, Sentences(30, 99), metrics)


# ---- gan: two optimizers, each with its own loss --------------------------------------------------------------------


class Points:
    """Stream of batches of noise and of points on a circle."""

    def __init__(self, batches: int, seed: int) -> None:
        self.batches, self.seed = batches, seed

    def __len__(self) -> int:
        return self.batches

    def epoch(self, index: int) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        draw = torch.Generator().manual_seed(1000 * self.seed + index)
        for _ in range(self.batches):
            noise, angle = torch.randn(64, 2, generator=draw), 6.28 * torch.rand(64, 1, generator=draw)
            real = torch.cat([angle.cos(), angle.sin()], 1)
            yield (noise, real), real


class GAN(Marking):
    """A generator of points, and a discriminator with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1))

    def forward(self, noise: Tensor, real: Tensor, part: str) -> Tensor:
        self.mark()
        fake = self.generator(noise)
        if part == "generator":
            return self.discriminator(fake)
        return self.discriminator(torch.cat([fake.detach(), real]))


def generator_loss(scores: Tensor, y: Any) -> Tensor:
    return nn.functional.softplus(-scores).mean()


def discriminator_loss(scores: Tensor, y: Any) -> Tensor:
    fake, real = scores.chunk(2)
    return nn.functional.softplus(fake).mean() + nn.functional.softplus(-real).mean()


def gan_problem(seed: int) -> Problem:
    """Return a problem with 20 batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GAN()
    losses = {"discriminator": discriminator_loss, "generator": generator_loss}
    return Problem(model, Points(20, seed), losses, Points(4, 99))


# ---- functions of the command line ----------------------------------------------------------------------------------


def digits() -> Task:
    return Task("kill-digits", digits_problem, epochs=8)


def loader() -> Task:
    return Task("kill-loader", loader_problem, epochs=6)


def tokens() -> Task:
    return Task("kill-tokens", tokens_problem, epochs=8)


def gan() -> Task:
    return Task("kill-gan", gan_problem, epochs=8)
