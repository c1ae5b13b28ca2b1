"""Sensitivity: change of the score at wrong learning rates."""

from __future__ import annotations

import math

import numpy as np

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.page.number_text import general
from dashpot.comparison.page.panels import Axes, Panel, small_multiples
from dashpot.comparison.page.scales import padded, robust_limits
from dashpot.comparison.page.view import Section, View, folded, note, table
from dashpot.comparison.results import Curve
from dashpot.utils.format import counted


def sensitivity(view: View) -> Section | None:
    """Return the section of the sensitivity to the learning rate; None if it was not measured."""
    factors = sorted({factor for method in view.methods for factor in method.sensitivity})
    if not factors:
        return None
    panels = [_panel(view, method) for method in view.methods]
    values = [value for panel in panels for value in panel.main.values]
    x = (min(1.0, *factors) / 1.15, max(1.0, *factors) * 1.15)
    limits = padded(*robust_limits(values, [0.0]))
    change = f"change of {view.score_name}"
    ticks = sorted({1.0, *factors})
    shared = Axes(x, limits, "factor of the learning rate", change, log_x=True, x_ticks=ticks, line=0.0, dots=True)
    seeds = len({run.seed for run in view.findings.results.rate_runs})
    explained = (
        f"Change of the score if the learning rate is multiplied by a factor, over {counted(seeds, 'seed')}. Dashed "
        "line: no change. Triangles at an edge: the change is beyond the axis. A diverged run has the score of its "
        "untrained model."
    )
    charts = small_multiples(view, "sensitivity", shared, panels) + note(explained)
    return Section("sensitivity", "Sensitivity to the learning rate", charts + _table(view, factors))


def _panel(view: View, method: MethodFinding) -> Panel:
    changes = {factor: interval.estimate for factor, interval in method.sensitivity.items()}
    if not changes:
        return Panel(method.name, Curve(np.empty(0), np.empty(0)), value="not measured")
    points = sorted({**changes, 1.0: changes.get(1.0, 0.0)}.items())
    steps, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    whiskers = [
        (factor, interval.low, interval.high)
        for factor, interval in method.sensitivity.items()
        if math.isfinite(interval.low) and math.isfinite(interval.high)
    ]
    sign = view.findings.results.rule.sign
    worst = min(changes.values(), key=lambda change: sign * change)
    return Panel(method.name, Curve(steps, values), whiskers=whiskers, value=f"worst {view.signed(worst)}")


def _table(view: View, factors: list[float]) -> str:
    rows = [
        [view.named(method.name), *(_cell(view, method, factor) for factor in factors)]
        for method in view.methods
        if method.sensitivity
    ]
    return folded("Changes as numbers", table(["method", *(f"× {general(factor)}" for factor in factors)], rows))


def _cell(view: View, method: MethodFinding, factor: float) -> str:
    interval = method.sensitivity.get(factor)
    if interval is None:
        return "–"
    limits = view.span(interval)
    return f"{view.signed(interval.estimate)}{f' ({limits})' if limits else ''}"
