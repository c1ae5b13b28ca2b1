"""Profile across tasks."""

from __future__ import annotations

from collections.abc import Sequence

from dashpot.comparison.page.view import Section, View


def profile(views: Sequence[View]) -> Section | None:
    """Return the overview of several tasks."""
    return None
