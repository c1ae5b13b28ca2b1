"""Sessions of a study: the times of the workers of each command, in `sessions.jsonl`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from dashpot.comparison.worker_times import WorkerTimes
from dashpot.runs.files import append_line
from dashpot.utils.strict_json import decode, encode

FILE = "sessions.jsonl"


def write_session(folder: Path, times: WorkerTimes, jobs: int, wall_s: float) -> None:
    """Append the times of a session to `sessions.jsonl`.

    Args:
        folder: Folder of the study.
        times: Sum of the times of all workers of the session.
        jobs: Number of workers.
        wall_s: Wall-clock seconds of the session.

    Raises:
        RunError: If the file cannot be written.
    """
    ended = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    append_line(folder / FILE, encode({"ended": ended, "jobs": jobs, "wall_s": round(wall_s, 3), **times.plain()}))


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Return the sessions of a study; incomplete lines are skipped, and a missing file gives an empty list."""
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except OSError:
        return []
    sessions = []
    for line in lines:
        try:
            sessions.append(decode(line))
        except ValueError:
            continue
    return [session for session in sessions if isinstance(session, dict)]
