"""Small seeded runs for `early_warning.py`: healthy, slowly unstable, and with a sudden cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import dashpot as dp
from dashpot.data import digits, fashion_mnist

Batch = tuple[Tensor, Tensor]

STEPS = 400
"""Largest number of steps of a run."""
FULL = 128
"""Batch size of full-batch runs, and number of examples whose loss defines doubling."""
NOISE = 0.08  # share of random labels: no training loss tends to 0, where doubling would mean nothing


# ---- data ------------------------------------------------------------------------------------------------------------


@lru_cache
def digit_images() -> Batch:
    """Return the 1500 training digits, (N, 1, 8, 8) in [-1, 1]."""
    images = digits.load()
    x = torch.tensor(images.train_images, dtype=torch.float32).reshape(-1, 1, 8, 8).div_(8).sub_(1)
    return x, torch.tensor(images.train_labels).long()


@lru_cache
def fashion_images(folder: str | None) -> Batch:
    """Return 2000 training images of Fashion-MNIST, averaged to 14 x 14, in [-1, 1]."""
    images = fashion_mnist.load(folder)
    x = torch.tensor(images.train_images[:2000], dtype=torch.float32).reshape(-1, 1, 28, 28).div_(127.5).sub_(1)
    return functional.avg_pool2d(x, 2), torch.tensor(images.train_labels[:2000]).long()


def noisy(labels: Tensor, g: torch.Generator, share: float = NOISE) -> Tensor:
    """Return labels after replacing a share by random ones."""
    random = torch.randint(10, labels.shape, generator=g)
    return torch.where(torch.rand(labels.shape, generator=g) < share, random, labels)


def sequences(g: torch.Generator, symbols: int = 12, count: int = 1024, length: int = 9) -> Batch:
    """Return sequences of a random second-order Markov chain, and the same sequences shifted by one."""
    logits = 4.0 * torch.randn(symbols, symbols, symbols, generator=g)
    table = logits.softmax(-1)
    x = torch.randint(symbols, (count, 2), generator=g)
    for _ in range(length - 2):
        x = torch.cat([x, torch.multinomial(table[x[:, -2], x[:, -1]], 1, generator=g)], 1)
    return x[:, :-1], x[:, 1:]


# ---- models ----------------------------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """One block with attention, 12 symbols, 8 positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(12, width), nn.Embedding(8, width)
        self.before, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.middle, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 64), nn.Linear(64, width)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.symbols(x) + self.positions.weight[: x.shape[1]]
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.before(h)).chunk(3, -1))
        h = h + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = h + self.down(functional.gelu(self.up(self.middle(h))))
        return self.head(self.last(h)).flatten(0, 1)


