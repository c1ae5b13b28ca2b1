"""Cost of an optimizer: time of the first step and of a late step, bytes of state, and temporary memory."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.verification.paired_run import PairedRun
from dashpot.verification.replica import Factory, Replica
from dashpot.verification.result import Cost
from dashpot.verification.workload import Workload

MEDIAN_RADIUS = 5
"""Half-width, in steps, of the window around the late step; the time of the late step is the median over the window."""


def measure_costs(
    workload: Workload, factories: Sequence[Factory], run: PairedRun, names: Sequence[str], timed: int
) -> list[Cost]:
    """Return the costs of the optimizer and of the reference.

    If both optimizers need only gradients for a step, each takes `timed` steps on a new replica; the steps of the two
    optimizers alternate. All of these steps use the gradients of the first batch, so that no forward pass affects the
    CPU caches. Otherwise, the times of the paired run are used.
    """
    first, last = run.first_seconds, run.last_seconds
    if not run.shared_gradients:
        sizes = [_state_bytes(replica.optimizer) for replica in run.replicas]
        return [Cost(*row, None) for row in zip(names, first, [run.compared] * 2, last, sizes, strict=True)]
    replicas = [Replica(workload, factory) for factory in factories]
    gradients = replicas[0].compute_gradients(1)
    for replica in replicas:
        replica.set_gradients(gradients)
    times = _interleaved_seconds(replicas, timed)
    return [
        Cost(name, seconds, timed, late, _state_bytes(replica.optimizer), _temporary_bytes(replica))
        for name, seconds, late, replica in zip(names, first, times, replicas, strict=True)
    ]


def _interleaved_seconds(replicas: Sequence[Replica], timed: int) -> list[float]:
    """Return, for each replica, the time of step `timed` in seconds."""
    table: list[list[float]] = []
    for _ in range(timed + MEDIAN_RADIUS):
        for replica in replicas:
            replica.step()
        table.append([replica.seconds for replica in replicas])
    return [statistics.median(column) for column in zip(*table[-2 * MEDIAN_RADIUS :], strict=True)]


def _state_bytes(optimizer: Any) -> int:
    values = (value for state in getattr(optimizer, "state", {}).values() for value in state.values())
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _temporary_bytes(replica: Replica) -> int:
    """Return the peak memory in bytes allocated by torch during a step, minus the memory allocated before it."""
    if replica.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(replica.device)
        before = torch.cuda.memory_allocated(replica.device)
        replica.step()
        return torch.cuda.max_memory_allocated(replica.device) - before
    return _profiled_peak(replica.step)


def _profiled_peak(step: Callable[[], object]) -> int:
    """Return the peak memory in bytes, computed from the allocations and frees recorded by torch's profiler."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99"  # suppresses start and stop messages on stderr
    try:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            step()
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = before
    results: Any = profile.kineto_results if profile else None
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
