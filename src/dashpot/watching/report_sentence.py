"""Sentences of a report and their priorities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRIORITIES: Mapping[str, float] = {
    "non-finite": 1.0,  # the run is lost
    "warning": 0.95,  # during the last tenth of the run
    "unstable": 0.9,  # above the edge of stability
    "rising loss": 0.85,
    "dead": 0.8,  # tensors without a gradient
    "stalled": 0.75,  # updates below the resolution of the weights
    "large updates": 0.7,  # the last fault
    "above edge": 0.66,  # and the loss does not fall
    "noise": 0.65,  # a different batch size saves time
    "below edge": 0.6,
    "flat loss": 0.55,
    "other rate": 0.5,  # steps that differ from the settings
    "at edge": 0.45,
    "balanced noise": 0.4,
    "clipped": 0.38,  # clipping lowers the learning rate
    "falling loss": 0.35,
    "past warning": 0.33,  # the run continued
    "temperature": 0.3,
    "inert": 0.28,  # tensors without effect
    "uncertain": 0.27,  # intervals that contain the opposite finding
    "over budget": 0.255,
    "updates": 0.25,
    "after fault": 0.24,  # advice that faults make void
    "rate": 0.22,
    "agreement": 0.2,
    "cost": 0.1,
}
"""Importance of findings in [0, 1]: faults first, then possible savings of time, then facts."""
FAULT = 0.7
"""Least importance of a fault."""
USEFUL = 0.255
"""Least importance of a sentence with something to do or to decide; the others are facts."""


@dataclass(frozen=True)
class Sentence:
    """A finding in words.

    Attributes:
        topic: Name of the measurement, such as "noise".
        finding: Key of `PRIORITIES`.
        text: The finding with its numbers, without a final period.
        number: The main number of `text`, or None.
        confidence: Interval, number of samples or measured rate of false alarms, in words.
        action: Advice, without a final period.
    """

    topic: str
    finding: str
    text: str
    number: float | None
    confidence: str
    action: str

    @property
    def importance(self) -> float:
        """Priority in [0, 1]."""
        return PRIORITIES[self.finding]

    def __str__(self) -> str:
        """Return the complete sentence."""
        return f"{self.text} ({self.confidence}): {self.action}."

    def to_dict(self) -> dict[str, Any]:
        """Return the sentence as JSON-serializable data."""
        return {
            "topic": self.topic,
            "finding": self.finding,
            "sentence": str(self),
            "text": self.text,
            "number": self.number,
            "confidence": self.confidence,
            "action": self.action,
            "importance": self.importance,
        }
