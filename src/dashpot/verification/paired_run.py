"""Run of two optimizers whose weights are compared after each step and whose checkpoints are exchanged halfway."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from dashpot.errors import ArgumentError
from dashpot.verification.checkpoints import ResumedRun, resume_all
from dashpot.verification.deviation import Distance, UlpScale, is_finite
from dashpot.verification.replica import Factory, Replica
from dashpot.verification.replica_check import ReplicaCheck
from dashpot.verification.workload import Workload

ULPS = 16.0
"""Tolerance in ulps after one step; docs/verify.md lists measured deviations."""


@dataclass
class PairedRun:
    """Results of `run_pair`. Each pair contains a value for the optimizer and a value for the reference.

    Args:
        replicas: Both replicas after the last step.
        main: Deviations of the optimizer from the reference.
        tolerance: Largest deviation in ulps allowed after the last step.
        saved: Step after which checkpoints are exchanged.
        resumed: Runs resumed from the exchanged checkpoints.
        compared: Number of steps after which both replicas had finite weights and were compared.
        moved: Distance in ulps that each tensor of the reference has moved from its initial value.
        diverged: First step with infinite or NaN weights, or None.
        nonfinite: Whether each replica has infinite or NaN weights.
        drift: Name and deviation of the worst tensor in a run of the optimizer on its own gradients; None if the main
            run already uses the optimizer's own gradients.
        noise: Name and deviation of the worst tensor in a run of the reference on its own gradients, starting from
            initial weights perturbed by one ulp.
        losses: Losses at the last step of runs in which each optimizer uses its own gradients.
        first_seconds: Time of the first step in seconds.
        last_seconds: Time of the last step in seconds.
    """

    replicas: tuple[Replica, Replica]
    main: ReplicaCheck
    tolerance: float
    saved: int
    resumed: list[ResumedRun] = field(default_factory=list)
    compared: int = 0
    moved: Mapping[str, float] = field(default_factory=dict)
    diverged: int | None = None
    nonfinite: tuple[bool, bool] = (False, False)
    drift: tuple[str, Distance] | None = None
    noise: tuple[str, Distance] | None = None
    losses: tuple[float, float] | None = None
    first_seconds: tuple[float, float] = (0.0, 0.0)
    last_seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def shared_gradients(self) -> bool:
        """Whether both optimizers use the gradients of the reference."""
        return all(replica.needs_only_gradients for replica in self.replicas)

    @property
    def checks(self) -> list[ReplicaCheck]:
        """Checks of the main run and of all resumed runs."""
        return [self.main, *(resumed.check for resumed in self.resumed)]

    @property
    def deviates(self) -> bool:
        """Whether any run, including the resumed ones, exceeded the tolerance."""
        return any(check.first is not None for check in self.checks)


def run_pair(workload: Workload, factories: Sequence[Factory], steps: int, tolerance: float | None) -> PairedRun:
    """Take `steps` steps with the optimizer and the reference.

    Args:
        workload: Model, batches and loss.
        factories: Factories of the optimizer and of the reference.
        steps: Number of steps; at least 2.
        tolerance: Largest deviation in ulps allowed after the last step; None for the default, see `dashpot.verify`.

    Raises:
        ArgumentError: If no weight moves, or if weights are not finite after the first step.
    """
    _warm_up()
    ours, theirs = (Replica(workload, factory) for factory in factories)
    run = PairedRun((ours, theirs), ReplicaCheck(ours), 0.0, saved=steps // 2)
    run.tolerance = _default_tolerance(run, steps) if tolerance is None else tolerance
    scale = UlpScale(theirs.params)
    for step in range(1, steps + 1):
        _advance(run, step)
        run.last_seconds = ours.seconds, theirs.seconds
        if step == 1:
            run.first_seconds = run.last_seconds
        _record_deviations(run, scale, step, steps)
        if run.diverged:
            break
        if step == run.saved:
            run.resumed = resume_all(workload, factories, run.replicas)
    if run.compared == 0 and run.main.first is None:
        raise ArgumentError("verify: weights must be finite after the first step, got infinities or NaNs.")
    for resumed in run.resumed:
        resumed.check.replica = None  # releases its memory
    run.moved = _moved(workload, run, scale)
    if run.diverged is None:
        _run_independently(run, workload, factories, scale)
    return run


def _default_tolerance(run: PairedRun, steps: int) -> float:
    """Return the largest deviation in ulps allowed after all steps.

    If both optimizers use the same gradients, two implementations of a formula differ by a few rounding errors per
    step, which add up like a random walk. If each optimizer uses its own gradients, training amplifies the difference
    by an unknown factor; half of the digits must then agree.
    """
    if run.shared_gradients:
        return ULPS * math.sqrt(steps)
    return max(1 / math.sqrt(torch.finfo(w.dtype).eps) for w in run.replicas[1].params.values())


def _warm_up() -> None:
    """Trigger the lazy initialization of torch.optim, so that its time is not included in the time of a replica."""
    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.zeros(1)
    torch.optim.SGD([p]).step()


def _advance(run: PairedRun, step: int) -> None:
    """Take a step with both replicas and all resumed runs."""
    ours, theirs = run.replicas
    if not run.shared_gradients:
        ours.train_step(step)
        for resumed in run.resumed:
            resumed.check.attempt(lambda replica: replica.train_step(step))
        theirs.train_step(step)
        return
    gradients = theirs.compute_gradients(step)
    ours.step_with(gradients)
    for resumed in run.resumed:
        resumed.check.attempt(lambda replica: replica.step_with(gradients))
    theirs.step()


def _record_deviations(run: PairedRun, scale: UlpScale, step: int, steps: int) -> None:
    """Record the optimizer's deviations after a step and, after the last step, the deviations of the resumed runs."""
    weights = ours, theirs = run.replicas[0].params, run.replicas[1].params
    allowed = run.tolerance * math.sqrt(step / steps) if run.shared_gradients else run.tolerance
    run.nonfinite = not is_finite(ours), not is_finite(theirs)
    if finite := not any(run.nonfinite):
        run.compared = step
        scale.update(theirs)
    else:
        run.diverged = step
    run.main.record(step, allowed, scale.distances(ours, theirs), finite=finite)
    for resumed in run.resumed:
        if resumed.check.replica is not None and (step == steps or not finite):
            distances = scale.distances(resumed.check.replica.params, weights[resumed.source])
            resumed.check.record(step, allowed, distances, finite=True)


