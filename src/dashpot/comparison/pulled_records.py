"""Completion of a folder with the records of other machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dashpot.comparison.study_folder import StudyFolder
from dashpot.runs.files import make_folder, write_text
from dashpot.scheduling.work_items import Outcome

TAIL = 65536
"""Number of bytes at the end of a record that contain its last line."""


def pull_records(folder: StudyFolder, outcomes: Mapping[str, Outcome]) -> int:
    """Write the compact records of all outcomes that the folder lacks, and return their number.

    The data of an outcome contain its compact record as "record". A record of this folder with the same last line is
    kept, since it contains every loss. Any other record of the item is replaced: it is unfinished, or of a worker that
    has lost the item to another.

    Raises:
        RunError: If a record cannot be written.
    """
    written = 0
    for key, outcome in outcomes.items():
        text, path = outcome.data.get("record"), folder.item_record(key)
        if not isinstance(text, str) or _last_line(path) == text.rstrip("\n").rsplit("\n", 1)[-1]:
            continue
        make_folder(path.parent)
        write_text(path, text)
        path.with_suffix(".ckpt").unlink(missing_ok=True)
        written += 1
    return written


def _last_line(path: Path) -> str | None:
    """Return the last complete line of a file; None if there is none."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL))
            content = stream.read()
    except OSError:
        return None
    lines = content.decode(errors="replace").rsplit("\n", 2)
    return lines[-2] if len(lines) > 1 and not lines[-1] else None
