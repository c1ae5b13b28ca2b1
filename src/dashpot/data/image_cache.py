"""Cache of decoded data sets, each stored in one file that is written atomically and verified on every read."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dashpot.data.images import Images
from dashpot.data.warn_once import warn_once
from dashpot.utils.atomic_files import keep_aside, write_atomically

_log = logging.getLogger(__name__)


def store(path: Path, images: Images) -> None:
    """Write `images` to `path` atomically. If the write fails (read-only folder, full disk), log a warning once."""
    try:
        write_atomically(path, lambda file: np.savez(file, **images._asdict()))
    except OSError as error:
        warn_once(f"The decoded data set is not cached in {path.parent} ({error.strerror or error}).")


def load(path: Path, is_published: Callable[[Images], bool]) -> Images | None:
    """Return the decoded data set stored at `path`, or None if the file is missing or damaged.

    A damaged file is renamed to `*.damaged`.

    Args:
        path: Path of the file.
        is_published: Function that verifies the images against the published checksums.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once(f"The decoded data set {path} cannot be read ({error.strerror or error}) and is decoded again.")
        return None
    reason = "a checksum differs"
    try:
        _check_uncompressed(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            images = Images(**{name: archive[name] for name in Images._fields})
        if is_published(images):
            return images
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    _rename_damaged(path, reason)
    return None


def _check_uncompressed(content: bytes) -> None:
    """Check that no part is compressed, because the content of such a part can be of any size."""
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        if any(part.file_size != part.compress_size for part in parts.infolist()):
            raise ValueError("a part is compressed")


def _rename_damaged(path: Path, reason: str) -> None:
    try:
        outcome = f"was renamed to {keep_aside(path).name}"
    except OSError as error:
        outcome = f"could not be renamed ({error.strerror or error})"
    _log.warning("The decoded data set %s is damaged (%s), %s, and is decoded again.", path, reason, outcome)
