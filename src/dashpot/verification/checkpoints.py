"""Checkpoint exchange: a new optimizer resumes from the state of an optimizer of its own or of the other class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from dashpot.verification.replica import Factory, Replica
from dashpot.verification.replica_check import ReplicaCheck
from dashpot.verification.workload import Workload


class ResumedRun(NamedTuple):
    """A run resumed from a checkpoint.

    `source` is the index of the replica that saved the checkpoint, and `target` is the index of the replica whose class
    of optimizer loaded the checkpoint.
    """

    source: int
    target: int
    check: ReplicaCheck


RESUME_PAIRS = ((0, 1), (1, 0), (0, 0))
"""Pairs (source, target): optimizer to reference, reference to optimizer, and optimizer to itself."""


def resume_all(workload: Workload, factories: Sequence[Factory], replicas: Sequence[Replica]) -> list[ResumedRun]:
    """Return a resumed run for each of `RESUME_PAIRS`, starting from the source's current weights and state."""
    runs = []
    for source, target in RESUME_PAIRS:
        check = ReplicaCheck(Replica(workload, factories[target], init_from=replicas[source]))
        state = save_and_load(replicas[source].optimizer.state_dict())
        check.attempt(lambda replica, state=state: replica.optimizer.load_state_dict(state))
        runs.append(ResumedRun(source, target, check))
    return runs


def save_and_load(state: Any) -> Any:
    """Return `state` after a round trip through `torch.save`."""
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=False)