class Recurrent(nn.Module):
    """A GRU of 20 units, 12 symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.cells, self.head = nn.Embedding(12, 16), nn.GRU(16, 20, batch_first=True), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.symbols(x))[0]).flatten(0, 1)


def perceptron(activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), activation(), nn.Linear(48, 32), activation(), nn.Linear(32, 10)
    )


def convolutions(size: int) -> nn.Module:
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * math.ceil(size / 4) ** 2, 10))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "digits MLP": perceptron,
    "digits ReLU MLP": lambda: perceptron(nn.ReLU),
    "digits CNN": lambda: convolutions(8),
    "Fashion-MNIST CNN": lambda: convolutions(14),
    "transformer": Transformer,
    "GRU": Recurrent,
}

# Rates at which all models train well: about a third of the largest rate without divergence.
RATES = {"sgd": 0.05, "plain": 0.2, "adam": 4e-3, "rmsprop": 2e-3}


# ---- settings of a run -----------------------------------------------------------------------------------------------


@dataclass
class Setting:
    """One run. `onset` is the first step of the cause, counted from 1; 1 if the cause is the setting itself."""

    kind: str
    seed: int
    model: str
    method: str
    library: str
    lr: float
    momentum: float
    beta2: float
    batch: int
    schedule: str = "constant"
    steps: int = STEPS
    onset: int = 1
    cause: str = ""
    size: float = 1.0  # factor of a rate jump or of the inputs, or factor of a ramp per step
    target: str = ""  # parameter of a rate jump, "" for all
    harmless: tuple[int, ...] = ()  # steps with an unusual batch in healthy runs
    extra: dict[str, Any] = field(default_factory=dict)


def setting(kind: str, seed: int) -> Setting:
    """Return the setting of a seed: all draws come from (kind, seed)."""
    rng = np.random.default_rng([seed, ["healthy", "ramp", "sharpening", "beta2", "batch", "jump"].index(kind)])
    method = str(rng.choice(["sgd", "plain", "adam", "adam", "rmsprop"]))
    own = Setting(
        kind=kind,
        seed=seed,
        model=str(rng.choice(list(MODELS))),
        method=method,
        library=str(rng.choice(["dashpot", "torch"])),
        lr=RATES[method] * float(np.exp(rng.uniform(np.log(0.25), np.log(1.25)))),
        momentum=0.9 if method in {"sgd", "adam"} else 0.0,
        beta2=float(rng.choice([0.95, 0.98, 0.99, 0.999, 0.9999])),
        batch=int(rng.choice([16, 32, 64, FULL])),
        schedule=str(rng.choice(["constant", "warmup", "cosine", "drop", "warmup cosine", "cycle"])),
    )
    return {"healthy": _healthy, "ramp": _ramp, "sharpening": _sharpening, "beta2": _beta2}.get(kind, _sudden)(own, rng)


def _healthy(own: Setting, rng: np.random.Generator) -> Setting:
    if rng.random() < 0.4 and own.batch < FULL:
        own.harmless = tuple(int(s) for s in rng.integers(20, STEPS, 3))
    return own


def _ramp(own: Setting, rng: np.random.Generator) -> Setting:
    own.schedule, own.cause = "constant", "rate ramp"
    own.onset = int(rng.integers(60, 150))
    own.size = float(np.exp(rng.uniform(np.log(50), np.log(1000)) / (STEPS - own.onset)))
    return own


def _sharpening(own: Setting, rng: np.random.Generator) -> Setting:
    """Full batches with many random labels, learned by heart, which sharpens; gradient descent, also with momentum."""
    own.schedule, own.cause, own.method = "constant", "sharpening", str(rng.choice(["sgd", "plain"]))
    own.model = str(rng.choice(["digits ReLU MLP", "digits CNN", "Fashion-MNIST CNN"]))
    own.momentum = 0.9 if own.method == "sgd" else 0.0
    own.batch, own.extra["noise"] = FULL, float(rng.uniform(0.3, 1.0))
    own.lr = RATES[own.method] * float(np.exp(rng.uniform(np.log(0.7), np.log(3))))
    return own


def _beta2(own: Setting, rng: np.random.Generator) -> Setting:
    """A weight of the loss grows, and with it the gradients, faster than a long second moment follows."""
    own.schedule, own.cause, own.method = "constant", "beta2", "adam"
    own.momentum, own.beta2 = 0.9, float(rng.choice([0.999, 0.9995, 0.9999]))
    own.batch = int(rng.choice([16, 32, 64, FULL]))
    own.lr = RATES["adam"] * float(np.exp(rng.uniform(np.log(3), np.log(25))))
    own.onset = int(rng.integers(60, 200))
    own.size = float(np.exp(np.exp(rng.uniform(np.log(0.02), np.log(0.08)))))
    return own


def _sudden(own: Setting, rng: np.random.Generator) -> Setting:
    own.onset = int(rng.integers(60, STEPS - 20))
    if own.kind == "jump":
        own.cause, own.size = "rate jump", float(np.exp(rng.uniform(np.log(8), np.log(100))))
        own.target = "" if rng.random() < 0.5 else "one"
    else:
        own.cause = str(rng.choice(["scaled inputs", "wrong labels", "constant inputs", "scaled loss"]))
        own.size = float(np.exp(rng.uniform(np.log(8), np.log(50))))
    own.extra["pick"] = float(rng.random())
    return own


# ---- optimizers and schedules ----------------------------------------------------------------------------------------


def optimizer(own: Setting, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
    ours = own.library == "dashpot"
    if own.method in {"sgd", "plain"}:
        return (dp.SGD if ours else torch.optim.SGD)(params, lr=own.lr, momentum=own.momentum)
    if own.method == "adam":
        kind = dp.AdamW if ours else torch.optim.AdamW
        return kind(params, lr=own.lr, betas=(own.momentum, own.beta2), weight_decay=0.01)
    return (
        dp.RMSprop(params, lr=own.lr, alpha=own.beta2)
        if ours
        else torch.optim.RMSprop(params, lr=own.lr, alpha=own.beta2)
    )


def factor(own: Setting, step: int, total: int = STEPS) -> float:
    """Return the factor of the schedule at a step, counted from 1."""
    t, warm = step - 1, 40
    value = min(1.0, (t + 1) / warm) if own.schedule.startswith("warmup") else 1.0
    if own.schedule.endswith("cosine"):
        value *= 0.5 * (1 + math.cos(math.pi * t / total))
    if own.schedule == "drop":
        value *= 0.1 ** (t // (total // 3))
    if own.schedule == "cycle":
        value *= 0.25 + 0.75 * abs((t / 50) % 2 - 1)
    return value


def rate_factor(own: Setting, step: int, group: int) -> float:
    """Return the factor on the learning rate of a group, including the cause."""
    value = factor(own, step)
    if own.cause == "rate ramp" and step >= own.onset:
        value *= own.size ** (step - own.onset + 1)
    if own.cause == "rate jump" and step >= own.onset and (not own.target or group == 1):
        value *= own.size
    return value


# ---- batches ---------------------------------------------------------------------------------------------------------


class Data:
    """Batches of a run; every batch is a function of the seed and the step."""

    def __init__(self, own: Setting, folder: str | None) -> None:
        self.own = own
        g = torch.Generator().manual_seed(own.seed)
        self.symbols = own.model in {"transformer", "GRU"}
        if self.symbols:
            self.x, self.y = sequences(g)
        else:
            x, y = fashion_images(folder) if own.model.startswith("Fashion") else digit_images()
            order = torch.randperm(len(x), generator=g)[:1000]
            self.x, self.y = x[order], noisy(y[order], g, own.extra.get("noise", NOISE))
        self.full = own.batch == FULL

    def clean(self, step: int) -> Batch:
        if self.full:
            return self.fixed()
        g = torch.Generator().manual_seed(self.own.seed * 100003 + step)
        rows = torch.randint(len(self.x), (self.own.batch,), generator=g)
        x, y = self.x[rows], self.y[rows]
        return (x, y) if self.symbols else (x + 0.3 * torch.randn(x.shape, generator=g), y)

    def unusual(self, x: Tensor, y: Tensor, step: int) -> Batch:
        """Return a harmless unusual batch: a quarter of the size, a single class, or noisier inputs."""
        if step % 3 == 0 or self.symbols:
            return x[: max(4, len(x) // 4)], y[: max(4, len(x) // 4)]
        if step % 3 == 1:
            rows = torch.nonzero(self.y == step % 10)[: len(x), 0]
            return self.x[rows], self.y[rows]
        return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(step)), y

    def bad(self, x: Tensor, y: Tensor) -> Batch:
        cause = self.own.cause
        if cause == "wrong labels":
            return x, (y + 1 + (self.own.seed % 7)) % (12 if self.symbols else 10)
        if cause == "constant inputs":
            return (torch.zeros_like(x), y) if self.symbols else (torch.full_like(x, min(self.own.size, 20.0)), y)
        if cause == "scaled inputs" and not self.symbols:
            return x * self.own.size, y
        return x, y

    def fixed(self) -> Batch:
        """Return the examples whose loss defines doubling."""
        return self.x[:FULL], self.y[:FULL]


# ---- run -------------------------------------------------------------------------------------------------------------


class Run:
    """A run; `steps` yields the losses of the batch and of the fixed examples before each update."""

    def __init__(self, own: Setting, folder: str | None = None) -> None:
        torch.manual_seed(own.seed)
        self.own, self.data, self.model = own, Data(own, folder), MODELS[own.model]()
        names = [name for name, _ in self.model.named_parameters()]
        matrices = [name for name, p in self.model.named_parameters() if p.dim() > 1]
        self.target = matrices[int(own.extra.get("pick", 0) * len(matrices))] if own.target else ""
        rest = [p for name, p in self.model.named_parameters() if name != self.target]
        groups: list[dict[str, Any]] = [{"params": rest}]
        if self.target:
            groups.append({"params": [self.model.get_parameter(self.target)]})
        self.optimizer = optimizer(own, groups)
        self.names = names
        self.factors: dict[str, float] = {}  # at the cause: growth of each gradient norm over that of the clean batch

    def loss(self, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.model(batch[0]), batch[1].flatten())

    def batch_loss(self, step: int) -> Tensor:
        """Return the loss of the batch of a step, with the cause."""
        x, y = self.data.clean(step)
        if step in self.own.harmless:
            return self.loss(self.data.unusual(x, y, step))
        if self.own.kind != "batch" or step != self.own.onset:
            return self.loss((x, y))
        clean, own = self._norms(self.loss((x, y))), self._bad_loss(x, y)
        bad = self._norms(own)
        self.factors = {name: b / c if c else math.inf for name, b, c in zip(self.names, bad, clean, strict=True)}
        return self._bad_loss(x, y)

    def weight(self, step: int) -> float:
        """Return the weight of the loss in the gradients; logged losses are without it."""
        return 0.01 * self.own.size ** max(0, step - self.own.onset) if self.own.cause == "beta2" else 1.0

    def _bad_loss(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.loss(self.data.bad(x, y))
        scaled = self.own.cause == "scaled loss" or (self.own.cause == "scaled inputs" and self.data.symbols)
        return loss * self.own.size if scaled else loss

    def _norms(self, loss: Tensor) -> list[float]:
        params = [self.model.get_parameter(name) for name in self.names]
        return [float(g.norm()) for g in torch.autograd.grad(loss, params)]

    def steps(self) -> Iterator[tuple[int, Tensor, float]]:
        """Yield (step, loss of the batch with gradients in place, loss of the fixed examples); update on resumption."""
        fixed = self.data.fixed()
        for step in range(1, self.own.steps + 1):
            for index, group in enumerate(self.optimizer.param_groups):
                group["lr"] = self.own.lr * rate_factor(self.own, step, index)
            self.optimizer.zero_grad()
            loss = self.batch_loss(step)
            (self.weight(step) * loss).backward()
            with torch.no_grad():
                judged = float(self.loss(fixed))
            yield step, loss.detach(), judged
            self.optimizer.step()


def doubling(losses: list[float]) -> int | None:
    """Return the first step, counted from 1, at which the loss of the fixed examples is twice its running minimum."""
    least = math.inf
    for step, loss in enumerate(losses, 1):
        if not loss < 2 * least:
            return step if step > 1 else None
        least = min(least, loss)
    return None
