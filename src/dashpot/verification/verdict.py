"""The verdict in words: which tensor deviates, from which step on, and what that may come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dashpot.verification.course import Course
from dashpot.verification.result import Checkpoint, number

__all__ = ["differing_settings", "dtype_name", "verdict"]

_NO_SETTINGS = {"params", "param_names", "foreach", "fused", "capturable", "differentiable", "initial_lr", "seed"}


def verdict(
    names: Sequence[str],
    course: Course,
    checkpoints: Sequence[Checkpoint],
    wide: Course | None,
    enlarged: Course | None,
) -> str:
    """A few sentences.

    wide
        the same in float64, where the weights deviate; None where that was not run.
    enlarged
        the same as the model is, where only `course`, in float64, agrees.
    """
    ours, theirs = names
    sentences = [_of_weights(ours, theirs, course)]
    if enlarged is not None:
        sentences.append(
            f"This is in float64: in {dtype_name(enlarged)}, training enlarges rounding to more than is allowed, "
            f"{number(max(track.ulps for track in enlarged.tracks))} ulps."
        )
    if course.main.first is not None:
        sentences += _of_float64(wide)
    sentences += [
        f"{found.target} does not continue from a checkpoint of {found.source} as {found.source} does."
        for found in checkpoints
        if found.outcome == "fails" or (found.outcome == "deviates" and course.main.first is None)
    ]
    sentences += _of_movement(course)
    if course.diverged is not None:
        who = " and ".join(name for name, bad in zip(names, course.unfinite, strict=True) if bad)
        sentences.append(f"After step {course.diverged} the weights of {who} are no longer finite.")
    return " ".join(sentences)


def dtype_name(course: Course) -> str:
    """Of the weights."""
    return " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in course.sides[1].params.values()}))


def _of_weights(ours: str, theirs: str, course: Course) -> str:
    first = course.main.first
    if first is None:
        return f"{ours} agrees with {theirs} to {number(course.main.ulps)} ulps."
    return (
        f"{ours} disagrees with {theirs}: after step {first.step}, {first.name} deviates by {number(first.ulps)} ulps; "
        f"{number(first.allowed)} are allowed."
    )


def _of_movement(course: Course) -> list[str]:
    """Say so where the tolerance may hide another method, because weights have hardly moved."""
    if course.main.first is not None:
        return []
    deviations = {name: distance.ulps for name, distance in course.main.distances.items()}
    little = sum(0 < ulps <= course.allowed and 10 * deviations[name] > ulps for name, ulps in course.moved.items())
    if not little:
        return []
    cure = "" if dtype_name(course) == "float64" else "; float64 shows more"
    return [
        f"{little} of {len(course.moved)} tensors have moved by less than is allowed and at most ten times the "
        f"deviation, which does not show much{cure}."
    ]


def _of_float64(wide: Course | None) -> list[str]:
    if wide is None:
        return []
    if wide.main.first is None:
        return [f"In float64 they agree to {number(wide.main.ulps)} ulps: the difference is rounding."]
    worst = max(distance.relative for distance in wide.main.distances.values())
    return [f"In float64 they deviate as well, by {number(worst)} relative: method or settings differ."]


def differing_settings(course: Course) -> tuple[str, ...]:
    """The settings of the parameter groups that both have and that differ, such as "eps 0.001 and 1e-08"."""
    ours, theirs = (side.optimizer.param_groups for side in course.sides)
    found = []
    for index, (a, b) in enumerate(zip(ours, theirs)):  # noqa: B905  another number of groups is no setting
        where = f" of group {index}" if len(theirs) > 1 else ""
        found += [f"{name}{where} {a[name]!r} and {b[name]!r}" for name in a if _differs(name, a, b)]
    return tuple(found)


def _differs(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if name in _NO_SETTINGS or name not in b:
        return False
    x, y = ([value.tolist() if isinstance(value, torch.Tensor) else value for value in (g[name],)] for g in (a, b))
    return x != y
