"""Benchmark cases: sets of tensors, dashpot and reference optimizers, and limits of the ratios.

A maker is a function that takes parameters with gradients and returns an object with a `step` method. dashpot
optimizers use the engine named in the environment variable DASHPOT_ENGINE, unless the row specifies an engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from sets import Rotating, grouped
from torch import Tensor

import dashpot as dp


class SupportsStep(Protocol):
    def step(self) -> Any: ...


@runtime_checkable
class Preparing(Protocol):
    """An object with a `step` method, and with untimed preparation before each step."""

    def prepare(self) -> None: ...


Make = Callable[[list[Tensor]], SupportsStep]

LARGE = "25.2M parameters in 24 (1024, 1024) and 50 (1024,)"
MANY = "1000 tensors of 64 to 4096 elements"
NETWORK = "the Fashion-MNIST network, 18 small tensors"
TRANSFORMER = "a transformer of 2 layers, 30 tensors"
TEN = "10 tensors of 1000 elements"
MIDDLE = "300 tensors of 1000 elements"
GROUPS = "2000 tensors of 100 elements, a group each"

_PERMUTED = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
SHAPES: dict[str, list[tuple[int, ...]]] = {
    LARGE: [(1024, 1024)] * 24 + [(1024,)] * 50,
    MANY: [(round(64 * 64 ** (i / 999)),) for i in _PERMUTED],  # evenly spread on a logarithmic scale
    NETWORK: [
        *((c, k, s, s) for c, k, s in ((8, 1, 5), (16, 8, 3), (32, 16, 3), (64, 32, 3), (10, 64, 3))),
        *((c,) for c in (8, 16, 32, 64) for _ in range(3)),
        (10,),
    ],
    TRANSFORMER: [  # width 128, 256 tokens, 128 positions: embeddings, layers of twelve tensors, final norm, head
        *((256, 128), (128, 128)),
        *((384, 128), (384,), (128, 128), (128,), (512, 128), (512,), (128, 512), (128,), *[(128,)] * 4) * 2,
        *((128,), (128,), (256, 128), (256,)),
    ],
    TEN: [(1000,)] * 10,
    MIDDLE: [(1000,)] * 300,
    GROUPS: [(100,)] * 2000,
}


class Case(NamedTuple):
    """A table row: the step time of `ours` relative to that of `reference`.

    Args:
        must: Required upper limit of the ratio; None for information only.
        aim: Desired upper limit of the ratio.
        package: Additional package that the row requires.
        early: Whether to time steps 2 to 50 of fresh optimizers instead of steps after a warm-up.
    """

    name: str
    ours: Make
    against: str
    reference: Make
    must: float | None = None
    aim: float | None = None
    tensors: str = LARGE
    dtype: torch.dtype = torch.float32
    package: str | None = None
    early: bool = False

    def installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None

    def title(self) -> str:
        """Return the name of the row, followed by the package and its version if the row requires a package."""
        if self.package is None:
            return self.name
        return f"{self.package} {metadata.version(self.package) if self.installed() else ''}: {self.name}"


def parameters(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, copies: int) -> list[list[Tensor]]:
    """Return `copies` lists of separate parameter tensors with equal values and equal gradients."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    grads = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    lists = [[w.clone().requires_grad_() for w in weights] for _ in range(copies)]
    for params in lists:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
    return lists


# ---- reference optimizers -------------------------------------------------------------------------------------------


class ClipThenStep:
    """An optimizer with clipping outside the step: `step` scales the gradients, then updates the parameters."""

    def __init__(self, params: list[Tensor]) -> None:
        self.params, self.optimizer = params, torch.optim.AdamW(params, fused=True)

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()


def torch_adamw(params: list[Tensor], **options: Any) -> SupportsStep:
    return torch.optim.AdamW(params, **options)


def torch_sgd(params: list[Tensor]) -> SupportsStep:
    return torch.optim.SGD(params, lr=1e-3, momentum=0.9, fused=True)


def peer(params: list[Tensor], package: str, name: str) -> SupportsStep:
    """Return an optimizer of a third-party package with default settings, in training mode."""
    optimizer = getattr(importlib.import_module(package), name)(params)
    if hasattr(optimizer, "train"):  # schedulefree requires training mode
        optimizer.train()
    if hasattr(optimizer, "consume_grad"):  # otherwise heavyball drops the gradients, and later steps are no-ops
        optimizer.consume_grad = False
    return optimizer


FUSED, FOREACH, LOOP = "torch AdamW fused", "torch AdamW foreach", "torch AdamW loop"
fused = partial(torch_adamw, fused=True)
foreach = partial(torch_adamw, foreach=True)
loop = partial(torch_adamw, foreach=False)


# ---- dashpot optimizers ---------------------------------------------------------------------------------------------


def adamw(params: list[Tensor], **options: Any) -> SupportsStep:
    return dp.AdamW(params, **options)


def sgd(params: list[Tensor]) -> SupportsStep:
    return dp.SGD(params, lr=1e-3, momentum=0.9)


