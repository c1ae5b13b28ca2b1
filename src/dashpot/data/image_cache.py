"""The decoded copy of a data set in the cache: one file, written whole, checked whenever it is read."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np

from dashpot.data import idx
from dashpot.data.idx_dataset import IdxDataset
from dashpot.data.images import Images
from dashpot.data.warn_once import warn_once
from dashpot.utils.atomic_files import keep_aside, sha256, write_atomically

__all__ = ["load", "store"]

_log = logging.getLogger(__name__)


def store(path: Path, images: Images) -> None:
    """Write `images` to `path`; where that fails (read-only folder, full disk) say so once and leave nothing behind."""
    try:
        write_atomically(path, lambda file: np.savez(file, **images._asdict()))
    except OSError as error:
        warn_once(f"The decoded data set is not kept in {path.parent} ({error.strerror or error}); this run goes on.")


def load(path: Path, dataset: IdxDataset) -> Images | None:
    """The decoded data set at `path`, or None where there is none or it is damaged.

    Every array is checked against the published checksum. A damaged file is renamed to `*.damaged`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once(f"The decoded data set {path} cannot be read ({error.strerror or error}) and is decoded anew.")
        return None
    reason = "a checksum differs"
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            images = Images(**{name: archive[name] for name in Images._fields})
        if all(sha256(idx.encode(getattr(images, key))) == file.sha256 for key, file in dataset.files.items()):
            return images
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    _discard(path, fault)
    return None


def _discard(path: Path, fault: str) -> None:
    try:
        outcome = f"was kept aside as {keep_aside(path).name}"
    except OSError as error:
        outcome = f"could not be kept aside ({error.strerror or error})"
    _log.warning("The decoded data set %s is damaged (%s), %s and is decoded anew.", path, fault, outcome)
