"""Outcome of an experiment as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from dashpot.experiments.intervals import verdict_of
from dashpot.experiments.result import Finding, Outcome

HEADER = ("quantity", "measured, 95 % interval", "predicted", "holds")


def outcome_text(outcome: Outcome) -> str:
    """Return claims, findings and verdict for a terminal."""
    from dashpot.runs.table import text_table

    parts = []
    for index, claim in enumerate(outcome.claims):
        found = [finding for finding in outcome.findings if finding.claim == index]
        table = text_table(HEADER, [finding_cells(finding) for finding in found])
        parts += [_wrapped(f"Claim ({claim.source}): {claim.text}"), table]
        parts += [_wrapped(f"Limit: {text}") for text in limit_texts(found)]
        if len(outcome.claims) > 1 and found:
            parts.append(f"This claim {verdict_of(found)}.")
    parts.append(_wrapped(f"Verdict: {outcome.verdict}. {outcome.reason}"))
    return "\n\n".join(parts)


def finding_cells(finding: Finding) -> list[str]:
    """Return the cells of a finding for the columns of `HEADER`."""
    predicted = "-" if finding.predicted is None else number(finding.predicted)
    holds = ("with limits" if finding.limits else "yes") if finding.holds else "no"
    return [finding.statement, _with_interval(finding), predicted, holds]


def limit_texts(findings: Sequence[Finding]) -> list[str]:
    """Return each limit once, with the quantities that it concerns."""
    concerned: dict[str, list[str]] = {}
    for finding in findings:
        if finding.limits:
            concerned.setdefault(finding.limits, []).append(finding.statement)
    return [f"{limit.rstrip('.')} ({'; '.join(names)})." for limit, names in concerned.items()]


def _with_interval(finding: Finding) -> str:
    """Return the measured value, with the half width of a symmetric interval, or with the ends of an asymmetric one.

    The half width has two significant digits, and the mean has as many decimals. Half widths below 1e-6 of the mean
    are omitted.

    >>> _with_interval(Finding("a", "a", 0.33271, 0.33131, 0.33411))
    '0.3327 ± 0.0014'
    >>> _with_interval(Finding("a", "a", 0.9, 0.5, 1.0)), _with_interval(Finding("a", "a", 2.0, 2.0, 2.0))
    ('0.9, 0.5 to 1', '2')
    """
    below, above = finding.measured - finding.low, finding.high - finding.measured
    if max(abs(below), abs(above)) <= 1e-6 * abs(finding.measured):
        return number(finding.measured)
    if math.isclose(below, above, rel_tol=1e-3):
        return mean_with_half_width(finding.measured, above)
    return f"{number(finding.measured)}, {number(finding.low)} to {number(finding.high)}"


def mean_with_half_width(mean: float, half: float) -> str:
    """Return a mean and the half width of its interval with equal decimals.

    Half widths below 1e-5 of the mean are shown separately, to limit the number of decimals.

    >>> mean_with_half_width(1.0, 0.0015), mean_with_half_width(947.2, 16.4), mean_with_half_width(6.13e-5, 4e-6)
    ('1.0000 ± 0.0015', '947 ± 16', '(6.13 ± 0.40)e-05')
    >>> mean_with_half_width(1.00000004, 4e-8)
    '1 ± 4e-08'
    """
    if half < 1e-5 * abs(mean):
        return f"{number(mean)} ± {half:.1g}"
    largest = max(abs(mean), half)
    power = math.floor(math.log10(largest))
    if power < -4 or power > 5:
        return f"({mean_with_half_width(mean / 10.0**power, half / 10.0**power)})e{power:+03d}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def number(value: float) -> str:
    """Format a number with four significant digits.

    >>> number(0.0526315), number(12345.678), number(-3.0)
    ('0.05263', '12350', '-3')
    """
    text = f"{value:.4g}"
    return f"{float(text):.0f}" if "e+0" in text and abs(value) < 1e6 else text


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100)
