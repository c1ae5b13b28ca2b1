"""Studies of the zero and the numerator of AutoSGM, as published: filters with one pole and several zeros.

Source: the README and the figures of AutoSGM by Somefun. Its runs have a pole of 0.9, the zeros of `ZEROS`, and a
constant ("red") or a partial-correlation ("blue") numerator.

| workload | published network and data | runs | batch | steps |
|---|---|---|---|---|
| cifar10-vit | ViT on CIFAR-10 | 5 | 100 | 500 x 150 |
| cifar10-resnet | ResNet-18 on CIFAR-10 | 5 | 128 | 391 x 200 |
| shakespeare-char | GPT of 30 M parameters, block 128 | 10 | 64 | 10 000 |
| wikitext | GPT-2 of 124 M parameters on WikiText-103 | 3 | | 100 000 |

The tier "gpu" has these numbers of runs, batches and steps. It differs from the published runs: shakespeare-char has
the larger network of nanoGPT and its windows of 256 characters, a part of the training data is held out for
validation, and each method selects its rate among those of the plan by that part; the published rate is 0.001. The
architecture of the ViT and the batch size of wikitext are not published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashpot.runs.study import Study
from dashpot.runs.study_names import StudyNames
from dashpot.runs.workload_names import NO_FILTER

ZEROS = ("0", "0.31", "0.47", "0.55", "0.64", "0.85", "0.9", NO_FILTER)
"""Published zeros of the filter with the pole 0.9; "none" is the unfiltered gradient."""
FEW_ZEROS = ("0", "0.47", "0.9")
TRIALS = 3
"""Number of learning rates, shared by all methods, among which validation data select."""
WARMUP_COSINE = "warmup-cosine:warmup=0.05,floor=0.1"


@dataclass(frozen=True)
class GridPlan:
    """Training of a grid of zeros on one workload and tier.

    Args:
        task: Name of the task.
        options: Options of the task.
        rates: Lowest and highest of the shared learning rates.
        schedule: Schedule of the learning rate; None keeps it constant.
        max_norm: Largest norm of the gradient; None does not clip.
        epochs: Number of epochs; None selects that of the task.
        evaluate_every: Number of steps between evaluations; None selects a twelfth of a run.
        zeros: Default zeros.
        seeds: Default number of seeds.
    """

    task: str
    options: Mapping[str, object]
    rates: tuple[float, float]
    schedule: str | None = None
    max_norm: float | None = None
    epochs: int | None = None
    evaluate_every: int | None = None
    zeros: tuple[str, ...] = FEW_ZEROS
    seeds: int = 3


def _cifar10(
    network: str, batch_size: int, epochs: int, rates: tuple[float, float], published_rates: tuple[float, float]
) -> Mapping[str, GridPlan]:
    """Return the plans of a network on CIFAR-10; batch size and epochs are those of the published runs.

    `published_rates` are those of the tier gpu.
    """
    options = {"network": network}
    published = {**options, "tier": "gpu", "batch_size": batch_size}
    return {
        "smoke": GridPlan("cifar10", {**options, "tier": "smoke"}, rates, "cosine"),
        "cpu": GridPlan("cifar10", {**options, "tier": "cpu"}, rates, "cosine"),
        "gpu": GridPlan("cifar10", published, published_rates, "cosine", epochs=epochs, zeros=ZEROS, seeds=5),
    }


def _gpt(task: str, tier: str, rates: tuple[float, float], **settings: Any) -> GridPlan:
    """Return the plan of a GPT, with the schedule and the clipping of nanoGPT."""
    return GridPlan(task, {"tier": tier}, rates, WARMUP_COSINE, 1.0, **settings)


PLANS: Mapping[str, Mapping[str, GridPlan]] = {
    "digits": {
        "smoke": GridPlan("digits", {}, (3e-3, 3e-2), epochs=2),
        "cpu": GridPlan("digits", {}, (3e-3, 3e-2), zeros=ZEROS),
        "gpu": GridPlan("digits", {}, (3e-3, 3e-2), zeros=ZEROS, seeds=10),
    },
    # The range contains the best rates of both numerators. Validation accuracy after one epoch (zero 0, seed 0):
    # numerator 0 .822, .851, .860, .855, .728 at .001, .003, .01, .03, .1;
    # numerator 1 .824, .836, .854, .866, .785 at .003, .01, .03, .1, .3.
    "fashion-mnist": {
        "smoke": GridPlan("fashion-mnist", {"batch_size": 2048}, (3e-3, 1e-1), epochs=1, evaluate_every=27),
        "cpu": GridPlan("fashion-mnist", {}, (3e-3, 1e-1), evaluate_every=53),
        "gpu": GridPlan("fashion-mnist", {}, (3e-3, 1e-1), evaluate_every=53, zeros=ZEROS, seeds=5),
    },
    "cifar10-resnet": _cifar10("resnet", 128, 200, (2e-3, 2e-2), (3e-3, 3e-2)),
    "cifar10-vit": _cifar10("vit", 100, 150, (7e-4, 2e-2), (1e-3, 1e-2)),
    "shakespeare-char": {
        "smoke": _gpt("shakespeare-char", "smoke", (3e-3, 3e-2)),
        "cpu": _gpt("shakespeare-char", "cpu", (3e-3, 3e-2), evaluate_every=500, zeros=ZEROS),
        "gpu": _gpt("shakespeare-char", "gpu", (1e-3, 1e-2), epochs=40, evaluate_every=500, zeros=ZEROS, seeds=10),
    },
    "wikitext": {
        "smoke": _gpt("wikitext", "smoke", (3e-3, 3e-2)),
        "cpu": _gpt("wikitext", "cpu", (3e-3, 3e-2), evaluate_every=250),
        "gpu": _gpt("wikitext", "gpu", (3e-4, 3e-3), epochs=400, evaluate_every=2500, zeros=ZEROS),
    },
}
"""Plans by workload and tier."""


def method(numerator: int, zero: str) -> str:
    """Return the method of `dashpot compare` with a numerator and a zero.

    >>> method(1, "0.47"), method(0, "none")
    ('autosgm-1:zero=0.47', 'autosgm-0:pole=0')
    """
    return f"autosgm-{numerator}:" + ("pole=0" if zero == NO_FILTER else f"zero={zero}")


def entry_name(numerator: int, zero: str) -> str:
    """Return the name of the entry of `method`."""
    return method(numerator, zero).replace(":", "-").replace("=", "-")


def grid_names(
    plan: GridPlan,
    zeros: Sequence[str],
    numerators: Sequence[int] = (0, 1),
    seeds: int = 3,
    *,
    task_options: Mapping[str, object] | None = None,
    data_dir: Path | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> StudyNames:
    """Return the settings of the study of all pairs of zeros and numerators.

    Args:
        plan: Training of the workload.
        zeros: Zeros of the filter, as in `ZEROS`.
        numerators: Numerators of the learning rate.
        seeds: Number of seeds.
        task_options: Options of the task that replace those of the plan.
        data_dir: First folder to search for data sets.
        threads: Number of torch threads; None leaves the number unchanged.
        device: Device of data and models; None selects that of the task. `task_options` take precedence.
    """
    chosen = [(numerator, zero) for zero in zeros for numerator in numerators]
    low, high = plan.rates
    space = {"lr": {"low": low, "high": high, "log": True}}
    return StudyNames(
        plan.task,
        {**plan.options, **({} if device is None else {"device": device}), **(task_options or {})},
        None if data_dir is None else str(data_dir),
        ",".join(method(*pair) for pair in chosen),
        options={} if plan.max_norm is None else {"max_norm": plan.max_norm},
        schedule=plan.schedule,
        seeds=seeds,
        epochs=plan.epochs,
        design={
            "budget": TRIALS,
            "sampler": "grid",
            "tune": ("lr",),
            "spaces": {entry_name(*pair): space for pair in chosen},
            "rate_seeds": 0,
            "evaluate_every": plan.evaluate_every,
            "threads": threads,
        },
    )


def grid_study(
    plan: GridPlan,
    zeros: Sequence[str],
    numerators: Sequence[int] = (0, 1),
    seeds: int = 3,
    **settings: Any,
) -> Study:
    """Return the study of all pairs of zeros and numerators; see `grid_names`.

    Raises:
        ArgumentError: If an option of the task is unknown or out of range.
        DataError: If the data are damaged or not available.
    """
    return grid_names(plan, zeros, numerators, seeds, **settings).study()
