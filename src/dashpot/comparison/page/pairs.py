"""Differences: every method against the best, all pairs as a matrix, and all verdicts as sentences."""

from __future__ import annotations

import html
from collections.abc import Sequence

from dashpot.comparison.findings import PairFinding
from dashpot.comparison.page.drawing import Drawing, Frame, Readout, plot
from dashpot.comparison.page.number_text import general
from dashpot.comparison.page.row_charts import (
    AXIS,
    NAME,
    NARROW,
    TALL_ROW,
    WIDE,
    edge_arrow,
    estimate,
    row_charts,
    value_axis,
)
from dashpot.comparison.page.scales import Scale, padded, ranked_limits
from dashpot.comparison.page.view import Section, View, folded, note, prose, shortened, table
from dashpot.comparison.table import WORDS, has_limits
from dashpot.stats.interval import reverse
from dashpot.stats.verdicts import more_seeds_text

MOST_COLUMNS = 12
"""Largest number of methods in the matrix of all pairs."""
MOST_SENTENCES = 200
ROW, VERDICT = 24.0, 230.0


def pairs(view: View) -> Section | None:
    """Return the section of the differences; None for one method or without a difference."""
    found = view.findings.pairs
    if not found:
        return None
    parts = [_forest(view), _matrix(view), _sentences(found)]
    return Section("pairs", "Differences between methods", "\n".join(filter(None, parts)))


def words(pair: PairFinding) -> str:
    """Return the verdict on the second method of a pair in a few words; empty for a difference without limits."""
    if not has_limits(pair):
        return ""
    if not pair.more_seeds:
        return WORDS[pair.verdict]
    return f"{WORDS[pair.verdict]}: " + more_seeds_text(pair.more_seeds).replace("more than 200 more", "over 200 more")


def _forest(view: View) -> str:
    """Return the chart of the differences of all other methods from the best."""
    best = view.methods[0].name
    shown = [pair for pair in view.findings.pairs if pair.better == best]
    if not shown:
        return ""
    limits = _limits(view, shown)
    charts = row_charts(f"{view.prefix}pairs", shown, lambda own, kind: _drawing(view, own, kind, limits))
    rule = view.findings.results.rule
    band = (
        f"Shaded band: differences up to the margin of {general(rule.margin)}, which are irrelevant."
        if rule.margin
        else ""
    )
    paired = "Differences are taken seed by seed."
    lines = "Lines: simultaneous 95 % confidence intervals for all pairs." if any(map(has_limits, shown)) else ""
    beyond = "Triangles at an edge: the difference is beyond the axis." if _beyond(shown, limits) else ""
    return charts + note(paired, lines, band, beyond)


def _limits(view: View, shown: Sequence[PairFinding]) -> tuple[float, float]:
    """Return the limits of the axis; methods with diverged runs do not affect them."""
    diverged = {method.name for method in view.methods if method.counts.get("diverged")}
    regular = [pair for pair in shown if pair.other not in diverged] or shown
    low, high = ranked_limits([reverse(pair.difference) for pair in regular], [0.0])
    margin = view.findings.results.rule.margin or 0.0
    return padded(min(low, -margin), max(high, margin)) if margin <= high - low or low == high else padded(low, high)


def _beyond(shown: Sequence[PairFinding], limits: tuple[float, float]) -> bool:
    low, high = limits
    return any(not low <= -pair.difference.estimate <= high for pair in shown)


