"""Tuning: expected best score after a number of trials, and all trials."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.page.number_text import general
from dashpot.comparison.page.panels import Axes, Panel, small_multiples
from dashpot.comparison.page.scales import padded, robust_limits
from dashpot.comparison.page.view import Section, View, folded, note, table
from dashpot.comparison.results import Curve, TuningTrial

MOST_TRIALS = 300
"""Largest number of trials in the table."""


def tuning(view: View) -> Section | None:
    """Return the section of tuning; None without trials."""
    trials = view.findings.results.trials
    if not trials:
        return None
    parts = [_charts(view), _selected(view, trials), _table(view, trials)]
    return Section("tuning", "Tuning", "\n".join(filter(None, parts)))


def _charts(view: View) -> str:
    """Return the expected best score after each number of trials, if any method has two of them."""
    panels = [_panel(view, method) for method in view.methods]
    most = max((len(panel.main.steps) for panel in panels), default=0)
    if most < 2:
        return ""
    values = [value for panel in panels for value in panel.main.values]
    metric = view.findings.results.rule.metric
    last = max(panel.main.steps[-1] for panel in panels if len(panel.main.steps))
    ticks = [float(value) for value in range(1, most + 1, -(-most // 8))]
    limits = padded(*robust_limits(values))
    shared = Axes((1, last), limits, "trials", f"best validation {metric}", x_ticks=ticks, dots=most <= 20)
    band = "Band: 95 % confidence interval of the median best score, up to the edge if the trials do not bound it."
    explained = f"Expected best validation {metric} after a number of tuning trials. Grey: all other methods."
    bounded = any(panel.band is not None for panel in panels)
    return small_multiples(view, "tuning", shared, panels) + note(explained, band if bounded else "")


def _panel(view: View, method: MethodFinding) -> Panel:
    if method.best_of is None:
        return Panel(method.name, Curve(np.empty(0), np.empty(0)), value="no trials")
    mean, low, high = method.best_of
    value = view.score(float(mean.values[-1])) if len(mean.values) else ""
    bounded = (np.isfinite(low.values) & np.isfinite(high.values)).any()
    return Panel(method.name, mean, f"{method.name}, expected best", band=(low, high) if bounded else None, value=value)


def _selected(view: View, trials: Sequence[TuningTrial]) -> str:
    """Return the table of the selected settings."""
    chosen = {trial.method: trial for trial in trials if trial.selected}
    names = list(dict.fromkeys(name for trial in chosen.values() for name in trial.values))
    if not chosen:
        return ""
    metric = view.findings.results.rule.metric
    rows = [
        [view.named(name), str(trial.number), *(_setting(trial, key) for key in names), view.score(trial.score)]
        for method in view.methods
        for name in [method.name]
        if (trial := chosen.get(name)) is not None
    ]
    header = ["selected settings", "trial", *map(html.escape, names), f"validation {html.escape(metric)}"]
    return table(header, rows)


def _setting(trial: TuningTrial, name: str) -> str:
    return general(trial.values[name]) if name in trial.values else "–"


def _table(view: View, trials: Sequence[TuningTrial]) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    order = {method.name: index for index, method in enumerate(view.methods)}
    ordered = sorted(trials, key=lambda trial: (order.get(trial.method, len(order)), trial.number))
    rows = [
        [
            html.escape(trial.method),
            str(trial.number),
            *(_setting(trial, name) for name in names),
            view.score(trial.score),
            _status(trial),
        ]
        for trial in ordered[:MOST_TRIALS]
    ]
    header = ["method", "trial", *map(html.escape, names), "score", "status"]
    more = len(trials) - MOST_TRIALS
    rest = note(f"The file of raw data contains {more} further trials.") if more > 0 else ""
    return folded(f"All {len(trials)} trials", table(header, rows, "dense") + rest, printed=False)


def _status(trial: TuningTrial) -> str:
    text = "selected" if trial.selected else trial.status
    return html.escape(f"{text}: {trial.error}" if trial.error else text)
