"""Where in a stage's own code an error arose."""

from __future__ import annotations

import traceback
from pathlib import PurePath
from typing import NamedTuple

from dashpot.stages.base import Stage

__all__ = ["Place", "place_of"]


class Place(NamedTuple):
    """A line of a stage's method."""

    stage: str
    method: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


def place_of(error: BaseException) -> Place | None:
    """The innermost line of a stage's method, or of a function beside it in its file, in the traceback of `error`.

    None where no stage took part.
    """
    found, path = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Stage):
            path = frame.f_code.co_filename
            found = Place(type(owner).__name__, frame.f_code.co_name, PurePath(path).name, line)
        elif found and frame.f_code.co_filename == path:
            found = found._replace(line=line)
    return found
