"""Experiments on statements of the source documents: claim, measurement, figure and verdict on one page."""

from dashpot.experiments.intervals import MeanInterval, compared, mean_interval, verdict_of
from dashpot.experiments.page import write_page
from dashpot.experiments.result import FAILS, HOLDS, HOLDS_WITH_LIMITS, Claim, Finding, Outcome, Panel
from dashpot.experiments.runner import run

__all__ = [
    "FAILS",
    "HOLDS",
    "HOLDS_WITH_LIMITS",
    "Claim",
    "Finding",
    "MeanInterval",
    "Outcome",
    "Panel",
    "compared",
    "mean_interval",
    "run",
    "verdict_of",
    "write_page",
]
