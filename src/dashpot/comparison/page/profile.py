"""Overview of several tasks: scores and tie groups by task, and profiles of the steps to target."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.page.panels import Axes, Panel, small_multiples
from dashpot.comparison.page.view import Section, View, note, table
from dashpot.comparison.results import Curve
from dashpot.comparison.score_text import names_text
from dashpot.stats.profile import Profile, performance_profile, reference_ratios

LIMIT = 16.0
"""Largest ratio on the axis in both directions."""


def overview(views: Sequence[View]) -> Section:
    """Return the overview of several tasks."""
    by_task = [{method.name: method for method in view.methods} for view in views]
    names = ordered(views)
    return Section("overview", "All tasks", _table(views, by_task, names) + _profiles(views, by_task, names))


def ordered(views: Sequence[View]) -> list[str]:
    """Return the methods by their mean tie group over the tasks; methods that lack a task are last.

    The tie group of a method with the rank "?" is that of the method above it.
    """
    places = [_places(view) for view in views]
    names = list(dict.fromkeys(method.name for view in views for method in view.methods))

    def key(name: str) -> tuple[int, float]:
        known = [place[name] for place in places if name in place]
        return len(places) - len(known), sum(known) / max(1, len(known))

    return sorted(names, key=key)


def _places(view: View) -> dict[str, int]:
    """Return the tie group of each method with a score, at least that of the method above it."""
    worst, places = 0, {}
    for method in view.methods:
        if method.group is not None:
            worst = max(worst, method.group)
            places[method.name] = worst
    return places


def lead(views: Sequence[View]) -> str:
    """Return one sentence on the methods that are most often in the best tie group."""
    counts: dict[str, int] = {}
    for view in views:
        for name, rank in view.ranks.items():
            counts[name] = counts.get(name, 0) + (rank == "1")
    most = max(counts.values(), default=0)
    if not most:
        return "No method has a score."
    best = [name for name, count in counts.items() if count == most]
    return f"In the best tie group on {most} of {len(views)} tasks: {names_text(best)}."


def _table(views: Sequence[View], by_task: Sequence[Mapping[str, MethodFinding]], names: Sequence[str]) -> str:
    header = ["method", "best group", *(html.escape(_heading(view)) for view in views)]
    rows = []
    for name in names:
        best = sum(view.ranks.get(name) == "1" for view in views)
        cells = [_cell(view, task.get(name)) for view, task in zip(views, by_task, strict=True)]
        rows.append([views[0].named(name), f"{best} of {len(views)}", *cells])
    explained = "Mean score, and number of the tie group in parentheses; shaded: the best tie group of the task."
    return table(header, rows, "matrix") + note(explained)


def _heading(view: View) -> str:
    return f"{view.findings.results.task}: {view.score_name}"


def _cell(view: View, method: MethodFinding | None) -> str:
    if method is None or method.mean is None:
        return "–"
    rank = view.ranks[method.name]
    text = f"{view.mean(method)} ({rank})"
    return f'<span class="better">{text}</span>' if rank == "1" else text


def _profiles(views: Sequence[View], by_task: Sequence[Mapping[str, MethodFinding]], names: Sequence[str]) -> str:
    """Return the profiles of the steps to target relative to a reference that all tasks share."""
    references = {view.findings.reference for view in views}
    [reference] = references if len(references) == 1 else [None]
    known = [task for task, view in zip(by_task, views, strict=True) if view.findings.results.rule.target is not None]
    if reference not in names or len(known) < 2:
        return ""
    steps = [[_steps(task.get(name)) for task in known] for name in names]
    ratios = reference_ratios(steps, names.index(reference))
    finite = ratios[np.isfinite(ratios) & (ratios > 0)]
    if not len(finite):
        return ""
    reach = min(LIMIT, max(1.25, float(finite.max()), 1 / float(finite.min())) * 1.1)
    panels = [_panel(name, profile, reach) for name, profile in zip(names, performance_profile(ratios), strict=True)]
    shared = Axes(
        (1 / reach, reach),
        (-0.02, 1.04),
        f"steps relative to {reference}",
        "share of tasks",
        log_x=True,
    )
    explained = (
        f"Share of the {len(known)} tasks with a target on which a method needs at most a multiple of the median steps "
        f"of {reference}. Grey: all other methods. The curve of a method does not depend on the other methods, except "
        "the reference."
    )
    return f"<h3>Steps to target relative to {html.escape(str(reference))}</h3>" + (
        small_multiples(views[0].at("overview"), "profile", shared, panels) + note(explained)
    )


def _steps(method: MethodFinding | None) -> float:
    return math.nan if method is None or method.steps_to_target is None else method.steps_to_target


def _panel(name: str, profile: Profile, reach: float) -> Panel:
    """Return the step function of a method from one end of the axis to the other."""
    ratios = np.clip(profile.ratio, 1 / reach, reach)
    ends = np.concatenate([[1 / reach], ratios, [reach]])
    last = profile.share[-1] if len(profile.share) else 0.0
    values = np.concatenate([[0.0], profile.share, [last]])
    return Panel(name, Curve(ends, values), value=f"{round(last * profile.tasks)} of {profile.tasks} tasks", steps=True)