def autosgm(params: list[Tensor], numerator: int) -> SupportsStep:
    return dp.AutoSGM(params, numerator=numerator)


halved = partial(adamw, state_dtype=torch.bfloat16)
kahan = partial(halved, rounding="kahan")
stochastic = partial(halved, rounding="stochastic")


def moved(stepper: SupportsStep) -> int | None:
    """Return the bytes moved by a dashpot step; None if any tensor is not stepped by a kernel."""
    if not isinstance(stepper, dp.Optimizer) or stepper.options.engine == "eager":
        return None
    table = stepper._backend.tensor_table
    if not table.kernel_args or table.fallbacks:
        return None
    bytes_ = sum(args.kernel.bytes_per_element * args.elements() for args in table.kernel_args)
    if stepper.options.max_norm is None:
        return bytes_
    grads = (p.grad for group in stepper.param_groups for p in group["params"])
    return bytes_ + sum(g.nbytes for g in grads if g is not None)  # the norm reads the gradients a second time


# ---- the rows -------------------------------------------------------------------------------------------------------

BF16 = torch.bfloat16

ADAMW = Case("dashpot AdamW", adamw, FUSED, fused, 1.10, 1.00)
HALVED = Case("dashpot AdamW, bf16 state", halved, FUSED, fused, 1.0, 0.75)
KAHAN = Case("dashpot AdamW, all bf16, Kahan", kahan, FUSED + ", all bf16", fused, 1.0, 0.85, dtype=BF16)
STOCHASTIC = Case("dashpot AdamW, all bf16, stochastic", stochastic, FUSED + ", all bf16", fused, dtype=BF16)
EAGER = "dashpot AdamW, engine='eager'"
eager, auto = partial(adamw, engine="eager"), partial(adamw, engine="auto")

TARGETS = [
    ADAMW,
    Case("dashpot AdamW", adamw, FUSED, fused, 0.55, 0.4, MANY),
    Case("dashpot AdamW", adamw, FUSED, fused, 1.1, 0.8, NETWORK),
    Case("dashpot AdamW", adamw, FUSED, fused, 1.1, 0.8, TEN),
    Case(
        "dashpot AdamW, engine='auto', steps 2 to 50",
        auto,
        FOREACH,
        foreach,
        0.5,
        0.2,
        TRANSFORMER,
        early=True,
    ),
    Case(
        "dashpot AdamW, another 200 of them at each step",
        partial(Rotating, shift=7),
        "dashpot AdamW, the same 200",
        partial(Rotating, shift=0),
        1.5,
        1.1,
        MIDDLE,
    ),
    Case(
        "dashpot AdamW, equal settings",
        partial(grouped, make=dp.AdamW, spread=False),
        FUSED,
        partial(grouped, make=torch.optim.AdamW, spread=False, fused=True),
        1.0,
        0.5,
        GROUPS,
    ),
    Case(
        "dashpot AdamW with max_norm",
        partial(adamw, max_norm=1.0),
        "torch clip_grad_norm_ + fused",
        ClipThenStep,
        0.90,
        0.78,
    ),
    HALVED,
    KAHAN,
    Case("dashpot AutoSGM, numerator 1", partial(autosgm, numerator=1), FUSED, fused, 3.2, 2.4),
    Case("dashpot AutoSGM, numerator 2", partial(autosgm, numerator=2), FUSED, fused, 3.0, 2.7),
    Case("dashpot AutoSGM, numerator 3", partial(autosgm, numerator=3), FUSED, fused, 2.6, 1.9),
    Case("dashpot SGD, momentum 0.9", sgd, "torch SGD fused", torch_sgd, 1.10, 1.00),
    Case(EAGER, eager, LOOP, loop, 3.0, 2.0),
    Case(EAGER, eager, LOOP, loop, 3.0, 2.0, NETWORK),
]

OTHERS = [
    STOCHASTIC,
    Case(
        "dashpot AdamW, a learning rate each",
        partial(grouped, make=dp.AdamW, spread=True),
        FUSED,
        partial(grouped, make=torch.optim.AdamW, spread=True, fused=True),
        tensors=GROUPS,
    ),
    Case("dashpot AdamW, engine='auto', steps 2 to 50", auto, FUSED, fused, tensors=TRANSFORMER, early=True),
    Case(EAGER, eager, LOOP, loop, tensors=MANY),
    *(
        Case(name, make, FUSED, fused, tensors=tensors)
        for tensors in (LARGE, MANY, NETWORK)
        for name, make in ((FOREACH, foreach), (LOOP, loop))
    ),
    *(
        Case(name, partial(peer, package=package, name=name), FUSED, fused, package=package)
        for package, name in (
            ("schedulefree", "AdamWScheduleFree"),
            ("pytorch_optimizer", "StableAdamW"),  # AdamW of this package is torch's class
            ("heavyball", "AdamW"),
        )
    ),
]

NARROW = [ADAMW, HALVED, KAHAN, STOCHASTIC]
"""Rows that are also measured without AVX-512."""
