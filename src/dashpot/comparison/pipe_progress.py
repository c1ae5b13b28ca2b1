"""Progress of a worker process as JSON Lines on a pipe to its parent process."""

from __future__ import annotations

import json
import time
from typing import Any, BinaryIO

from dashpot.comparison.progress import StudyProgress

EVENTS = frozenset({"start", "step", "interval", "finish", "drop", "total", "note"})
"""Events that call the method of `StudyProgress` with the same name."""
WITHOUT_WORKER = frozenset({"total", "note"})
STEP_INTERVAL = 0.2
"""Seconds between two reports of the current step."""


class PipeProgress(StudyProgress):
    """Progress report that writes each event as a line of JSON; a closed pipe is ignored."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._next_step = 0.0

    def send(self, event: str, **values: Any) -> None:
        """Write an event."""
        try:
            self._stream.write(json.dumps({"event": event, **values}).encode() + b"\n")
            self._stream.flush()
        except (OSError, ValueError):  # the parent has died; its pipe of requests is closed too, which stops the worker
            pass

    def begin(self, items: int, steps: int) -> None:
        super().begin(items, steps)
        self.send("ready")

    def start(self, key: str, steps_done: int = 0, worker: int = 0) -> None:
        self.send("start", key=key, steps_done=steps_done)

    def step(self, steps_done: int, worker: int = 0) -> None:
        now = time.monotonic()
        if now >= self._next_step:
            self._next_step = now + STEP_INTERVAL
            self.send("step", steps_done=steps_done)

    def interval(self, text: str, worker: int = 0) -> None:
        self.send("interval", text=text)

    def finish(self, key: str, text: str, worker: int = 0) -> None:
        self.send("finish", key=key, text=text)

    def drop(self, worker: int = 0) -> None:
        self.send("drop")

    def total(self, finished: int) -> None:
        self.send("total", finished=finished)

    def note(self, text: str) -> None:
        self.send("note", text=text)


def forward(line: bytes, progress: StudyProgress, worker: int) -> dict[str, Any]:
    """Apply an event of a worker to a progress report, and return the event; empty if the line is not an event."""
    try:
        event = json.loads(line)
        name = event["event"]
    except (ValueError, TypeError, KeyError):
        return {}
    if name in EVENTS:
        values = {key: value for key, value in event.items() if key != "event"}
        getattr(progress, name)(**values, **({} if name in WITHOUT_WORKER else {"worker": worker}))
    return event
