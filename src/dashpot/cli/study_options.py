"""Options of the commands that execute studies, and checks of their values, without torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from dashpot.cli.values import integer, number, parse_pairs
from dashpot.constraints import Interval, check, unknown
from dashpot.errors import ArgumentError
from dashpot.runs.choices import COUNT, THREADS
from dashpot.runs.method_names import absolute_method
from dashpot.runs.tuning_options import ALL_SETTINGS, BUDGET, SAMPLERS, SETTINGS, Rate
from dashpot.scheduling.suggestions import PRUNERS

TUNING = Group("Tuning", sort_key=1)
VERDICT = Group("Verdict", sort_key=2)
EXECUTION = Group("Execution", sort_key=3)

Epochs = Annotated[int | None, Parameter(converter=integer, help="Epochs of every run; defaults to the task's.")]
Schedule = Annotated[
    str | None, Parameter(help="Schedule over the whole run, e.g. cosine or 1cycle (see `dashpot schedules`).")
]
Rates = Annotated[
    list[str] | None,
    Parameter(
        help="Learning rates METHOD=VALUE, or ranges METHOD=LOW..HIGH to search, repeatable.", consume_multiple=True
    ),
]
Arguments = Annotated[
    list[str] | None,
    Parameter(help="Optimizer arguments NAME=VALUE of all methods, e.g. weight_decay=5e-4.", consume_multiple=True),
]
NoDecay = Annotated[
    str | None,
    Parameter(
        help="Parameters without weight decay, comma-separated: norms, bias, embeddings, vectors, or patterns of names."
    ),
]
Tune = Annotated[
    str | None, Parameter(help=f"Settings to tune, comma-separated; defaults to {','.join(SETTINGS)}.", group=TUNING)
]
Sampler = Annotated[
    str,
    Parameter(
        help="Trials after the first: qmc (Sobol sequence) or tpe; grid: evenly spaced values of one setting.",
        group=TUNING,
    ),
]
Pruner = Annotated[
    str, Parameter(help="Early end of trials: none, or median (worse than the median at the same step).", group=TUNING)
]
EvaluateEvery = Annotated[
    int | None,
    Parameter(converter=integer, help="Steps between evaluations; defaults to a twelfth of a run."),
]
Jobs = Annotated[
    int, Parameter(converter=integer, help="Number of worker processes, which share the cores.", group=EXECUTION)
]
Storage = Annotated[
    str | None,
    Parameter(
        help="Storage that several machines share, e.g. postgresql://host/name; each of them runs the same command. "
        "Defaults to a journal in the output folder.",
        group=EXECUTION,
    ),
]
Threads = Annotated[
    int | None, Parameter(converter=integer, help="Number of torch threads of each process.", group=EXECUTION)
]
Out = Annotated[
    Path | None,
    Parameter(help="Folder of records and report; the same command resumes an interrupted study.", group=EXECUTION),
]
Margin = Annotated[
    float | None,
    Parameter(converter=number, help="Largest irrelevant difference; defaults to the task's.", group=VERDICT),
]
TargetValue = Annotated[
    float | None,
    Parameter(converter=number, help="Target on the validation data; defaults to the task's.", group=VERDICT),
]


def check_counts(command: str, **values: Any) -> None:
    """Check options that are None or counts, at least 1."""
    for name, value in values.items():
        if value is not None:
            check(f"{command}", f"--{name.replace('_', '-')}", value, COUNT)


def check_threads(command: str, threads: int | None) -> None:
    """Check the number of threads."""
    check(command, "threads", threads, THREADS)


def tuning_design(
    command: str,
    budget: int,
    tune: str | None,
    sampler: str,
    pruner: str,
    *,
    budgets: Interval = BUDGET,
    own: bool = False,
) -> dict[str, Any]:
    """Return the arguments of `Study` on tuning, after checking them.

    `budgets` are the allowed budgets. With `own`, methods may define settings to tune, which `Study` checks.
    """
    check(command, "--budget", budget, budgets)
    check(command, "--sampler", sampler, SAMPLERS)
    check(command, "--pruner", pruner, PRUNERS)
    chosen = SETTINGS if tune is None else tuple(filter(None, tune.split(",")))
    for name in chosen:
        if name not in ALL_SETTINGS and not own:
            raise unknown("setting to tune", name, ALL_SETTINGS)
    if not chosen:
        raise ArgumentError(f"{command}: --tune must name at least one of {', '.join(ALL_SETTINGS)}, got {tune!r}.")
    if tune is not None and not budget:
        raise ArgumentError(f"{command}: --tune requires --budget, the number of trials per method.")
    return {"budget": budget, "tune": chosen, "sampler": sampler, "pruner": pruner}


def parse_looks(command: str, text: str | None, seeds: int | None) -> tuple[tuple[int, ...], int | None]:
    """Return the looks of a group-sequential study, and the number of seeds, which is the last look.

    >>> parse_looks("compare", "5,10,20", None), parse_looks("compare", None, 4)
    (((5, 10, 20), 20), ((), 4))
    """
    if text is None:
        return (), seeds
    try:
        looks = tuple(int(part) for part in text.split(","))
    except ValueError:
        looks = ()
    if not looks or looks[0] < 2 or any(a >= b for a, b in itertools.pairwise(looks)):
        raise ArgumentError(
            f"{command}: --looks must be increasing numbers of seeds from 2, such as 5,10,20, got {text!r}."
        )
    if seeds is not None and seeds != looks[-1]:
        raise ArgumentError(f"{command}: --seeds must be the last of --looks, {looks[-1]}, got {seeds}.")
    return looks, looks[-1]


def parse_rates(items: Sequence[str]) -> dict[str, Rate]:
    """Parse the items `METHOD=VALUE` and `METHOD=LOW..HIGH` of `--lr`.

    >>> parse_rates(["sgd=0.5", "adam=1e-3..1e-1"])
    {'sgd': 0.5, 'adam': (0.001, 0.1)}
    """
    rates: dict[str, Rate] = {}
    for item in items:
        method, given, value = item.rpartition("=")
        if not given:
            raise ArgumentError(f"--lr must be METHOD=VALUE or METHOD=LOW..HIGH, got {item!r}.")
        method, rate = absolute_method(method), parse_rate(value)
        if method in rates:
            raise ArgumentError(f"{method}: --lr must be given once, got {rates[method]} and {rate}.")
        rates[method] = rate
    return rates


def parse_rate(text: str) -> Rate:
    """Parse a learning rate, or a range LOW..HIGH.

    >>> parse_rate("0.5"), parse_rate("1e-3..1e-1")
    (0.5, (0.001, 0.1))
    """
    low, dots, high = text.partition("..")
    try:
        found = float(low), float(high if dots else low)
    except ValueError as error:
        raise ArgumentError(f"--lr must be a number or a range LOW..HIGH, got {text!r}.") from error
    if dots and not 0 < found[0] < found[1] < math.inf:
        raise ArgumentError(f"--lr: a range LOW..HIGH must have 0 < LOW < HIGH, got {text!r}.")
    return found if dots else found[0]


def check_margin(command: str, margin: float | None, target: float | None) -> None:
    """Check the margin and the target of a verdict."""
    if margin is not None:
        check(command, "--margin", margin, Interval(0))
    if target is not None:
        check(command, "--target", target, Interval())


def pairs(option: str, items: Sequence[str] | None) -> dict[str, Any]:
    """Parse the `NAME=VALUE` items of an option; None is an option that is not given."""
    return {} if items is None else parse_pairs(option, items)


def names(text: str | None) -> tuple[str, ...]:
    """Split a comma-separated option; None is an option that is not given.

    >>> names("norms,bias"), names(None)
    (('norms', 'bias'), ())
    """
    return tuple(filter(None, (text or "").split(",")))


def file_name(task: str) -> str:
    """Return the name of a task with the characters of file names.

    >>> file_name("my task")
    'my-task'
    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in task)
