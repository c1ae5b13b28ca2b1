"""Comparison of the files of a killed run with those of an uninterrupted one, for kills.py."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dashpot.training.callbacks.checkpoints import best, latest
from dashpot.training.state import checkpoint_file

TIMES = {"seconds", "wall_s", "cpu_s", "time", "spent", "measured", "started"}
"""Keys of values that depend on the time."""
PLACES = {"path", "bytes", "sha256", "file", "command"}
"""Keys of values that depend on the folder, on the number of checkpoints, or on the lengths of the times above."""


def differences(folder: Path, whole: Path) -> list[str]:
    """Return the differences between a killed run or comparison and an uninterrupted one."""
    found = []
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole)
        read = {".jsonl": records, ".csv": rows}.get(path.suffix)
        if read is not None and read(folder / name) != read(path):
            found.append(f"{name} differs")
        elif path.is_file() and path.suffix != ".ckpt" and not (folder / name).is_file():
            found.append(f"{name} is missing")
    if (whole / "checkpoints").exists():
        if fingerprint(folder) != fingerprint(whole):
            found.append("its last checkpoint differs")
        if best_epoch(folder) != best_epoch(whole):
            found.append("its best checkpoint differs")
    elif left := list(folder.rglob("*.ckpt")):
        found.append(f"{left[0].name} was left")
    found += [f"{path.name} was left" for path in folder.rglob("*.part")]
    found += [f"{path.name} was left" for path in folder.rglob("*.damaged*")]
    for path in folder.rglob("*.ckpt"):
        checkpoint_file.read(path)
    return [f"{folder.name}: {fault}" for fault in found]


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the last checkpoint without times and places."""
    newest = latest(folder / "checkpoints")
    assert newest is not None
    digest = hashlib.sha256()
    _feed(digest, checkpoint_file.read(newest))
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else repr(value).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            if key not in TIMES | PLACES:
                digest.update(str(key).encode())
                _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def best_epoch(folder: Path) -> Any:
    """Return the best epoch, its value, and its weights."""
    path = best(folder / "checkpoints")
    if path is None:
        return None
    digest = hashlib.sha256()
    _feed(digest, checkpoint_file.read(path)["model"])
    return _plain(json.loads((path.parent / "best.json").read_text())), digest.hexdigest()


def records(path: Path) -> list[Any] | None:
    """Return the lines of a record or log without times and places, and without lines about resumes."""
    if not path.exists():
        return None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [_plain(line) for line in lines if line.get("kind") != "resumed"]


def rows(path: Path) -> list[Any] | None:
    """Return the rows of a CSV file without the columns of times."""
    if not path.exists():
        return None
    with path.open(newline="") as stream:
        return [_plain(row) for row in csv.DictReader(stream)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in TIMES | PLACES}
    return value
