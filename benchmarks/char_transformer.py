"""A character transformer of 804 096 parameters on a text file, for benchmarks and `dashpot train`.

    python benchmarks/char_transformer.py --data-dir FOLDER [--steps 200]    # FOLDER contains input.txt
    dashpot train "benchmarks/char_transformer.py:task" --data-dir FOLDER

The shape is that of nanoGPT's configuration for CPUs: 4 layers, 4 heads, width 128, 64 characters, batches of 12. The
count of parameters is that of tinyshakespeare, which has 65 characters; the embedding and the output share weights.
Without `--data-dir`, the folder is that of the environment variable DASHPOT_DATA.

Source: github.com/karpathy/nanoGPT (shape and initialization).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

import dashpot as dp
from dashpot.data import Batches, generator, seeded
from dashpot.tasks import Problem, Task, evaluate

LAYERS, HEADS, WIDTH, BLOCK, BATCH = 4, 4, 128, 64, 12
CHARACTERS, PARAMETERS = 65, 804_096
EVALUATED = 256  # windows of the evaluation


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a network of one hidden layer, each after layer normalization and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH, bias=False), Attention()
        self.norm2 = nn.LayerNorm(WIDTH, bias=False)
        self.fc = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.proj = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.proj(functional.gelu(self.fc(self.norm2(x))))


class CharTransformer(nn.Module):
    """Transformer from character indices of shape (N, T) to logits of shape (N, T, characters), T <= 64."""

    def __init__(self, characters: int = CHARACTERS) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(characters, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                depth = 2 * LAYERS if name.endswith("proj.weight") else 1
                nn.init.normal_(p, std=0.02 / math.sqrt(depth))
        assert characters != CHARACTERS or sum(p.numel() for p in self.parameters()) == PARAMETERS

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return functional.linear(self.norm(self.layers(x)), self.token.weight)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next characters."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Text(NamedTuple):
    """Character indices: the first 90 % for training, the rest for evaluation."""

    train: Tensor
    held_out: Tensor
    characters: int
    digest: str


@functools.cache
def text(data_dir: str | os.PathLike[str] | None = None) -> Text:
    """Return the text of `input.txt` in `data_dir`, or in the folder of the environment variable DASHPOT_DATA."""
    folder = data_dir or os.environ.get("DASHPOT_DATA")
    if not folder:
        raise FileNotFoundError("No folder with input.txt: give --data-dir, or set DASHPOT_DATA.")
    content = (Path(folder) / "input.txt").read_bytes()
    letters = content.decode()
    index = {letter: i for i, letter in enumerate(sorted(set(letters)))}
    tokens = torch.tensor([index[letter] for letter in letters])
    split = int(0.9 * len(tokens))
    return Text(tokens[:split], tokens[split:], len(index), hashlib.sha256(content).hexdigest())


def windows(tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return windows of 64 characters and the following characters."""
    found = tokens[starts[:, None] + torch.arange(BLOCK + 1)]
    return found[:, :-1], found[:, 1:]


class RandomWindows(NamedTuple):
    """Stream of batches of windows at random places, pure functions of (seed, epoch, step)."""

    tokens: Tensor
    batch_size: int
    steps: int
    seed: int

    def __len__(self) -> int:
        return self.steps

    def size_of(self, index: int) -> int:
        del index
        return self.batch_size

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        last = len(self.tokens) - BLOCK
        for step in range(self.steps):
            key = generator("windows", self.seed, index, step)
            yield windows(self.tokens, torch.randint(last, (self.batch_size,), generator=key))


def task(*, data_dir: str | None = None, batch_size: int = BATCH, steps: int = 200) -> Task:
    """Return the task: epochs of `steps` batches; evaluation on 256 evenly spaced windows of the held-out text."""
    content = text(data_dir)
    starts = torch.linspace(0, len(content.held_out) - BLOCK - 1, EVALUATED).long()

    def build(seed: int) -> Problem:
        with seeded(seed):
            model = CharTransformer(content.characters)
        train = RandomWindows(content.train, batch_size, steps, seed)
        evaluation = Batches(*windows(content.held_out, starts), batch_size=64)
        return Problem(model=model, train=train, evaluation=evaluation, loss=loss)

    config = {"batch_size": batch_size, "steps": steps, "data_sha256": content.digest}
    described = "a character transformer of 804 096 parameters on the text of a file"
    return Task("char-transformer", build, epochs=1, description=described, config=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    problem = task(data_dir=given.data_dir, steps=given.steps).build(0)
    optimizer = dp.AdamW(problem.model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1)
    start = time.perf_counter()
    for x, y in cast(RandomWindows, problem.train).epoch(0):
        optimizer.zero_grad()
        loss(problem.model(x), y).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    print(f"{given.steps} steps, {1e3 * seconds / given.steps:.1f} ms each, loss {evaluate(problem)['loss']:.3f}")


if __name__ == "__main__":
    main()
