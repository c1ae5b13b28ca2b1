"""Errors that arise in a stage: where, and as a sentence."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import PurePath
from typing import NamedTuple

import torch

from dashpot.errors import ArgumentError, DashpotError
from dashpot.stages.base import Stage

__all__ = ["StageFrame", "find_stage_frame", "is_custom_stage", "wrap_stage_errors"]


class StageFrame(NamedTuple):
    """A line of a stage's method."""

    stage: str
    method: str
    file: str
    line: int
    is_custom: bool

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


def find_stage_frame(error: BaseException) -> StageFrame | None:
    """The innermost line of a stage's method, or of a function beside it in its file, in the traceback of `error`.

    None where no stage took part.
    """
    found, path = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Stage) and frame.f_code.co_filename != "<string>":  # where a dataclass has its methods
            path = frame.f_code.co_filename
            found = StageFrame(
                type(owner).__name__, frame.f_code.co_name, PurePath(path).name, line, is_custom_stage(type(owner))
            )
        elif found and frame.f_code.co_filename == path:
            found = found._replace(line=line)
    return found


def is_custom_stage(kind: type) -> bool:
    """True for a stage from outside dashpot, whose mistakes are its author's to mend."""
    return not kind.__module__.startswith("dashpot.")


@contextmanager
def wrap_stage_errors(shape: Sequence[int]) -> Iterator[None]:
    """Turn an exception of a stage from outside dashpot into a sentence; `shape` is that of the parameter."""
    try:
        yield
    except (DashpotError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        place = find_stage_frame(error)
        if place is None or not place.is_custom:
            raise
        raise ArgumentError(_sentence(error, place, shape)) from error


def _sentence(error: Exception, place: StageFrame, shape: Sequence[int]) -> str:
    start = f"{place.stage}: {place.method}"
    if isinstance(error, FrozenInstanceError):
        return f"{start} assigns to self ({place}), and a stage is frozen; keep in a slot what changes."
    what = str(error).strip().partition("\n")[0].rstrip(".:")
    start = f"{start} raised {type(error).__name__} ({place}) for a parameter of shape {tuple(shape)}"
    return f"{start}: {what}." if what else f"{start}."
