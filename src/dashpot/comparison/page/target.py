"""Steps to target: share of runs that have reached the target over the steps, and ratios of steps."""

from __future__ import annotations

import html
import math

import numpy as np

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.page.number_text import bare, general
from dashpot.comparison.page.panels import Axes, Panel, small_multiples
from dashpot.comparison.page.view import Section, View, note, table
from dashpot.comparison.results import Curve
from dashpot.stats import Interval

END = 1.03
"""End of the axis in units of the last step, so that a rise at the last step is visible."""


def target(view: View) -> Section | None:
    """Return the section of the steps to target; None without a target or without completed runs."""
    rule = view.findings.results.rule
    known = [method for method in view.methods if method.survival is not None]
    if rule.target is None or not known:
        return None
    title = f"Steps to the target: {rule.metric} {general(rule.target, 6)}"
    if not any(method.reached for method in known):
        text = f"<p>No run reached the target {rule.metric} of {general(rule.target, 6)}.</p>"
        return Section("target", title, text)
    return Section("target", title, _charts(view) + _table(view))


def _charts(view: View) -> str:
    curves = [method.survival for method in view.methods if method.survival is not None]
    runs = view.findings.results.runs
    last = max([*(float(curve.steps[-1]) for curve in curves if len(curve.steps)), *(run.steps for run in runs)])
    if not last > 0:
        return ""
    panels = [_panel(method, END * last) for method in view.methods]
    shared = Axes((0, last * END), (-0.02, 1.04), "steps", "share of runs that have reached the target")
    explained = (
        "Share of the runs of a method that have reached the target, by Kaplan-Meier; a run that misses it is censored "
        "at its last step. Grey: all other methods."
    )
    return small_multiples(view, "target", shared, panels) + note(explained)


def _panel(method: MethodFinding, end: float) -> Panel:
    curve = method.survival
    reached = Curve(np.empty(0), np.empty(0)) if curve is None or not len(curve.steps) else _continued(curve, end)
    value = f"{method.reached} of {_ended(method)}" if _ended(method) else "no completed run"
    return Panel(method.name, reached, value=value, steps=True)


def _continued(survival: Curve, end: float) -> Curve:
    """Return the share of runs that have reached the target, up to the end of the axis."""
    return Curve(np.append(survival.steps, end), 1 - np.append(survival.values, survival.values[-1]))


def _ended(method: MethodFinding) -> int:
    return sum(method.counts.get(status, 0) for status in ("done", "diverged"))


def _table(view: View) -> str:
    reference = view.findings.reference
    ratios = any(method.step_ratio is not None for method in view.methods)
    header = ["method", "reached", "median steps"]
    header += [f"steps relative to {reference} (95 %)"] if ratios and reference else []
    tests = _log_rank(view)
    header += ["p (log-rank)"] if tests else []
    rows = []
    for method in view.methods:
        row = [view.named(method.name), f"{method.reached} of {_ended(method)}", _median(method)]
        row += [_ratio(view, method)] if ratios and reference else []
        rows.append(row + ([tests.get(method.name, "–")] if tests else []))
    explained = "P-values of the differences from the reference, adjusted for all pairs." if tests else ""
    return table(map(html.escape, header), rows) + note(explained)


def _log_rank(view: View) -> dict[str, str]:
    """Return the p-value of the log-rank test against the reference for each other method."""
    reference = view.findings.reference
    found = {}
    for pair in view.findings.pairs:
        if reference in (pair.better, pair.other) and pair.log_rank_p is not None:
            other = pair.other if pair.better == reference else pair.better
            found[other] = general(pair.log_rank_p, 2)
    return found


def _median(method: MethodFinding) -> str:
    if method.steps_to_target is None:
        return "–"
    return f"{method.steps_to_target:.0f}" if math.isfinite(method.steps_to_target) else "not reached"


def _ratio(view: View, method: MethodFinding) -> str:
    if method.name == view.findings.reference:
        return "reference"
    return "–" if method.step_ratio is None else ratio_text(method.step_ratio)


def ratio_text(ratio: Interval) -> str:
    """Return a ratio with its limits; a lower limit alone if the ratio has no upper limit.

    >>> ratio_text(Interval(1.2, 0.9, float("inf")))
    '1.20 (.90 to ∞)'
    >>> ratio_text(Interval(float("inf"), 1.85, float("inf")))
    'at least 1.85'
    """
    if math.isinf(ratio.estimate) and 0 < ratio.low < math.inf:
        return f"at least {bare(f'{ratio.low:.2f}')}"
    estimate, low, high = (
        bare(f"{value:.2f}") if math.isfinite(value) else "∞" for value in (ratio.estimate, ratio.low, ratio.high)
    )
    return f"{estimate} ({low} to {high})"
