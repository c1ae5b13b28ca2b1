"""Outcome of an experiment as text."""

from __future__ import annotations

import textwrap

from dashpot.experiments.intervals import verdict_of
from dashpot.experiments.result import Finding, Outcome

HEADER = ("quantity", "measured", "95 % interval", "predicted", "holds")


def outcome_text(outcome: Outcome) -> str:
    """Return claims, findings and verdict for a terminal."""
    from dashpot.runs.table import text_table

    parts = []
    for index, claim in enumerate(outcome.claims):
        found = [finding for finding in outcome.findings if finding.claim == index]
        table = text_table(HEADER, [finding_cells(finding) for finding in found])
        parts += [_wrapped(f"Claim ({claim.source}): {claim.text}"), table]
        parts += [_wrapped(f"{finding.statement}: {finding.limits}") for finding in found if finding.limits]
        if len(outcome.claims) > 1 and found:
            parts.append(f"This claim {verdict_of(found)}.")
    parts.append(_wrapped(f"Verdict: {outcome.verdict}. {outcome.reason}"))
    return "\n\n".join(parts)


def finding_cells(finding: Finding) -> list[str]:
    """Return the cells of a finding for the columns of `HEADER`."""
    interval = "exact" if finding.low == finding.high else f"{number(finding.low)} .. {number(finding.high)}"
    predicted = "-" if finding.predicted is None else number(finding.predicted)
    holds = ("with limits" if finding.limits else "yes") if finding.holds else "no"
    return [finding.statement, number(finding.measured), interval, predicted, holds]


def number(value: float) -> str:
    """Format a number with four significant digits.

    >>> number(0.0526315), number(12345.678), number(-3.0)
    ('0.05263', '12350', '-3')
    """
    text = f"{value:.4g}"
    return f"{float(text):.0f}" if "e+0" in text and abs(value) < 1e6 else text


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100)
