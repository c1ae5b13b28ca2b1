"""Optimizers that go on from a checkpoint, their own class's or the other's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from dashpot.verification.side import Maker, Side
from dashpot.verification.subject import Subject
from dashpot.verification.track import Track

__all__ = ["Resumed", "resumed"]


class Resumed(NamedTuple):
    """A track that goes on with the class `target` from a checkpoint of `source`, each an index of a side."""

    source: int
    target: int
    track: Track


WAYS = ((0, 1), (1, 0), (0, 0))
"""From the optimizer to the reference, back, and from the optimizer to itself."""


def resumed(subject: Subject, makers: Sequence[Maker], sides: Sequence[Side]) -> list[Resumed]:
    """New optimizers with the present weights and state of the sides, in every way that is to be tried."""
    found = []
    for source, target in WAYS:
        track = Track(Side(subject, makers[target], like=sides[source]))
        state = through_file(sides[source].optimizer.state_dict())
        track.attempt(lambda side, state=state: side.optimizer.load_state_dict(state))
        found.append(Resumed(source, target, track))
    return found


def through_file(state: Any) -> Any:
    """State as it comes back from a checkpoint on the disk."""
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=False)
