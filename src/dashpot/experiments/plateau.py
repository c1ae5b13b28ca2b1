"""Saddles and plateaus: steps to leave them, at one rate, at the default rate of each method and at its best rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from dashpot.experiments import plateau_figures as figures
from dashpot.experiments import plateau_network as on_network
from dashpot.experiments import plateau_saddle as on_saddle
from dashpot.experiments.intervals import MeanInterval, geometric_interval, verdict_of
from dashpot.experiments.paths_methods import HEAVY_BALL, METHODS
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.names import METHODS as NAMES
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.optimizers.momentum import NAG
from dashpot.recipes.recipe import Recipe

COMPARED: Mapping[str, tuple[Recipe, float]] = {
    "plain": (METHODS["plain"], NAMES["sgd"].lr),
    "momentum 0.9": (METHODS["momentum 0.9"], NAMES["qhm"].lr),
    "heavy ball 0.9": (HEAVY_BALL, NAMES["heavy-ball"].lr),
    "NAG 0.9": (NAG.recipe_for(), NAMES["nag"].lr),
    "RMSprop": (METHODS["RMSprop"], NAMES["rmsprop"].lr),
    "Adam": (METHODS["Adam"], NAMES["adam"].lr),
    "AutoSGM 1": (AutoSGM.recipe_for(numerator=1), NAMES["autosgm"].lr),
}
"""Recipe and default rate of each method; the averaged momentum has the rate of QHM."""
ADAPTIVE = ("RMSprop", "Adam", "AutoSGM 1")
FACTORS = tuple(10 ** (k / 3) for k in range(7))
"""Tested rates of each method as multiples of its default rate."""
STEPS, SADDLE_STEPS, STARTS = 600, 1000, 20
_SOURCE = "tutorial, local optima"
CLAIMS = (
    Claim(_SOURCE, "Momentum helps to leave plateaus and saddles."),
    Claim(_SOURCE, "Adam helps to leave plateaus and saddles."),
)
REASON = (
    "At the effective rate of plain descent, momentum delays the escape. At the best rate of each method, Nesterov "
    "momentum is faster than plain descent by a quarter or less, and averaged momentum only on the long plateau; the "
    "heavy ball is not. Methods that divide by the root mean square leave the plateaus of a network in a fraction of "
    "the steps, also at their default rates, and the more so the longer the plateau is. At a saddle with minima at a "
    "distance of 1, their default rates are too small."
)
SLOW = {
    0: "not at the default rate, which has the effective rate of plain descent",
    1: "not at the default rate, which limits the change of a weight to about .001 per step",
}
"""Limits of methods that are not faster at their default rate, by claim."""
Steps = dict[str, list[list[float]]]


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure the steps to leave a saddle, a slope and the plateau of a deep network."""
    data = _measured(seeds, quick)
    findings = [
        *on_saddle.saddle_findings(seeds, quick=quick),
        *([] if quick else on_saddle.plateau_findings()),
        *_findings("saddle", "the saddle", data),
        *(item for name in on_network.SCALES for item in _findings(name, f"the {name} plateau", data)),
    ]
    data["paths"] = on_saddle.saddle_data(seeds[0], 20 if quick else 300)
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("saddle", "Paths at a saddle", figures.SADDLE_NOTE, partial(figures.saddle, data)),
            Panel("rates", "Steps against the rate", figures.RATES_NOTE, partial(figures.rates, data), claim=1),
        ),
        settings={
            "saddle": f"a^2/2 + (b^2 - 1)^2/4 from (1, 0) -+ 0.01, until abs(b) = {on_saddle.LEVEL}; {STARTS} starts "
            "per seed, without gradient noise",
            "slope": f"slope {on_saddle.SLOPE}, width 1, lr {on_saddle.LR}",
            "network": f"widths {on_network.WIDTHS}, tanh; digits, batch {on_network.BATCH}; until the mean loss of "
            f"{on_network.WINDOW} batches is below {on_network.LEVEL:.2f}, at most {STEPS} steps",
            "scales of the initial weights": dict(on_network.SCALES),
            "default rates": {name: lr for name, (_, lr) in COMPARED.items()},
            "rates": "default rates times 10^(k/3), k = 0 to 6",
            "usable rates": "all runs leave, and do not return",
        },
        data=data,
    )


def _measured(seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    """Return the steps by problem, method, rate and seed; None for runs that do not leave or return."""
    factors = FACTORS[3::3] if quick else FACTORS
    start = on_saddle.saddle_starts(seeds, 2 if quick else STARTS)
    saddle_steps, steps = (60, 30) if quick else (SADDLE_STEPS, STEPS)
    chosen = {name: COMPARED[name] for name in (("plain", "heavy ball 0.9", "Adam") if quick else COMPARED)}
    saddle: dict[str, Any] = {}
    networks: dict[str, Any] = {problem: {} for problem in on_network.SCALES}
    for name, (recipe, lr) in tracked(chosen.items(), "rates"):
        rates = [lr * factor for factor in factors]
        if name != "AutoSGM 1":  # its rate is a mean over the tensor, which contains all runs of a surface
            saddle[name] = _plain_steps(on_saddle.escape_steps(recipe, rates, start, saddle_steps).mean(2))
        for problem, scale in on_network.SCALES.items():
            networks[problem][name] = _plain_steps(on_network.escape_steps(recipe, rates, seeds, steps, scale))
    return {"factors": list(factors), "saddle": saddle, **networks}


def _plain_steps(steps: Tensor) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in row] for row in steps.tolist()]


def _findings(problem: str, words: str, data: Mapping[str, Any]) -> list[Finding]:
    """Compare the steps at the default and at the best rate with those of plain descent."""
    rows = []
    kinds: tuple[tuple[str, str, Callable[[list[Any]], int]], ...] = (
        ("default", "default rate", lambda _: 0),
        ("best", "best rate", fastest),
    )
    for kind, description, choose in kinds:
        plain = data[problem]["plain"][choose(data[problem]["plain"])]
        for name, steps in data[problem].items():
            chosen = choose(steps)
            values = steps[chosen]
            if None in values or None in plain:  # slow methods in quick runs
                continue
            lr = COMPARED[name][1] * data["factors"][chosen]
            statement = f"steps to leave {words}, {name}, {description} {lr:.2g}"
            claim = 1 if name in ADAPTIVE else 0
            mean = geometric_interval([max(value, 1) for value in values])
            rows.append(Finding(f"{problem}-{kind}-{name}", statement, *mean, claim=claim))
            if name != "plain":
                ratio = geometric_interval([max(a, 1) / max(b, 1) for a, b in zip(values, plain, strict=True)])
                statement = f"steps to leave {words} relative to plain descent, {name}, {description}"
                rows.append(_ratio_finding(f"{problem}-{kind}-ratio-{name}", statement, ratio, claim, kind))
    return rows


def _ratio_finding(name: str, statement: str, ratio: MeanInterval, claim: int, kind: str) -> Finding:
    faster = ratio.high < 1
    default = kind == "default" and not faster
    return Finding(name, statement, *ratio, None, faster or default, SLOW[claim] if default else "", claim)


def fastest(steps: list[list[float | None]]) -> int:
    """Return the index of the rate with the fewest steps, on average over seeds, at which all runs leave.

    >>> fastest([[4.0, 6.0], [2.0, 3.0], [1.0, None]])
    1
    """
    sums = [math.inf if None in row else sum(value for value in row if value is not None) for row in steps]
    return min(range(len(sums)), key=sums.__getitem__)
