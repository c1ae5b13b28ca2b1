"""Random combinations of settings, group edits and schedules, run on both engines.

A case passes if it raises an `ArgumentError` (or a `TypeError` of the package) with a one-line message, or if both
engines take three steps to the same weights, including inf and NaN.

    python tests/methods/settings_fuzz.py 100000        # cases 0 to 99999, one process per core
"""

from __future__ import annotations

import inspect
import math
import os
import random
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dashpot as dp
from dashpot import schedules
from dashpot.optimizers.options import ResolvedOptions
from dashpot.optimizers.registry import METHODS

STEPS = 3
FLOATS = (0.0, -0.0, 5e-324, 1e-300, 1e-45, 1e-38, 1e-8, 0.1, 0.5, 0.9, 0.999999, 1.0, 1.5, 2.0, 100.0, 65504.0, 1e19)
FLOATS += (3.3e38, 3.5e38, 1e300, 1.7e308, math.inf, -math.inf, math.nan, -1.0, -1e-30, -1e300, 1 - 1e-16, 1 - 1e-17)
INTEGERS = (0, 1, 2, 3, 7, -1, 2**31, 2**53, 2**63 - 1, 2**63, 10**40, 10**400, 10**5000, -(10**5000))
OTHERS = (
    "0.1",
    "x",
    "",
    None,
    True,
    False,
    (),
    (0.9,),
    (0.9, 0.99),
    [0.5, 0.5],
    (0.9, "x"),
    (10**5000, 0.9),
    {},
    1j,
    b"1",
)
NUMPY = (np.float64(0.1), np.float32(0.1), np.float16(0.1), np.int64(1), np.int8(2), np.bool_(True), np.float64("nan"))
NAMES = ("auto", "skip", "raise", "nearest", "stochastic", "kahan", "lr", "schedule", "constant", "coupled", "change")
CLASSES: tuple[type[dp.Optimizer], ...] = tuple(row.cls for row in METHODS.values())
RECIPES = (
    dp.Recipe(dp.Filter(0.9), dp.SecondMoment(0.9), dp.DecoupledDecay(0.01), lr=0.1),
    dp.Recipe(dp.CoupledDecay(0.01), dp.Filter(0.5, zero=0.25, gain=1.0, normalise="none"), dp.HuberClip(0.9), lr=0.1),
    dp.Recipe(dp.SecondMoment(0.9, 1e-3, eps_mode="inside"), dp.ClipElements(1.0), dp.MomentRate(0.5), lr=0.1),
)
NOT_TRIED = ("self", "params", "options", "schedule", "probe", "process_group", "filter", "rate", "decay", "robust")
OPTIONS = tuple(name for name in ResolvedOptions._fields if name != "engine")
EDITED = ("steps_done", "initial_lr", "max_lr", "seed", "capturable", "extra", "weight_decy")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2**-6}


