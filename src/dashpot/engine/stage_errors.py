"""Errors raised in custom stages: their location, and their conversion to `ArgumentError`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import PurePath
from typing import NamedTuple

import torch

from dashpot.errors import ArgumentError, DashpotError
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Stage

__all__ = ["StageFrame", "find_stage_frame", "has_custom_stages", "is_custom_stage", "wrap_stage_errors"]


class StageFrame(NamedTuple):
    """A source line in a method of a stage."""

    stage: str
    method: str
    file: str
    line: int
    is_custom: bool

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


def find_stage_frame(error: BaseException) -> StageFrame | None:
    """Return the innermost frame of a stage's method in a traceback, or None.

    The line may be in a function that the method calls, if that is in the same file.
    """
    found, path = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Stage) and frame.f_code.co_filename != "<string>":  # the methods that dataclasses generate
            path = frame.f_code.co_filename
            found = StageFrame(
                type(owner).__name__, frame.f_code.co_name, PurePath(path).name, line, is_custom_stage(type(owner))
            )
        elif found and frame.f_code.co_filename == path:
            found = found._replace(line=line)
    return found


def is_custom_stage(kind: type) -> bool:
    """Check for a stage class defined outside dashpot."""
    return not kind.__module__.startswith("dashpot.")


def has_custom_stages(recipe: Recipe) -> bool:
    """Check for a stage defined outside dashpot, which may raise or be random."""
    return any(is_custom_stage(type(stage)) for stage in recipe.stages)


@contextmanager
def wrap_stage_errors(shape: Sequence[int]) -> Iterator[None]:
    """Convert exceptions of custom stages to `ArgumentError` for a parameter of `shape`."""
    try:
        yield
    except (DashpotError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frame = find_stage_frame(error)
        if frame is None or not frame.is_custom:
            raise
        raise ArgumentError(_message(error, frame, shape)) from error


def _message(error: Exception, frame: StageFrame, shape: Sequence[int]) -> str:
    start = f"{frame.stage}: {frame.method}"
    if isinstance(error, FrozenInstanceError):
        return f"{start} assigns to self ({frame}), but stages are frozen; store changing values in a slot."
    what = str(error).strip().partition("\n")[0].rstrip(".:")
    start = f"{start} raised {type(error).__name__} ({frame}) for a parameter of shape {tuple(shape)}"
    return f"{start}: {what}." if what else f"{start}."
