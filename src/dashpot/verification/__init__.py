"""Comparison of two optimizers on copies of a user's model: agreement of the weights, and cost of each optimizer."""

from __future__ import annotations

from dashpot.verification.result import Checkpoint, Cost, Deviation, Verification
from dashpot.verification.verify import verify

__all__ = ["Checkpoint", "Cost", "Deviation", "Verification", "verify"]
