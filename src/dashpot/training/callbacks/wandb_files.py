"""Entries in the files that Weights & Biases writes in offline mode."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashpot.errors import RunError

MAGIC, BLOCK, FRAME = 7, 32768, struct.Struct("<IHB")
"""Length of the file header, size of a block, and header of a fragment: checksum, length and kind."""
WHOLE, FIRST, LAST = 1, 2, 4
"""Kinds of fragments; other fragments are in the middle of a record."""
LIMIT = 10.0
"""Seconds to wait for the end of a file, which is missing if the service was killed."""


def stored_entries(folder: Path, run_id: str, own: Path | None = None) -> int:
    """Return the number of entries of a run in all offline files below `folder`, except in `own`.

    The files are logs in the format of LevelDB, whose records are protocol buffers. They are written by a service,
    which may still write when the process of the run has ended.

    Raises:
        RunError: If a file cannot be read.
    """
    count = 0
    for path in folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb"):
        if path == own:
            continue
        try:
            records = complete_records(path)
            steps = [record.history.step.num for record in records if record.WhichOneof("record_type") == "history"]
        except (OSError, ValueError, ImportError) as error:
            raise RunError(f"Cannot read the entries of the offline run in {path}: {error}.") from error
        count = max([count, *(step + 1 for step in steps)])
    return count


def complete_records(path: Path) -> list[Any]:
    """Return the records of a file once it is complete, or after `LIMIT` seconds.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a record is invalid.
        ImportError: If wandb is not installed.
    """
    limit = time.monotonic() + LIMIT
    while True:
        records = [_parse(record) for record in split_records(path.read_bytes())]
        ended = any(record.WhichOneof("record_type") == "exit" for record in records)
        if ended or time.monotonic() > limit:
            return records
        time.sleep(0.05)


def split_records(content: bytes) -> Iterator[bytes]:
    """Yield the complete records of a file. The last bytes of a block, if fewer than 7, are unused."""
    at, record = MAGIC, b""
    while at + FRAME.size <= len(content):
        left = BLOCK - at % BLOCK
        if left < FRAME.size:
            at += left
            continue
        _, length, kind = FRAME.unpack_from(content, at)
        at += FRAME.size
        if at + length > len(content):
            return
        record = content[at : at + length] if kind in (WHOLE, FIRST) else record + content[at : at + length]
        at += length
        if kind in (WHOLE, LAST):
            yield record


def _parse(content: bytes) -> Any:
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    record: Any = vars(wandb_internal_pb2)["Record"]()
    try:
        record.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"invalid record ({error})") from error
    return record
