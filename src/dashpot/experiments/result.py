"""Outcome of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOLDS = "holds"
HOLDS_WITH_LIMITS = "holds with limits"
FAILS = "does not hold here"


@dataclass(frozen=True)
class Claim:
    """A statement of a source document.

    Args:
        source: Document and section, such as "TTIC 31230, slides on SGD, Gibbs distribution".
        text: The statement in our words.
    """

    source: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A measured number next to its prediction.

    Args:
        name: Identifier, unique in the experiment.
        statement: Measured quantity in words, with its unit.
        measured: Mean over seeds.
        low: Lower end of the 95 % interval over seeds; equals `measured` for deterministic results.
        high: Upper end of the interval.
        predicted: Prediction of theory or source; None without a prediction.
        holds: Whether the measurement supports the claim.
        limits: Condition under which it holds, for the verdict "holds with limits".
        claim: Index of the tested claim in `Outcome.claims`.
    """

    name: str
    statement: str
    measured: float
    low: float
    high: float
    predicted: float | None = None
    holds: bool = True
    limits: str = ""
    claim: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-serializable data."""
        return asdict(self)


@dataclass(frozen=True)
class Panel:
    """A figure of the page.

    Args:
        key: Prefix of the ids of the figure, unique on the page.
        title: Heading.
        note: Text below the figure.
        draw: Function that returns the matplotlib figure; called only when the page is written.
        claim: Index of the claim below which the figure is placed in `Outcome.claims`.
    """

    key: str
    title: str
    note: str
    draw: Callable[[], Figure]
    claim: int = 0


@dataclass(frozen=True, repr=False)
class Outcome:
    """Result of an experiment. `print` shows claims, measurements and the verdict.

    Args:
        claims: Tested statements.
        findings: Measurements.
        verdict: `HOLDS`, `HOLDS_WITH_LIMITS` or `FAILS`.
        reason: One or two sentences that justify the verdict.
        panels: Figures.
        settings: All settings needed to repeat the experiment, seeds included.
        data: Plotted numbers, as JSON-serializable data.
        name: Name of the experiment, set by `dashpot.experiments.run`.
    """

    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]
    verdict: str
    reason: str
    panels: tuple[Panel, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        """Return claims, measurements and the verdict, as printed by `dashpot experiment`."""
        from dashpot.experiments.text import outcome_text

        return outcome_text(self)

    def __repr__(self) -> str:
        """Return the same as `str`, for interactive sessions."""
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome without its figures as JSON-serializable data."""
        return {
            "name": self.name,
            "claims": [asdict(claim) for claim in self.claims],
            "findings": [finding.to_dict() for finding in self.findings],
            "verdict": self.verdict,
            "reason": self.reason,
            "settings": dict(self.settings),
            "data": dict(self.data),
        }
