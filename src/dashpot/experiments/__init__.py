"""Experiments on statements of the source documents: claim, measurement, figure and verdict on one page."""

from dashpot.experiments.result import FAILS, HOLDS, HOLDS_WITH_LIMITS, Claim, Finding, Outcome, Panel

__all__ = ["FAILS", "HOLDS", "HOLDS_WITH_LIMITS", "Claim", "Finding", "Outcome", "Panel"]
