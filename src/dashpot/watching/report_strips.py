"""Heat strips of a page: a row for each tensor, whose color shows a quantity over the steps."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from dashpot.analysis.wording import number, percent
from dashpot.watching.report_rows import Curve

COLUMNS = 48
"""Number of time spans of a strip."""
LEVELS = 7
"""Number of colors."""
STYLE = """<style>
.strips { display: grid; grid-template-columns: minmax(0, 18rem) minmax(0, 1fr) max-content; gap: 0.15rem 0.75rem; }
.strips { align-items: center; font-size: 0.8rem; font-variant-numeric: tabular-nums; }
.strips code { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; direction: rtl; text-align: left; }
.strips code { font-size: 0.75rem; }
.strips svg { width: 100%; height: 0.95rem; display: block; background: var(--panel); }
.strips span { text-align: right; }
.strips .head { color: var(--muted); text-align: left; }
.strips .axis { display: flex; justify-content: space-between; }
.heat { fill: var(--series-0); }
.key { display: flex; flex-wrap: wrap; gap: 0.2rem 0.9rem; font-size: 0.8rem; color: var(--muted); margin: 0.5rem 0; }
.key svg { width: 1.4rem; height: 0.7rem; margin-right: 0.3rem; }
@media screen and (max-width: 40rem) {
  .strips { grid-template-columns: minmax(0, 11rem) minmax(0, 1fr) max-content; gap: 0.15rem 0.5rem; }
  .strips code { font-size: 0.68rem; }
}
@media print { .strips { font-size: 7.5pt; break-inside: auto; } .strips code { font-size: 7pt; } }
</style>"""


class Scale(NamedTuple):
    """Logarithmic color scale.

    Attributes:
        low: Lower end of the first level.
        factor: Ratio of the ends of a level.
    """

    low: float
    factor: float

    def level(self, value: float) -> int:
        """Return the level of a positive value.

        >>> Scale(1e-4, 10.0).level(2e-3), Scale(1e-4, 10.0).level(1e-9), Scale(1e-4, 10.0).level(1e9)
        (1, 0, 6)
        """
        return min(LEVELS - 1, max(0, math.floor(math.log(value / self.low) / math.log(self.factor))))

    def bounds(self, level: int) -> tuple[float, float]:
        """Return the ends of a level."""
        return self.low * self.factor**level, self.low * self.factor ** (level + 1)


def strips(curves: Mapping[str, Curve], heading: str) -> str:
    """Return the HTML of one strip for each tensor, in the given order.

    Args:
        curves: Steps and values by tensor.
        heading: Heading of the column of newest values.
    """
    steps = [step for own, _ in curves.values() for step in own]
    values = [value for _, own in curves.values() for value in own if value > 0]
    first, last = min(steps), max(steps)
    scale = _scale(values)
    rows = "\n".join(_row(name, _spans(own, first, last), own[1][-1], scale) for name, own in curves.items())
    axis = f'<span class="head axis"><span>step {first}</span><span>{last}</span></span>'
    head = f'<span class="head">tensor</span>{axis}<span class="head">{html.escape(heading)}</span>'
    return f'{STYLE}\n{_key(scale)}\n<div class="strips">{head}\n{rows}\n</div>'


def _scale(values: Sequence[float]) -> Scale:
    """Return the scale from the 2 % to the 98 % quantile of the values, over at least one factor of 10."""
    order = sorted(values) or [1.0]
    low, high = order[int(0.02 * (len(order) - 1))], order[math.ceil(0.98 * (len(order) - 1))]
    middle, ratio = math.sqrt(low * high), max(10.0, high / low)
    return Scale(middle / math.sqrt(ratio), ratio ** (1 / LEVELS))


def _spans(points: Curve, first: int, last: int) -> list[float | None]:
    """Return the median value in each time span, None for spans without a value."""
    found: list[list[float]] = [[] for _ in range(COLUMNS)]
    for step, value in zip(*points, strict=True):
        found[min(COLUMNS - 1, (step - first) * COLUMNS // max(1, last - first + 1))].append(value)
    return [median(own) if own else None for own in found]


def _row(name: str, spans: Sequence[float | None], newest: float, scale: Scale) -> str:
    text = html.escape(name)
    known = [value for value in spans if value is not None]
    label = f"{name}: {percent(min(known))} to {percent(max(known))}"
    drawn = f'<svg viewBox="0 0 {COLUMNS} 1" preserveAspectRatio="none" role="img" aria-label="{html.escape(label)}">'
    # A left-to-right mark keeps the order of the characters; the clipped end of a name is its start.
    return f'<code title="{text}">&lrm;{text}</code>{drawn}{_runs(spans, scale)}</svg><span>{percent(newest)}</span>'


def _runs(spans: Sequence[float | None], scale: Scale) -> str:
    """Return one path for each level, with a rectangle for each run of neighboring spans."""
    levels = [None if value is None or value <= 0 else scale.level(value) for value in _filled(spans)]
    paths: dict[int, str] = {}
    start = 0
    for end in range(1, len(levels) + 1):
        if end == len(levels) or levels[end] != levels[start]:
            level = levels[start]
            if level is not None:
                paths[level] = paths.get(level, "") + f"M{start} 0h{end - start}v1h-{end - start}z"
            start = end
    return "".join(
        f'<path class="heat" fill-opacity="{_opacity(level)}" d="{path}"/>' for level, path in sorted(paths.items())
    )


def _filled(spans: Sequence[float | None]) -> list[float | None]:
    """Repeat the last value in spans without one, since measurements can be rarer than spans."""
    found: list[float | None] = []
    for value in spans:
        found.append(value if value is not None or not found else found[-1])
    return found


def _opacity(level: int) -> str:
    return f"{0.1 + 0.9 * level / (LEVELS - 1):.2g}"


def _key(scale: Scale) -> str:
    """Return the legend of the colors."""
    items = []
    for level in range(LEVELS):
        low, high = scale.bounds(level)
        ends = f"{number(100 * low, 2)} to {number(100 * high, 2)} %"
        ends = f"below {number(100 * high, 2)} %" if level == 0 else ends
        ends = f"above {number(100 * low, 2)} %" if level == LEVELS - 1 else ends
        swatch = f'<rect class="heat" width="1" height="1" fill-opacity="{_opacity(level)}"/>'
        box = f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{swatch}</svg>'
        items.append(f"<span>{box}{html.escape(ends)}</span>")
    return f'<div class="key">{"".join(items)}</div>'