def random_value(rng: random.Random) -> Any:
    """Return a number or a different value, as a Python, NumPy or torch object."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(FLOATS)
    if kind < 0.4:
        return 10.0 ** rng.uniform(-12, 1)
    if kind < 0.5:
        return rng.choice(INTEGERS)
    if kind < 0.6:
        return rng.choice(NUMPY)
    if kind < 0.75:
        return random_tensor(rng)
    if kind < 0.85:
        return (random_value(rng), random_value(rng))
    return rng.choice(NAMES if rng.random() < 0.5 else OTHERS)


def random_tensor(rng: random.Random) -> torch.Tensor:
    value = rng.choice(FLOATS[:17])
    dtype = rng.choice((torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64))
    shape = rng.choice(((), (1,), (1, 1), (2,), (0,)))
    made = torch.full(shape, 1 if dtype == torch.int64 else value > 0 if dtype == torch.bool else value, dtype=dtype)
    return (
        made.to("meta") if rng.random() < 0.05 else made.requires_grad_(dtype.is_floating_point and rng.random() < 0.1)
    )


def random_schedule(rng: random.Random, names: list[str]) -> Any:
    kind = rng.choice((schedules.Constant, schedules.Exponential, schedules.Cosine, schedules.Linear))
    values = {
        schedules.Constant: lambda: {"factor": random_value(rng)},
        schedules.Exponential: lambda: {"factor": random_value(rng)},
        schedules.Cosine: lambda: {"steps": rng.choice((1, 2, 10)), "floor": random_value(rng)},
        schedules.Linear: lambda: {
            "steps": rng.choice((1, 2, 10)),
            "start": random_value(rng),
            "end": random_value(rng),
        },
    }[kind]()
    made = kind(**values)
    return made if rng.random() < 0.5 else {rng.choice(names): made}


class Case:
    """A random case determined by a seed. Each run draws it again, because runs may modify tensors."""

    def __init__(self, seed: int, classes: tuple[type[dp.Optimizer], ...] = CLASSES) -> None:
        self.seed, self.classes = seed, classes

    def build(self, engine: str, dtype: torch.dtype, rng: random.Random) -> tuple[Any, list[torch.Tensor], list[str]]:
        generator = torch.Generator().manual_seed(self.seed % 1000)
        params = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3,), (2, 2), ())]
        params = [p.to(dtype).requires_grad_() for p in params]
        cls: Any = rng.choice(self.classes)
        options: dict[str, Any] = {"engine": engine}
        options |= {name: random_value(rng) for name in OPTIONS if rng.random() < 0.04}
        if issubclass(cls, dp.SGM):
            names = ["lr", "momentum", "eps", "beta", "weight_decay"]
            recipe = rng.choice(RECIPES)
            if rng.random() < 0.5:
                recipe = recipe.with_settings(**{rng.choice([*recipe.settings(), "lr"]): random_value(rng)})
            return dp.SGM.from_recipe(params, recipe, **options), params, names
        known = (*inspect.signature(cls.__init__).parameters, "maximize", "differentiable")
        names = [name for name in dict.fromkeys(known) if name not in NOT_TRIED]
        options |= {name: random_value(rng) for name in rng.sample(names, rng.choice((0, 1, 1, 2)))}
        if rng.random() < 0.15:
            options["schedule"] = random_schedule(rng, names)
        group = {name: random_value(rng) for name in rng.sample([*names, *EDITED], 1) if rng.random() < 0.3}
        if issubclass(cls, dp.SecondOrder):
            options["probe"] = lambda params, probes: [2 * v for v in probes]
        return cls([{"params": params[:2]}, {"params": params[2:], **group}], **options), params, names

    def weights(self, engine: str) -> tuple[torch.dtype, list[torch.Tensor]]:
        rng = random.Random(self.seed)
        dtype = rng.choice((torch.float64, torch.float32, torch.float32, torch.bfloat16))
        optimizer, params, names = self.build(engine, dtype, rng)
        generator = torch.Generator().manual_seed(self.seed % 1000 + 1)
        for _ in range(STEPS):
            before = [p.detach().clone() for p in params]
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
            try:
                if rng.random() < 0.2:
                    optimizer.param_groups[-1][rng.choice([*names, *EDITED])] = random_value(rng)
                optimizer.step()
            except Exception:
                same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(params, before, strict=True))
                assert same, "a step that raised has moved weights"
                raise
        return dtype, [p.detach() for p in params]

    def outcome(self) -> str | None:
        """Return a description of the failure of the case, or None if it passes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eager, compiled = (self._result(engine) for engine in ("eager", "compiled"))
        if isinstance(eager, str) or isinstance(compiled, str):
            if isinstance(eager, str) and isinstance(compiled, str):
                return next((text for text in (eager, compiled) if not text.startswith("refused")), None)
            return f"the engines differ: {eager!r} and {compiled!r}"
        (dtype, first), (_, second) = eager, compiled
        return None if agree(dtype, first, second) else f"the engines differ: {first} and {second}"

    def _result(self, engine: str) -> Any:
        try:
            return self.weights(engine)
        except (dp.ArgumentError, dp.NonFiniteError, TypeError) as error:
            return "refused" if is_package_message(error) else f"bad message: {type(error).__name__}: {error}"
        except Exception as error:
            return f"raised {type(error).__name__}: {error}"


def is_package_message(error: Exception) -> bool:
    """Return True if an error with a one-line message was raised by the package itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and "dashpot" in Path(trace.tb_frame.f_code.co_filename).parts
    return ours and "\n" not in str(error) and len(str(error)) < 2000


def agree(dtype: torch.dtype, first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Return True if the weights are equal up to rounding, with inf and NaN at the same positions."""
    for a, b in zip(first, second, strict=True):
        a, b = a.double(), b.double()
        finite = torch.isfinite(a) & torch.isfinite(b)
        if not torch.equal(a.isfinite(), b.isfinite()):
            return False
        if ((a - b)[finite].abs() > TOLERANCE[dtype] * b[finite].abs().clamp_min(1)).any():
            return False
    return True


def failures(seeds: range, classes: tuple[type[dp.Optimizer], ...] = CLASSES) -> list[tuple[int, str]]:
    return [(seed, text) for seed in seeds if (text := Case(seed, classes).outcome()) is not None]


def main() -> None:
    count, start = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    pieces = [range(low, min(low + 200, start + count)) for low in range(start, start + count, 200)]
    with ProcessPoolExecutor(int(os.environ.get("JOBS", os.cpu_count() or 1))) as pool:
        found = (failure for part in pool.map(failures, pieces) for failure in part)
        total = 0
        for seed, text in islice(found, 10_000):
            total += 1
            print(seed, text[:300], flush=True)
    print(f"{count} cases, {total} bad")


if __name__ == "__main__":
    main()
