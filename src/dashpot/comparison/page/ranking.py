"""Ranking: mean scores with intervals and single seeds from best to worst, tie groups, and the table of numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.page.drawing import Drawing, Frame, Readout, plot, short
from dashpot.comparison.page.number_text import general
from dashpot.comparison.page.row_charts import (
    AXIS,
    NAME,
    NARROW,
    ROWS,
    TALL_ROW,
    WIDE,
    edge_arrow,
    estimate,
    row_charts,
    value_axis,
)
from dashpot.comparison.page.scales import Scale, padded, ranked_limits
from dashpot.comparison.page.view import Section, View, note, prose, shortened, table
from dashpot.comparison.table import steps_text
from dashpot.utils.format import counted, duration

MOST_DOTS = 400
"""Number of single scores in a drawing above which they are omitted."""
KINDS = {"Student t", "BCa"}
"""Names of intervals that the page mentions."""
ROW = 26.0
GROUP, VALUE = 24.0, 128.0
HEAD = 18.0
CHARACTER = 7.5
"""Width of a character of a score."""
LONGEST = {"wide": 18, "narrow": 26}
"""Largest number of characters of a name in the chart."""


def ranking(view: View) -> Section:
    """Return the ranking with its chart and its table."""
    return Section("ranking", "Ranking", _chart(view) + _notes(view) + _table(view))


def _chart(view: View) -> str:
    """Return the chart with its explanation; all its drawings have equal axes."""
    ranked = [method for method in view.methods if method.mean is not None]
    if not ranked:
        return note("No method has a score.")
    limits, dots = _limits(ranked), _has_dots(ranked)

    def draw(own: Sequence[MethodFinding], kind: str) -> str:
        return _drawing(view, own, kind, limits, dots=dots)

    return row_charts(f"{view.prefix}ranking", ranked, draw) + _legend(view, ranked, limits, dots=dots)


def _limits(ranked: Sequence[MethodFinding]) -> tuple[float, float]:
    """Return the limits of the axis; methods with diverged runs do not affect them."""
    regular = [method for method in ranked if not method.counts.get("diverged")] or ranked
    low, high = ranked_limits([method.mean for method in regular if method.mean is not None])
    reach = (high - low) / 2
    scores = [score for method in regular for score in method.scores if low - reach <= score <= high + reach]
    return padded(min([low, *scores]), max([high, *scores]))


def _drawing(view: View, ranked: Sequence[MethodFinding], kind: str, axis: tuple[float, float], *, dots: bool) -> str:
    wide = kind == "wide"
    row, width = (ROW, WIDE) if wide else (TALL_ROW, NARROW)
    bottom = HEAD + row * len(ranked)
    left, right = (GROUP + NAME, WIDE - _value_width(view)) if wide else (GROUP + 4, NARROW - 8)
    scale = Scale(*axis, left, right)
    places = Scale(len(ranked) + 0.5, 0.5, bottom, HEAD)
    frame = Frame(width, bottom + AXIS, scale, places, view.score_name, "place")
    drawing = Drawing()
    limits = _has_limits(view)
    drawing.text(0, 11, "tie group, method" if limits else "method", "name")
    drawing.text(width - 2, 11, "mean ± 95 %" if limits else "score", "name", "end")
    if limits:
        _groups(drawing, view, ranked, row, width)
    better = "\N{RIGHTWARDS ARROW}" if view.findings.results.rule.direction == "max" else "\N{LEFTWARDS ARROW}"
    value_axis(drawing, scale, HEAD, bottom, f"{view.score_name}, better {better}")
    series: list[Readout] = []
    for index, method in enumerate(ranked):
        middle = places.place(index + 1) + (0 if wide else 8)
        own = Drawing()
        _row(own, method, scale, middle, dots=dots)
        _words(own, view, method, middle if wide else middle - 17, width, LONGEST[kind])
        drawing.colored(view.color(method.name), own)
        series += _readouts(view, method, index + 1, dots=dots)
    title = f"{view.score_name} of all methods, best first"
    return plot(frame, title, drawing.body(), series if wide else (), kind)


def _groups(drawing: Drawing, view: View, ranked: Sequence[MethodFinding], row: float, width: float) -> None:
    """Shade every second tie group, and mark the groups with several methods by a bracket."""
    for rank, first, count in _spans(view, ranked):
        top, height = HEAD + row * first, row * count
        if rank.isdigit() and int(rank) % 2 == 0:
            drawing.rectangle(0, top, width, top + height, "shade")
        drawing.text(0, top + height / 2 + 4, rank, "group")
        if count > 1:
            low, high = short(top + 5), short(top + height - 5)
            drawing.add(f'<path class="bracket" d="M21 {low}h-4V{high}h4"/>')


def _has_dots(ranked: Sequence[MethodFinding]) -> bool:
    return sum(len(method.scores) for method in ranked[:ROWS]) <= MOST_DOTS


def _has_limits(view: View) -> bool:
    return any(view.half_width(method.mean) for method in view.methods)


def _spans(view: View, ranked: Sequence[MethodFinding]) -> Iterator[tuple[str, int, int]]:
    """Yield rank, index of the first method, and number of methods of each run of methods with one rank."""
    names = [view.ranks[method.name] for method in ranked]
    first = 0
    for index in range(1, len(ranked) + 1):
        if index == len(ranked) or names[index] != names[first] or names[first] == "?":
            yield names[first], first, index - first
            first = index


def _row(drawing: Drawing, method: MethodFinding, scale: Scale, y: float, *, dots: bool) -> None:
    """Draw the seeds, the interval and the mean of a method; arrows mark values beyond the axis."""
    mean = method.mean
    assert mean is not None
    for score in method.scores if dots else ():
        if scale.contains(score):
            drawing.dot(scale.place(score), y, 2.6, "seed")
    outside = {"left": any(s < scale.low for s in method.scores), "right": any(s > scale.high for s in method.scores)}
    for side, found in outside.items():
        if found:
            edge_arrow(drawing, scale, y, side)
    estimate(drawing, mean, scale, y)


def _value(view: View, method: MethodFinding) -> str:
    return f"{view.mean(method)} {view.half_width(method.mean)}".strip()


def _value_width(view: View) -> float:
    """Return the width of the column of scores, with the same distance to the plot in all drawings."""
    return max(VALUE, *(24 + CHARACTER * len(_value(view, method)) for method in view.methods))


def _words(drawing: Drawing, view: View, method: MethodFinding, y: float, width: float, longest: int) -> None:
    """Write the name of a method and its score."""
    drawing.text(GROUP + 4, y + 4, shortened(method.name, longest), "method")
    assert method.mean is not None
    drawing.text(width - 2, y + 4, _value(view, method), "value", "end")


def _readouts(view: View, method: MethodFinding, place: int, *, dots: bool) -> list[Readout]:
    mean, color = method.mean, view.color(method.name)
    assert mean is not None
    limits = view.half_width(mean)
    series = [Readout(f"{method.name}: mean{' ' if limits else ''}{limits}", [mean.estimate], [place], color)]
    seeds = [score for score in method.scores if not math.isnan(score)]
    if dots and len(seeds) > 1:
        series.append(Readout(f"{method.name}: single seeds", seeds, [place] * len(seeds), color))
    return series


def _legend(view: View, ranked: Sequence[MethodFinding], axis: tuple[float, float], *, dots: bool) -> str:
    """Return the explanation of the chart."""
    low, high = axis
    beyond = any(score < low or score > high for method in ranked for score in method.scores)
    arrows = "Arrows: values beyond the axis." if beyond else ""
    if not _has_limits(view):
        return note(f"Scores of {counted(len(view.findings.seeds), 'seed')}, without intervals.", arrows)
    kinds = sorted({method.mean.method for method in ranked if method.mean is not None} & KINDS)
    seeds = "; small dots: single seeds" if dots else ""
    kind = f" ({', '.join(kinds)})" if kinds else ""
    parts = [
        f"Large dot: mean over {counted(len(view.findings.seeds), 'seed')}{seeds}.",
        f"Line: 95 % confidence interval of the mean{kind}.",
    ]
    if any(count > 1 for _, _, count in _spans(view, ranked)):
        parts.append("Brackets: tie groups, whose methods are not separated from the best of the group.")
    if "?" in view.ranks.values():
        parts.append("?: the scores vary too much for a verdict against a better group.")
    parts.append("Comparisons of two methods use the differences of each seed, which vary less than the scores.")
    return note(*parts, arrows)


def _notes(view: View) -> str:
    items = "".join(f"<li>{html.escape(prose(text))}</li>" for text in view.findings.notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _table(view: View) -> str:
    """Return the table of all methods, whose columns without any value are omitted."""
    target = view.findings.results.rule.target
    columns: dict[str, Callable[[View, MethodFinding], str]] = {
        "tie group": _group,
        view.score_name: _mean,
        "± 95 %": _width,
        "sd": _sd,
        "difference to best": _to_best,
    }
    if target is not None:
        columns[f"steps to {general(target, 6)}"] = _steps
    columns["CPU time"] = _cpu
    if any(set(method.counts) - {"done"} for method in view.methods):
        columns["completed runs"] = _runs
    cells = {name: [column(view, method) for method in view.methods] for name, column in columns.items()}
    shown = {name: column for name, column in cells.items() if set(column) != {"–"}}
    rows = [[view.named(method.name), *row] for method, *row in zip(view.methods, *shown.values(), strict=True)]
    return table(map(html.escape, ["method", *shown]), rows, "ranking")


def _cpu(_: View, method: MethodFinding) -> str:
    return duration(method.cost["cpu_s"]) if "cpu_s" in method.cost else "–"


def _group(view: View, method: MethodFinding) -> str:
    return view.ranks[method.name].replace("-", "–") if _has_limits(view) else "–"


def _mean(view: View, method: MethodFinding) -> str:
    return view.mean(method)


def _width(view: View, method: MethodFinding) -> str:
    return view.half_width(method.mean).removeprefix("± ") or "–"


def _sd(view: View, method: MethodFinding) -> str:
    return view.score(method.sd)


def _to_best(view: View, method: MethodFinding) -> str:
    return view.differences.get(method.name, "–")


def _steps(view: View, method: MethodFinding) -> str:
    return steps_text(view.findings, method, of=" of ").replace("-", "–")


def _runs(_: View, method: MethodFinding) -> str:
    """Return the numbers of runs by status; the first one is that of the completed runs."""
    others = [f"{count} {status}" for status, count in method.counts.items() if status != "done"]
    return ", ".join([str(method.counts.get("done", 0)), *others])