def _moved(workload: Workload, run: PairedRun, scale: UlpScale) -> dict[str, float]:
    """Return the distance in ulps that each tensor of the reference has moved; raise if no tensor moved."""
    start = {name: p for name, p in workload.model.named_parameters() if p.requires_grad}
    if all(torch.equal(start[name], p) for replica in run.replicas for name, p in replica.params.items()):
        raise ArgumentError(f"verify: at least one weight must move, got no change in {run.compared} steps.")
    distances = scale.distances(start, run.replicas[1].params)
    return {name: distance.ulps for name, distance in distances.items()}


def _run_independently(run: PairedRun, workload: Workload, factories: Sequence[Factory], scale: UlpScale) -> None:
    """Run the optimizer and a reference with weights perturbed by one ulp, each on its own gradients."""
    ours, theirs = run.replicas
    if run.shared_gradients:
        ours = Replica(workload, factories[0])
        run.drift = _worst_tensor(ours, theirs, scale, run.compared)
        perturbed = Replica(workload, factories[1])
        with torch.no_grad():
            for p in perturbed.params.values():
                p.mul_(1 + torch.finfo(p.dtype).eps)
        run.noise = _worst_tensor(perturbed, theirs, scale, run.compared)
    run.losses = ours.loss, theirs.loss


def _worst_tensor(replica: Replica, theirs: Replica, scale: UlpScale, steps: int) -> tuple[str, Distance]:
    """Train a replica on its own gradients and return the name and deviation of its worst tensor."""
    for step in range(1, steps + 1):
        replica.train_step(step)
    distances = scale.distances(replica.params, theirs.params)
    name = max(distances, key=lambda name: distances[name].relative)
    return name, distances[name]
