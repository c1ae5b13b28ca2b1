"""What all sections of a page share: findings, colors, the text of scores, and sections."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from dashpot.comparison.findings import Findings, MethodFinding
from dashpot.figures.charts import legend_entry, swatch
from dashpot.figures.method_styles import Style
from dashpot.figures.palette import css_color
from dashpot.figures.style import DASHES
from dashpot.stats import Interval

MINUS = "\N{MINUS SIGN}"
MOST_PLACES = 6


class Section(NamedTuple):
    """Section of a page: key of its ids, heading, and HTML."""

    key: str
    title: str
    html: str


@dataclass(frozen=True)
class View:
    """Findings on a task with the appearance of its methods.

    Args:
        findings: The findings.
        styles: Color and dash pattern by method.
        prefix: Prefix of all ids; unique on the page.
    """

    findings: Findings
    styles: Mapping[str, Style]
    prefix: str = ""

    @property
    def methods(self) -> tuple[MethodFinding, ...]:
        """Methods from best to worst."""
        return self.findings.methods

    @property
    def score_name(self) -> str:
        """Name of the score, such as "test accuracy"."""
        rule = self.findings.results.rule
        return f"{rule.split} {rule.metric}"

    def color(self, method: str) -> str:
        """Return the CSS color of a method."""
        return css_color(self.styles[method].hue.light)

    def dashes(self, method: str) -> str:
        """Return the dash pattern of the line of a method, for SVG."""
        pattern = DASHES[self.styles[method].dash]
        return "" if pattern == "solid" else " ".join(f"{1.8 * length:g}" for length in pattern[1])

    def named(self, method: str) -> str:
        """Return the name of a method in HTML, after a sample of its line."""
        name = html.escape(method)
        return f'<span class="named" title="{name}">{swatch(legend_entry(method, self.styles[method]))} {name}</span>'

    @property
    def places(self) -> int:
        """Number of decimals of scores: two significant digits of the median half-width of the intervals."""
        means = [method.mean for method in self.methods if method.mean is not None]
        widths = [(mean.high - mean.low) / 2 for mean in means]
        return _places(widths) or _places(abs(mean.estimate) * 0.01 for mean in means) or 4

    def score(self, value: float | None) -> str:
        """Return a score as text."""
        return fixed(value, self.places)

    def signed(self, value: float) -> str:
        """Return a difference of scores as text."""
        text = self.score(value)
        return text if text.startswith(MINUS) or not math.isfinite(value) else f"+{text}"

    def span(self, interval: Interval) -> str:
        """Return the limits of a difference as text, or nothing for infinite limits."""
        if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return ""
        return f"{self.signed(interval.low)} to {self.signed(interval.high)}"

    def half_width(self, interval: Interval | None) -> str:
        """Return half of the width of an interval after a plus-minus sign, or nothing for infinite limits."""
        if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return ""
        return f"± {self.score((interval.high - interval.low) / 2)}"


def _places(widths: Iterable[float]) -> int:
    known = [width for width in widths if width > 0 and math.isfinite(width)]
    return min(MOST_PLACES, max(0, 1 - math.floor(math.log10(median(known))))) if known else 0


def fixed(value: float | None, places: int) -> str:
    """Return a number with a fixed number of decimals.

    >>> fixed(-0.12345, 3), fixed(1e9, 2), fixed(None, 2), fixed(float("inf"), 2)
    ('−0.123', '1e+09', '–', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:.{places}f}" if abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("-", MINUS)


def table(header: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Return a table of cells that are HTML; the first column contains row headings."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = []
    for first, *rest in rows:
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def folded(summary: str, body: str, *, printed: bool = True) -> str:
    """Return a part that is closed until a click; prints contain it if `printed`."""
    mark = ' data-print=""' if printed else ""
    return f"<details{mark}><summary>{html.escape(summary)}</summary>\n{body}\n</details>"


def note(*sentences: str) -> str:
    """Return escaped text in small print."""
    return f'<p class="note">{html.escape(" ".join(filter(None, sentences)))}</p>'
