"""Cost: steps, CPU time, wall-clock time, memory and optimizer state."""

from __future__ import annotations

from collections.abc import Callable

from dashpot.comparison.page.view import Section, View, note, table
from dashpot.utils.format import duration, size

COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "steps": ("steps", lambda value: f"{value:.0f}"),
    "cpu_s": ("CPU time", duration),
    "wall_s": ("wall-clock time", duration),
    "memory_bytes": ("peak memory", lambda value: size(round(value))),
    "state_bytes": ("optimizer state", lambda value: size(round(value))),
}
"""Heading and text of each quantity."""


RATIO = 1.25
"""Ratio of the largest to the smallest value from which bars show a difference."""


def cost(view: View) -> Section | None:
    """Return the table of the mean cost of a run; None without measurements of time or memory."""
    known = [key for key in COLUMNS if any(key in method.cost for method in view.methods)]
    if not set(known) - {"steps"}:
        return None
    rows = [[view.named(method.name), *(_cell(view, method.cost, key) for key in known)] for method in view.methods]
    explained = "Means over the completed runs. Times: training without evaluation. Memory: resident, of the process."
    if any('class="bar"' in cell for row in rows for cell in row[1:]):
        explained += " Bars are relative to the largest value of the column; similar values have none."
    return Section(
        "cost", "Cost of a run", table(["method", *(COLUMNS[key][0] for key in known)], rows) + note(explained)
    )


def _cell(view: View, own: dict[str, float], key: str) -> str:
    if key not in own:
        return "–"
    values = [method.cost[key] for method in view.methods if key in method.cost]
    text = COLUMNS[key][1](own[key])
    if max(values) < min(values) * RATIO or max(values) <= 0:
        return text
    return f'{text}<i class="bar" style="width:{100 * own[key] / max(values):.0f}%"></i>'
