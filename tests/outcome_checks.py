"""Checks that the tests of several experiments share."""

from __future__ import annotations

from pathlib import Path

from dashpot.experiments import Outcome, write_page
from dashpot.utils.strict_json import encode

LARGEST_PAGE = 300_000
"""Largest size of the page of an experiment in bytes."""


def check_findings(outcome: Outcome) -> None:
    """Check that every claim has findings and that their names are unique."""
    names = [finding.name for finding in outcome.findings]
    assert len(set(names)) == len(names)
    assert {finding.claim for finding in outcome.findings} == set(range(len(outcome.claims)))


def check_outcome(outcome: Outcome) -> None:
    """Check that names and claims are consistent, the data are plain, and every figure shows data."""
    check_findings(outcome)
    encode(outcome.to_dict())
    keys = [panel.key for panel in outcome.panels]
    assert len(set(keys)) == len(keys)
    for panel in outcome.panels:
        axes = panel.draw().axes
        assert all(ax.has_data() for ax in axes), panel.key


def check_page(outcome: Outcome, folder: Path) -> None:
    """Check the size of the page of a full run."""
    path = write_page(outcome, folder / "page.html")
    assert path.stat().st_size <= LARGEST_PAGE
