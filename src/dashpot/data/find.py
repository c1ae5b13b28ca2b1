"""Where data sets are looked for: the user's folder, the cache, the system."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dashpot.data.idx_dataset import IdxDataset
from dashpot.errors import DataError

__all__ = ["ENV_VARIABLE", "find", "user_folder"]

ENV_VARIABLE = "DASHPOT_DATA"
"""The environment variable that names a data folder."""


def user_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder the user named: `data_dir`, else the environment variable `DASHPOT_DATA`, else None.

    Raises:
        DataError: it is not a folder that can be read.
    """
    named = data_dir if data_dir is not None else os.environ.get(ENV_VARIABLE) or None
    if named is None:
        return None
    folder = Path(named).expanduser()
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        origin = f"the environment variable {ENV_VARIABLE}" if data_dir is None else "data_dir (--data-dir)"
        reason = error.strerror or error
        raise DataError(f"The data folder {str(named)!r} given by {origin} cannot be read: {reason}.") from error
    return folder


def find(dataset: IdxDataset, folder: Path, inside: Iterable[str] = ("",)) -> dict[str, Path]:
    """The files of `dataset` in the first of the places `inside` `folder` that has any; empty where none has.

    Each file counts as `name.gz` or, unpacked, as `name`. The answer may lack some of the files.
    """
    for place in inside:
        found: dict[str, Path] = {}
        for key, file in dataset.files.items():
            candidates = (folder / place / f"{file.name}.gz", folder / place / file.name)
            path = next((path for path in candidates if _is_file(path)), None)
            if path is not None:
                found[key] = path
        if found:
            return found
    return {}


def _is_file(path: Path) -> bool:
    """Whether `path` is a file, as far as this user may know."""
    try:
        return path.is_file()
    except OSError:
        return False
