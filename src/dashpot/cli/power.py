"""The command `dashpot power`, which computes the power of a comparison before it starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.values import integer, number
from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError
from dashpot.utils.optional_packages import need

_COUNT = Interval(2, math.inf, "left", integer=True)
_ALLOWED = {
    "difference": Optional(Interval()),
    "sd": Optional(Interval(0)),
    "methods": Optional(_COUNT),
    "seeds": Optional(_COUNT),
    "power": Interval(0, 1),  # and above 1 - level
    "margin": Optional(Interval(0)),
    "level": Interval(0, 1),
}
SEEDS = (3, 5, 10, 20)
"""Numbers of seeds in the table."""


def power(
    folder: Annotated[Path | None, Parameter(help="Folder of a finished comparison, for --sd and --methods.")] = None,
    /,
    *,
    difference: Annotated[
        float | None, Parameter(converter=number, help="Difference of the mean scores of two methods.")
    ] = None,
    sd: Annotated[
        float | None,
        Parameter(
            converter=number,
            help="Standard deviation of the paired differences; for independent noise, sqrt(2) times that of a method.",
        ),
    ] = None,
    methods: Annotated[
        int | None, Parameter(converter=integer, help="Number of methods in the comparison; defaults to 2.")
    ] = None,
    seeds: Annotated[int | None, Parameter(converter=integer, help="Number of seeds, as another row.")] = None,
    power: Annotated[float, Parameter(converter=number, help="Power for the number of seeds.")] = 0.8,
    margin: Annotated[
        float | None, Parameter(converter=number, help="Largest irrelevant difference, for the power of equivalence.")
    ] = None,
    level: Annotated[float, Parameter(converter=number, help="Simultaneous confidence level.")] = 0.95,
) -> None:
    """Compute the power of a comparison: the probability that it separates two methods, by the number of seeds."""
    values = {"difference": difference, "sd": sd, "methods": methods, "seeds": seeds, "power": power}
    for name, value in {**values, "margin": margin, "level": level}.items():
        check("power", name, value, _ALLOWED[name])
    check("power", "power", power, Interval(1 - level, 1))  # the probability of a verdict without a difference
    if folder is None and sd is None:
        raise ArgumentError("power: --sd or the folder of a comparison must be given, got neither.")
    need("power", "scipy", extra="study")
    print_first_line("Computing the power." if folder is None else f"Reading {folder}.")
    from dashpot.cli.power_table import Question, power_text, spread_of, spread_text

    if folder is not None:
        from dashpot.comparison.read_results import results_of_folder

        results = results_of_folder(folder)
        if sd is None:
            spread = spread_of(results)
            print(spread_text(spread))
            sd = spread.median
        methods = max(2, len(results.methods)) if methods is None else methods
        margin = results.rule.margin if margin is None else margin
    assert sd is not None
    question = Question(difference, sd, methods or 2, margin, level, power)
    print(f"\n{power_text(question, sorted({*SEEDS, *([seeds] if seeds else [])}))}")
