"""Search for data files in the user's folder and other locations."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dashpot.data.published import PublishedDataset
from dashpot.errors import DataError

ENV_VARIABLE = "DASHPOT_DATA"
"""Environment variable with the path of the data folder."""


def user_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the user's data folder: `data_dir`, the environment variable `DASHPOT_DATA`, or None if neither is set.

    Raises:
        DataError: If the folder cannot be read.
    """
    path = data_dir if data_dir is not None else os.environ.get(ENV_VARIABLE) or None
    if path is None:
        return None
    folder = Path(path).expanduser()
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        origin = f"the environment variable {ENV_VARIABLE}" if data_dir is None else "data_dir (--data-dir)"
        reason = error.strerror or error
        raise DataError(f"The data folder {str(path)!r} given by {origin} cannot be read: {reason}.") from error
    return folder


def find(dataset: PublishedDataset, folder: Path, subfolders: Iterable[str] = ("",)) -> dict[str, Path]:
    """Return the files of `dataset` in the first subfolder of `folder` that contains any of them.

    The result maps the key of each file to its path. Files may be compressed (`name.gz`) or not (`name`). Files that
    are not found are omitted from the result.
    """
    for subfolder in subfolders:
        found: dict[str, Path] = {}
        for key, file in dataset.files.items():
            candidates = (folder / subfolder / f"{name}{end}" for name in file.names for end in (".gz", ""))
            path = next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113  False without permission
            if path is not None:
                found[key] = path
        if found:
            return found
    return {}