def _drawing(view: View, own: Sequence[PairFinding], kind: str, limits: tuple[float, float]) -> str:
    wide = kind == "wide"
    row, width = (ROW, WIDE) if wide else (TALL_ROW, NARROW)
    bottom = row * len(own) + 4
    left, right = (NAME, WIDE - VERDICT) if wide else (4, NARROW - 8)
    scale = Scale(*limits, left, right)
    places = Scale(len(own) + 0.5, 0.5, bottom - 2, 2)
    best = view.methods[0].name
    name = f"difference from {shortened(best, 36)}"
    frame = Frame(width, bottom + AXIS, scale, places, name, "row")
    drawing = Drawing()
    _shade(drawing, view, scale, bottom)
    value_axis(drawing, scale, 2, bottom, name)
    drawing.line(scale.place(0), 2, scale.place(0), bottom, "zero")
    for index, pair in enumerate(own):
        middle = places.place(index + 1) + (0 if wide else 8)
        row_of = Drawing()
        _interval(row_of, pair, scale, middle)
        _names(row_of, pair, middle if wide else middle - 17, width)
        drawing.colored(view.color(pair.other), row_of)
    series = [
        Readout(
            " ".join(filter(None, [f"{pair.other}:", words(pair), view.span(reverse(pair.difference))])),
            [-pair.difference.estimate],
            [index + 1],
            view.color(pair.other),
        )
        for index, pair in enumerate(own)
    ]
    title = f"Difference of {view.score_name} from {best}"
    return plot(frame, title, drawing.body(), series if wide else (), kind)


def _shade(drawing: Drawing, view: View, scale: Scale, bottom: float) -> None:
    """Shade the differences up to the margin."""
    margin = view.findings.results.rule.margin
    if margin:
        drawing.rectangle(scale.clamped(-margin), 2, scale.clamped(margin), bottom, "shade")


def _interval(drawing: Drawing, pair: PairFinding, scale: Scale, y: float) -> None:
    shown = reverse(pair.difference)
    estimate(drawing, shown, scale, y)
    if not scale.contains(shown.estimate):
        edge_arrow(drawing, scale, y, "left" if shown.estimate < scale.low else "right")


def _names(drawing: Drawing, pair: PairFinding, y: float, width: float) -> None:
    drawing.text(0, y + 4, shortened(pair.other, 18), "method")
    drawing.text(width - 2, y + 4, words(pair), "value", "end")


def _matrix(view: View) -> str:
    """Return the matrix of all pairs: score of the row minus score of the column."""
    scored = [method.name for method in view.methods if method.mean is not None]
    names = scored[:MOST_COLUMNS]
    if len(names) < 3:
        return ""
    found = {(pair.better, pair.other): pair for pair in view.findings.pairs}
    rows = []
    for i, row in enumerate(names[:-1]):
        cells = [_cell(view, found.get((row, column))) if j > i else "" for j, column in enumerate(names) if j]
        rows.append([f"{i + 1} {view.named(row)}", *cells])
    header = ["row minus column", *(f'<span title="{html.escape(n)}">{j + 1}</span>' for j, n in enumerate(names) if j)]
    of = f"of the {len(names)} best methods" if len(names) < len(scored) else ""
    key = (
        '<p class="note">Verdict on the method of the row: <span class="better">better</span>, '
        '<span class="equivalent">= equivalent</span>, <span class="undecided">? undecided</span>. '
        "Methods have the numbers of the ranking.</p>"
    )
    return folded(f"All pairs {of}".strip(), table(header, rows, "matrix") + key)


def _cell(view: View, pair: PairFinding | None) -> str:
    if pair is None:
        return "–"
    mark = {"better": "", "equivalent": "= ", "undecided": "? "}[pair.verdict]
    text = f"{mark}{view.signed(pair.difference.estimate)}"
    limits = view.span(pair.difference)
    p = "" if pair.p is None else f"; p = {pair.p:.2g}"
    return f'<span class="{pair.verdict}" title="{html.escape(limits + p)}">{text}</span>'


def _sentences(found: Sequence[PairFinding]) -> str:
    found = [pair for pair in found if has_limits(pair)]
    if not found:
        return ""
    items = "".join(f"<li>{html.escape(prose(pair.sentence))}</li>" for pair in found[:MOST_SENTENCES])
    more = len(found) - MOST_SENTENCES
    rest = note(f"The file of raw data contains {more} further pairs.") if more > 0 else ""
    return folded("Verdict on each pair", f"<ul>{items}</ul>{rest}")
