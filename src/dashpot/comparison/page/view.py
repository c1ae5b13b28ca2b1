"""What all sections of a page share: findings, colors, the text of scores, and sections."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from dashpot.analysis.wording import unbroken
from dashpot.comparison.findings import Findings, MethodFinding
from dashpot.comparison.page.number_text import bare, score, signed, with_minus
from dashpot.comparison.score_text import mean_text, metric_text, score_decimals
from dashpot.comparison.table import difference_text, pairs_of_best, ranks
from dashpot.figures.charts import legend_entry, swatch
from dashpot.figures.method_styles import Style
from dashpot.figures.palette import css_color
from dashpot.stats import Interval


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
        return metric_text(self.findings.results.rule)

    def at(self, prefix: str) -> View:
        """Return the view with another prefix of ids."""
        return replace(self, prefix=f"{prefix}-")

    def color(self, method: str) -> str:
        """Return the CSS color of a method."""
        return css_color(self.styles[method].hue.light)

    def named(self, method: str) -> str:
        """Return the name of a method in HTML, after a sample of its line."""
        name = html.escape(method)
        return f'<span class="named" title="{name}">{swatch(legend_entry(method, self.styles[method]))} {name}</span>'

    @cached_property
    def _decimals(self) -> int:
        return score_decimals(self.methods)

    def score(self, value: float | None) -> str:
        """Return a score as text."""
        return score(value, self._decimals)

    def mean(self, method: MethodFinding) -> str:
        """Return the mean score of a method as text; a dash without one."""
        return "–" if method.mean is None else bare(mean_text(method.mean, self._decimals)[0])

    @cached_property
    def ranks(self) -> dict[str, str]:
        """Rank of each method, which is that in the table of the terminal."""
        return dict(zip((method.name for method in self.methods), ranks(self.methods), strict=True))

    @cached_property
    def differences(self) -> dict[str, str]:
        """Difference of each method to the best as text, by method."""
        pairs = pairs_of_best(self.findings).items()
        return {name: bare(difference_text(pair, name, self._decimals)) for name, pair in pairs}

    def signed(self, value: float) -> str:
        """Return a difference of scores as text."""
        return signed(value, self._decimals)

    def span(self, interval: Interval) -> str:
        """Return the limits of a difference as text, or nothing for infinite limits."""
        if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return ""
        return f"{self.signed(interval.low)} to {self.signed(interval.high)}"

    def half_width(self, interval: Interval | None) -> str:
        """Return half of the width of an interval after a plus-minus sign, or nothing for infinite limits."""
        if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return ""
        return f"± {bare(mean_text(interval, self._decimals)[1])}"


def shortened(name: str, most: int) -> str:
    """Return a name with at most `most` characters; names often differ at their ends, which are kept.

    >>> shortened("adam", 8), shortened("adam:lr=0.01", 8)
    ('adam', 'adam:…01')
    """
    tail = (most - 1) * 2 // 5
    return name if len(name) <= most else f"{name[: most - 1 - tail]}…{name[-tail:]}"


def prose(text: str) -> str:
    """Return a sentence with typographic minus signs, whose numbers are not broken."""
    return unbroken(with_minus(text))


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
    """Return a part that is closed until a click, nothing without a body; prints contain it if `printed`."""
    if not body:
        return ""
    mark = ' data-print=""' if printed else ""
    return f"<details{mark}><summary>{html.escape(summary)}</summary>\n{body}\n</details>"


def note(*sentences: str) -> str:
    """Return escaped text in small print; nothing without text."""
    text = " ".join(filter(None, sentences))
    return f'<p class="note">{html.escape(text)}</p>' if text else ""
