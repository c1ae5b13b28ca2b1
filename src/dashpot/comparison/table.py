"""Ranking table of a comparison, for terminals of 80 columns and for Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from dashpot.comparison.findings import Findings, MethodFinding, PairFinding
from dashpot.comparison.score_text import mean_text, metric_text, score_decimals
from dashpot.runs.table import markdown_table
from dashpot.stats.verdicts import decimals, number
from dashpot.utils.format import clock, counted
from dashpot.utils.terminal import printable

WIDTH = 80
MAX_SENTENCES = 6
LEAST_NAME = 12
"""Columns that a terminal keeps for the names of methods; with less, the table omits its last columns."""
WORDS = {"better": "worse", "equivalent": "equivalent", "undecided": "undecided"}
"""Verdicts on a pair, from the side of the method with the worse mean."""

UNRANKED = "Rank ?: not separated from the best method, because the differences vary too much."


class Row(NamedTuple):
    """Cells of a method in the ranking table."""

    rank: str
    name: str
    score: str
    difference: str
    verdict: str
    steps: str
    cpu: str


def text_summary(findings: Findings, *, width: int = WIDTH) -> str:
    """Return headline, ranking table, verdicts and notes as ASCII text, unless names contain other characters.

    Args:
        findings: Findings of a comparison.
        width: Number of columns; at least 60.
    """
    parts = [
        _wrapped(findings.headline, width),
        text_table(findings, width=width),
        _wrapped(_legend(findings, "+-"), width),
        "\n".join(_wrapped(f"* {line}", width, "  ") for line in _sentences(findings)),
        "\n".join(_wrapped(f"Note: {line}", width, "  ") for line in findings.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def markdown_summary(findings: Findings) -> str:
    """Return title, headline, ranking table, verdicts and notes as Markdown.

    Args:
        findings: Findings of a comparison.
    """
    methods = counted(len(findings.methods), "method")
    rows, header = ranking(findings, sign="±"), ranking_header(findings)
    shown = [1, 0, 2, *(k for k in range(3, len(header)) if any(row[k].strip(" -") for row in rows))]
    cells = [[row[k] for k in shown] for row in rows]
    parts = [
        f"# {_escaped(findings.results.task)}: {methods} compared",
        _escaped(findings.headline),
        markdown_table([header[k] for k in shown], [[_escaped(cell) for cell in line] for line in cells]),
        _legend(findings, "±"),
        "\n".join(f"* {_escaped(line)}" for line in _sentences(findings)),
        "\n".join(f"* Note: {_escaped(line)}" for line in findings.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def ranking_header(findings: Findings) -> Row:
    """Return the column titles of the ranking table."""
    target = findings.results.rule.target
    steps = "" if target is None else f"steps to {target:g}".replace(" 0.", " .").replace("-0.", "-.")
    return Row("rank", "method", metric_text(findings.results.rule), "to best", "verdict", steps, "CPU time")


def ranking(findings: Findings, *, sign: str = "+-") -> list[Row]:
    """Return the rows of the ranking table.

    The rank is the number of the tie group, or "?" for a method of a better group than that of a method with a better
    mean: its scores vary too much for a verdict.

    Args:
        findings: Findings of a comparison.
        sign: Text between a mean and the half width of its interval.
    """
    pairs = pairs_of_best(findings)
    digits = score_decimals(findings.methods)
    rows = [_row(findings, each, pairs.get(each.name), digits, sign) for each in findings.methods]
    return [row._replace(rank=rank) for row, rank in zip(rows, ranks(findings.methods), strict=True)]


def ranks(methods: Sequence[MethodFinding]) -> list[str]:
    """Return the rank of each method: its tie group, "?" in a better group than a method above it, "-" without any."""
    worst, found = 0, []
    for method in methods:
        found.append("-" if method.group is None else "?" if method.group < worst else str(method.group))
        worst = max(worst, method.group or 0)
    return found


def _row(findings: Findings, method: MethodFinding, pair: PairFinding | None, digits: int, sign: str) -> Row:
    return Row(
        "",
        method.name,
        _score(method, digits, sign),
        "" if pair is None else difference_text(pair, method.name, digits),
        "" if pair is None else _verdict(method, pair),
        "" if findings.results.rule.target is None else steps_text(findings, method),
        clock(method.cost["cpu_s"]) if "cpu_s" in method.cost else "-",
    )


def _score(method: MethodFinding, digits: int, sign: str) -> str:
    if method.mean is None:
        return _reason(method)
    mean, half = mean_text(method.mean, digits)
    return f"{mean} {sign}{half}" if half else mean


def _reason(method: MethodFinding) -> str:
    """Return the cause of a missing score."""
    return next((status for status in ("failed", "unfinished") if method.counts.get(status)), "no run")


def pairs_of_best(findings: Findings) -> dict[str, PairFinding]:
    """Return the pairs that contain the best method, by the other method."""
    best = findings.methods[0].name if findings.methods else ""
    with_best = [pair for pair in findings.pairs if best in (pair.better, pair.other)]
    return {pair.other if pair.better == best else pair.better: pair for pair in with_best}


def difference_text(pair: PairFinding, method: str, digits: int) -> str:
    """Return the score of a method minus that of the other method of a pair.

    Args:
        pair: Pair that contains the method.
        method: Name of the method.
        digits: Number of decimals; a verdict on a smaller difference has decimals of its own.
    """
    own = pair.difference.estimate * (1 if pair.better == method else -1)
    if pair.verdict == "better" and abs(own) < 0.5 * 10.0**-digits:
        digits = decimals(abs(own))
    text = number(own, digits)
    return f"+{text}" if own > 0 and text.strip("0.") else text


def _verdict(method: MethodFinding, pair: PairFinding) -> str:
    if not has_limits(pair):
        return ""
    return "better" if pair.better == method.name and pair.verdict == "better" else WORDS[pair.verdict]


def has_limits(pair: PairFinding) -> bool:
    """Return whether the difference of a pair has an interval, which needs two seeds."""
    return math.isfinite(pair.difference.low) or math.isfinite(pair.difference.high)


def steps_text(findings: Findings, method: MethodFinding, *, of: str = "/") -> str:
    """Return the median steps to the target, with the number of runs that reached it unless all did.

    Args:
        findings: Findings of a comparison.
        method: Findings on the method.
        of: Text between the number of runs that reached the target and the number of all runs.
    """
    if method.steps_to_target is None:
        return "-"
    runs = [run for run in findings.results.of(method.name) if not math.isnan(run.steps_to_target)]
    limit = max((run.steps for run in runs), default=0)
    median = f"{method.steps_to_target:.10g}" if math.isfinite(method.steps_to_target) else f"> {limit}"
    return median if method.reached == len(runs) else f"{median} ({method.reached}{of}{len(runs)})"


def _sentences(findings: Findings) -> list[str]:
    """Return the verdicts on the first pairs, which contain the best method, and the number of the others."""
    every = [pair.sentence for pair in findings.pairs if has_limits(pair)]
    lines = every[:MAX_SENTENCES]
    more = len(every) - len(lines)
    return [*lines, f"And {counted(more, 'further pair')}, see the report."] if more else lines


def _legend(findings: Findings, sign: str) -> str:
    """Return an explanation of the intervals in the table, if there are any."""
    if not any(method.mean and math.isfinite(method.mean.high - method.mean.low) for method in findings.methods):
        return ""
    verdicts = " Verdicts compare methods seed by seed." if any(map(has_limits, findings.pairs)) else ""
    varied = f" {UNRANKED}" if "?" in ranks(findings.methods) else ""
    return f"{sign}: 95 % confidence interval of the mean.{verdicts}{varied}"


def text_table(findings: Findings, *, width: int = WIDTH) -> str:
    """Return the ranking table with aligned columns.

    Long names end in an ellipsis. If the names do not get 12 columns, the table omits the CPU time, then the steps.

    Args:
        findings: Findings of a comparison.
        width: Number of columns.
    """
    rows = [Row(*map(printable, row)) for row in [ranking_header(findings), *ranking(findings)]]
    columns = [list(cells) for cells in zip(*rows, strict=True)]
    empty = [k for k, cells in enumerate(columns) if k > 1 and not any(cell.strip(" -") for cell in cells[1:])]
    kept = [k for k in range(len(columns)) if k not in empty]
    least = min(LEAST_NAME, max(map(len, columns[1])))
    while _name_width(columns, kept, width) < least and len(kept) > 3:
        kept.pop()
    columns[1] = [_truncated(name, max(least, _name_width(columns, kept, width))) for name in columns[1]]
    left = (0, 1, 4)
    aligned = [_aligned(columns[k], left=k in left) for k in kept]
    lines = ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]
    rule = "  ".join("-" * len(cells[0]) for cells in aligned)
    return "\n".join([lines[0], rule, *lines[1:]])


def _name_width(columns: Sequence[Sequence[str]], kept: Sequence[int], width: int) -> int:
    """Return the number of columns that the other cells leave for the names."""
    return width - sum(2 + max(map(len, columns[k])) for k in kept if k != 1)


def _truncated(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 3]}..."


def _aligned(cells: Sequence[str], *, left: bool) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """Wrap text without breaks between numbers and percent signs."""
    whole = printable(text).replace(" % ", "\x00% ")
    lines = textwrap.fill(whole, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\x00", " ")


def _escaped(text: str) -> str:
    """Escape the characters that start HTML or Markdown markup."""
    return "".join(f"\\{c}" if c in "\\`*[<&$~" else c for c in printable(text))
