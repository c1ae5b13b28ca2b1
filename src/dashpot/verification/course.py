"""Two optimizers side by side: their weights held against each other after every step, checkpoints exchanged midway."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.verification.checkpoints import Resumed, resumed
from dashpot.verification.deviation import Distance, Scale, is_finite
from dashpot.verification.side import Maker, Side
from dashpot.verification.subject import Subject
from dashpot.verification.track import Track

__all__ = ["Course", "run_course", "tolerance"]

ULPS = 16.0
"""Allowed after one step; the tests and docs/verify.md have what was measured."""


@dataclass
class Course:
    """What `run_course` found; pairs are of the optimizer and the reference.

    Args:
        sides: both, as they ended.
        main: the optimizer's deviations from the reference.
        allowed: the tolerance in ulps after all steps.
        saved: the step after which checkpoints were exchanged.
        checkpoints: the runs that went on from them.
        shared: whether both were given the gradients of the reference; otherwise each had its own.
        compared: steps after which both had finite weights.
        moved: how far the reference has moved each tensor, in ulps.
        diverged: the step after which they had not, or None.
        unfinite: which of both it was that had not.
        drift: the worst tensor of a run of the optimizer on its own gradients; None where `main` is that run.
        noise: the worst tensor of a run of the reference that starts an ulp away, on its own gradients.
        losses: the loss of the last step of each on its own gradients.
        first_seconds, last_seconds: what the first and the last step took.
    """

    sides: tuple[Side, Side]
    main: Track
    allowed: float
    saved: int
    checkpoints: list[Resumed] = field(default_factory=list)
    compared: int = 0
    moved: Mapping[str, float] = field(default_factory=dict)
    diverged: int | None = None
    unfinite: tuple[bool, bool] = (False, False)
    drift: tuple[str, Distance] | None = None
    noise: tuple[str, Distance] | None = None
    losses: tuple[float, float] | None = None
    first_seconds: tuple[float, float] = (0.0, 0.0)
    last_seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def shared(self) -> bool:
        return all(side.follows for side in self.sides)

    @property
    def tracks(self) -> list[Track]:
        """Everything that is judged."""
        return [self.main, *(way.track for way in self.checkpoints)]

    @property
    def deviates(self) -> bool:
        """Whether any weights, also of a run from a checkpoint, were further apart than is allowed."""
        return any(track.first is not None for track in self.tracks)


def run_course(subject: Subject, makers: Sequence[Maker], steps: int, allowed: float | None) -> Course:
    """Take `steps` steps with the optimizer and the reference that `makers` make.

    Args:
        allowed: Ulps after all steps; None takes `tolerance`.

    Raises:
        ArgumentError: there is nothing to compare, because nothing moves or everything overflows at once.
    """
    _warm_up()
    ours, theirs = (Side(subject, make) for make in makers)
    course = Course((ours, theirs), Track(ours), 0.0, saved=steps // 2)
    course.allowed = tolerance(theirs.params, steps, shared=course.shared) if allowed is None else allowed
    scale = Scale(theirs.params)
    for step in range(1, steps + 1):
        _advance(course, step)
        _note_times(course, step)
        _judge(course, scale, step, steps)
        if course.diverged:
            break
        if step == course.saved:
            course.checkpoints = resumed(subject, makers, course.sides)
    _check_compared(course)
    for way in course.checkpoints:
        way.track.side = None  # to free its memory
    course.moved = _moved(subject, course, scale)
    if course.diverged is None:
        _note_drift(course, subject, makers, scale)
    return course


def tolerance(weights: Mapping[str, Tensor], steps: int, *, shared: bool) -> float:
    """The ulps allowed after all steps.

    Given the same gradients, two implementations of one formula differ by a few roundings at each step, which add up
    like a random walk. On gradients of their own, training enlarges the difference by a factor that nobody knows: then
    half of the digits have to agree.
    """
    if shared:
        return ULPS * math.sqrt(steps)
    return max(1 / math.sqrt(torch.finfo(w.dtype).eps) for w in weights.values())


def _allowed(course: Course, step: int, steps: int) -> float:
    """The ulps allowed after a step."""
    return course.allowed * math.sqrt(step / steps) if course.shared else course.allowed


def _warm_up() -> None:
    """Pay what the first step of any optimizer in a process costs, so that neither side is charged for it."""
    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.zeros(1)
    torch.optim.SGD([p]).step()


def _advance(course: Course, step: int) -> None:
    """Let the reference, and everything that is held against it, take a step."""
    ours, theirs = course.sides
    if not course.shared:
        ours.train(step)
        for way in course.checkpoints:
            way.track.attempt(lambda side: side.train(step))
        theirs.train(step)
        return
    gradients = theirs.gradients(step)
    ours.follow(gradients)
    for way in course.checkpoints:
        way.track.attempt(lambda side: side.follow(gradients))
    theirs.move()


def _note_times(course: Course, step: int) -> None:
    ours, theirs = course.sides
    course.last_seconds = ours.seconds, theirs.seconds
    if step == 1:
        course.first_seconds = course.last_seconds


def _judge(course: Course, scale: Scale, step: int, steps: int) -> None:
    """Measure the optimizer's deviations after a step; those of the runs from checkpoints after the last one."""
    ours, theirs = course.sides
    allowed = _allowed(course, step, steps)
    weights = ours.params, theirs.params
    course.unfinite = not is_finite(ours.params), not is_finite(theirs.params)
    if finite := not any(course.unfinite):
        course.compared = step
        scale.grow(theirs.params)
    else:
        course.diverged = step
    course.main.judge(step, allowed, scale.distances(*weights), final=not finite)
    for way in course.checkpoints:
        if way.track.side is not None and (step == steps or not finite):
            distances = scale.distances(way.track.side.params, weights[way.source])
            way.track.judge(step, allowed, distances, final=False)


def _check_compared(course: Course) -> None:
    if course.compared == 0 and course.main.first is None:
        raise ArgumentError("verify: the weights are not finite after the first step, so that nothing can be compared.")


def _moved(subject: Subject, course: Course, scale: Scale) -> dict[str, float]:
    """How far the reference has moved each tensor; refuses to call it agreement where neither side moved any."""
    start = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    if all(torch.equal(start[name], p) for side in course.sides for name, p in side.params.items()):
        raise ArgumentError(f"verify: no weight has moved in {course.compared} steps, so that nothing can be compared.")
    distances = scale.distances(start, course.sides[1].params)
    return {name: distance.ulps for name, distance in distances.items()}


def _note_drift(course: Course, subject: Subject, makers: Sequence[Maker], scale: Scale) -> None:
    """Note how the optimizer ends on its own gradients, and how the reference does that starts an ulp away."""
    ours, theirs = course.sides
    if course.shared:
        ours = Side(subject, makers[0])
        course.drift = _alone(ours, theirs, scale, course.compared)
        moved = Side(subject, makers[1])
        with torch.no_grad():
            for p in moved.params.values():
                p.mul_(1 + torch.finfo(p.dtype).eps)
        course.noise = _alone(moved, theirs, scale, course.compared)
    course.losses = ours.loss, theirs.loss


def _alone(side: Side, theirs: Side, scale: Scale, steps: int) -> tuple[str, Distance]:
    """The worst tensor after steps on the side's own gradients."""
    for step in range(1, steps + 1):
        side.train(step)
    distances = scale.distances(side.params, theirs.params)
    name = max(distances, key=lambda name: distances[name].relative)
    return name, distances[name]
