"""Running an experiment by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from dashpot.constraints import FLAG, SEED, Interval, check, unknown
from dashpot.experiments.progress import listening
from dashpot.experiments.result import Outcome
from dashpot.names import EXPERIMENTS, load


def run(
    name: str,
    *,
    seeds: int = 5,
    seed: int = 0,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Run an experiment on a statement of a source document.

    The result is a pure function of the arguments and of the software versions. torch uses one thread.

    Args:
        name: Name of the experiment, a key of `dashpot.names.EXPERIMENTS`; see `dashpot experiment --list`.
        seeds: Number of seeds, `seed`, `seed + 1`, ...; >= 2, since intervals over seeds need two values.
        seed: First seed, an integer in [0, 2**32 - 1].
        quick: Whether to take few steps, as in tests; the verdict is then not meaningful.
        progress: Function called with the name of each part of the experiment, for display.

    Returns:
        Claims, findings, verdict and figures.

    Raises:
        ArgumentError: If the name is unknown or an argument is out of range.

    Example:
        >>> outcome = run("averages", seeds=2, quick=True)
        >>> outcome.claims[0].source
        'tutorial, exponentially weighted averages'
    """
    check_arguments("run", name, seeds, seed)
    check("run", "quick", quick, FLAG)
    from dashpot.runs.environment import torch_threads

    numbers = tuple(range(seed, seed + seeds))
    with torch_threads(1), listening(progress):
        outcome = load(EXPERIMENTS[name].path)(numbers, quick=quick)
    settings = {**outcome.settings, "seeds": list(numbers), "quick": quick}
    return dataclasses.replace(outcome, name=name, settings=settings)


def check_arguments(owner: str, name: str, seeds: int, seed: int) -> None:
    """Raise `ArgumentError` for an unknown experiment or seeds out of range, without loading torch."""
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    check(owner, "seeds", seeds, Interval(2, math.inf, "left", integer=True))
    check(owner, "seed", seed, SEED)
    check(owner, "seed + seeds - 1", seed + seeds - 1, SEED)
