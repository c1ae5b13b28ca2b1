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

    Args:
        wide: The same in float64, where the weights deviate; None where that was not run.
        enlarged: The same as the model is, where only `course`, in float64, agrees.
    """
    ours, theirs = names
    sentences = [_of_weights(ours, theirs, course)]
    if enlarged is not None:
        sentences.append(
            f"Compared in float64: in {dtype_name(enlarged)}, training amplifies rounding errors to "
            f"{number(max(track.ulps for track in enlarged.tracks))} ulps, which exceeds the tolerance."
        )
    if course.main.first is not None:
        sentences += _of_float64(wide)
    sentences += [
        f"{found.target} resumed from a checkpoint of {found.source} does not reproduce its run."
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
        return f"{ours} agrees with {theirs} within {number(course.main.ulps)} ulps."
    return (
        f"{ours} disagrees with {theirs}: after step {first.step}, {first.name} differs by {number(first.ulps)} ulps "
        f"(tolerance {number(first.allowed)})."
    )


def _of_movement(course: Course) -> list[str]:
    """Say so where the tolerance may hide another method, because weights have hardly moved."""
    if course.main.first is not None:
        return []
    deviations = {name: distance.ulps for name, distance in course.main.distances.items()}
    little = sum(0 < ulps <= course.allowed and 10 * deviations[name] > ulps for name, ulps in course.moved.items())
    if not little:
        return []
    cure = "" if dtype_name(course) == "float64" else "; use float64"
    return [
        f"{little} of {len(course.moved)} tensors moved by less than the tolerance, so the comparison says little "
        f"about them{cure}."
    ]


def _of_float64(wide: Course | None) -> list[str]:
    if wide is None:
        return []
    if wide.main.first is None:
        return [f"In float64 they agree within {number(wide.main.ulps)} ulps, so this is rounding error."]
    worst = max(distance.relative for distance in wide.main.distances.values())
    return [f"In float64 they differ as well, by {number(worst)} relative, so the method or its settings differ."]


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
