"""Curves during training: the score on the validation data, and the training loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dashpot.comparison.page.number_text import general
from dashpot.comparison.page.panels import Axes, Panel, small_multiples
from dashpot.comparison.page.scales import LOG_RATIO, padded, quantile_limits
from dashpot.comparison.page.seed_curves import FEW, curves_of, mean_curve, range_curves, smoothed, thin
from dashpot.comparison.page.view import Section, View, folded, note
from dashpot.comparison.results import Curve, JudgedRun

_TITLES = {"train loss": "Training loss"}
MOST_DOTS = 25
"""Largest number of points of a curve that are marked."""
LATE = 0.2
"""Share of the training after which the score decides the limits of its axis."""


def training(view: View) -> Iterator[Section]:
    """Yield the section of the curves, if any run has a curve of the score with several points."""
    rule = view.findings.results.rule
    names = list(dict.fromkeys(name for run in view.findings.results.runs for name in run.curves))
    score = next((name for name in (f"validation {rule.metric}", f"train {rule.metric}") if name in names), None)
    parts = [] if score is None else [_score(view, score)]
    parts += [
        folded(_TITLES.get(name, name.capitalize()), _loss(view, name))
        for name in names
        if name != score and "loss" in name
    ]
    if any(parts):
        title = f"{(score or 'curves').capitalize()} during training"
        yield Section("training", title, "\n".join(filter(None, parts)))


def _score(view: View, name: str) -> str:
    """Return the panels of the score, whose axis shows the later part of the training in detail."""
    rule = view.findings.results.rule
    panels = _panels(view, name, smooth=False)
    if not _drawable(panels):
        return ""
    last = max(curve.main.steps[-1] for curve in panels if len(curve.main.steps))
    late = [v for p in panels for x, v in zip(p.main.steps, p.main.values, strict=True) if x >= LATE * last]
    ends = [p.main.values[-1] for p in panels if len(p.main.steps)]
    limits = quantile_limits(late, 0.05, 0.98) if rule.sign > 0 else quantile_limits(late, 0.02, 0.95)
    known = [*(limits or ()), *(_typical(ends)), *([] if rule.target is None else [rule.target])]
    low, high = min(known), max(known)
    log = rule.metric == "loss" and low > 0 and high > LOG_RATIO * low
    target = rule.target if name.startswith("validation") or rule.split == "train" else None
    shared = Axes((0, last), padded(low, high, log=log), "steps", name, log_y=log, line=target, dots=_few(panels))
    lines = [] if target is None else [f"Dashed line: target {general(target, 6)}."]
    return small_multiples(view, "score", shared, panels, rest=True) + note(*_explained(view), *lines)


def _typical(values: Sequence[float]) -> list[float]:
    """Return the quartiles of the final values, which the axis always contains."""
    return np.nanquantile(values, [0.25, 0.5, 0.75]).tolist() if np.isfinite(values).any() else []


def _loss(view: View, name: str) -> str:
    panels = _panels(view, name, smooth=name.startswith("train"))
    if not _drawable(panels):
        return ""
    values = [v for panel in panels for v in panel.main.values]
    limits = quantile_limits(values, 0.01, 0.97)
    if limits is None:
        return ""
    low, high = limits
    log = low > 0 and high > LOG_RATIO * low
    last = max(panel.main.steps[-1] for panel in panels if len(panel.main.steps))
    shared = Axes((0, last), padded(low, high, log=log), "steps", name, log_y=log)
    smooth = "Moving average over 1/30 of the run." if name.startswith("train") else ""
    return small_multiples(view, name.replace(" ", "-"), shared, panels) + note(*_explained(view), smooth)


def _few(panels: Sequence[Panel]) -> bool:
    """Return whether the curves have so few points that each of them is marked."""
    return max(len(panel.main.steps) for panel in panels) <= MOST_DOTS


def _drawable(panels: Sequence[Panel]) -> bool:
    return any(len(panel.main.steps) > 1 for panel in panels)


def _explained(view: View) -> list[str]:
    seeds = len(view.findings.seeds)
    faint = "thin lines: single seeds" if seeds <= FEW else "band: 90 % of the seeds"
    own = f"In color: mean over the completed runs of a method{f'; {faint}' if seeds > 1 else ''}."
    crosses = any(run.status == "diverged" for run in view.findings.results.runs)
    return [
        own,
        "Number: mean after the last step. Grey: means of all other methods.",
        "Triangles at an edge: the mean is beyond the axis.",
        "Crosses: divergence of a run." if crosses else "",
    ]


def _panels(view: View, name: str, *, smooth: bool) -> list[Panel]:
    return [_panel(view, method.name, name, smooth=smooth) for method in view.methods]


def _panel(view: View, method: str, name: str, *, smooth: bool) -> Panel:
    runs = view.findings.results.of(method)
    curves = [smoothed(curve) if smooth else curve for curve in curves_of(runs, name)]
    several = len(curves) > 1
    main = mean_curve(curves)
    diverged = [run for run in runs if run.status == "diverged" and name in run.curves]
    paths = [path for run in diverged if len((path := _finite(run, name)).steps)]
    value = view.score(float(main.values[-1])) if len(main.values) else _status(runs)
    return Panel(
        method=method,
        main=main,
        name=f"{method}, mean" if several else method,
        faint=[*(map(thin, curves) if several and len(curves) <= FEW else ()), *map(thin, paths)],
        band=range_curves(curves) if len(curves) > FEW else None,
        crosses=[(float(path.steps[-1]), float(path.values[-1])) for path in paths],
        value=value,
    )


def _finite(run: JudgedRun, name: str) -> Curve:
    curve = run.curves[name]
    known = np.isfinite(curve.values)
    return Curve(curve.steps[known], curve.values[known])


def _status(runs: Sequence[JudgedRun]) -> str:
    found = dict.fromkeys(run.status for run in runs)
    return f"no completed run ({', '.join(found)})" if found else "no run"
