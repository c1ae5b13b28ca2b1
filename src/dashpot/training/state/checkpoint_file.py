"""Checkpoint files: written atomically, read without executing code."""

from __future__ import annotations

import pickle
import platform
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot import __version__
from dashpot.errors import RunError
from dashpot.runs.files import write_error
from dashpot.utils.atomic_files import write_atomically

FORMAT = 1
"""Format written by this version, and the highest format it reads."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class DamagedError(RunError):
    """Error raised for a truncated or corrupt checkpoint."""


def write(path: Path, state: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint atomically: the file gets its name once its content has been synced to disk.

    The content is `torch.save({"format", "dashpot", "torch", "python", "written", **header, "state"})`;
    `torch.load(path, weights_only=True)` reads the file without dashpot.

    Args:
        path: Path of the file; a missing folder is created.
        state: State to save, as plain data and tensors.
        header: Metadata of the run, such as its settings, as plain data.

    Raises:
        RunError: If the file cannot be written, or `state` contains types that `read` does not accept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder, "run.ckpt"), {"steps": 7, "w": torch.ones(2)})
        ...     read(Path(folder, "run.ckpt"))
        {'steps': 7, 'w': tensor([1., 1.])}
    """
    content = {
        "format": FORMAT,
        "dashpot": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **_plain(header or {}, "header"),
        "state": _plain(state, "state"),
    }
    try:
        with _crc32_enabled():
            write_atomically(path, lambda stream: torch.save(content, stream))
    except OSError as error:
        raise write_error(path, error) from error
    except RuntimeError as error:  # torch's writer wraps the OSError of a full disk
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error.__context__
        if isinstance(reason, OSError):
            raise write_error(path, reason) from error
        raise RunError(
            f"Cannot write {path}: {str(error).splitlines()[0]}; earlier checkpoints are unchanged."
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Read the state from a checkpoint, verifying all checksums and executing no code.

    Raises:
        DamagedError: If the file is truncated or corrupt.
        RunError: If the file is missing or unreadable, is not a dashpot checkpoint, contains code, or has a newer
            format.
    """
    try:
        _check_container(path)
        content = _load(path)
    except FileNotFoundError as error:
        raise RunError(f"Checkpoint {path} does not exist.") from error
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not isinstance(content, dict) or not {"format", "dashpot"} <= content.keys():
        raise RunError(f"{path} is a torch file, but not a dashpot checkpoint.")
    if not isinstance(content["format"], int) or content["format"] > FORMAT:
        raise RunError(
            f"The checkpoint {path} must have format {FORMAT} or lower for dashpot {__version__}, got format "
            f"{content['format']}, written by dashpot {content['dashpot']}; install that version or a newer one."
        )
    if not isinstance(content.get("state"), dict):
        raise DamagedError(f"The checkpoint {path} is damaged: the state is missing.")
    return content["state"]


def _check_container(path: Path) -> None:
    """Check the container: a zip file with a pickle, and matching checksums."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if len(start) < 4:
        raise DamagedError(f"The checkpoint {path} is damaged: it ends after {len(start)} bytes.")
    if start[:1] == b"\x80":
        raise RunError(f"{path} is a bare pickle, which can contain code; it was rejected and not executed.")
    if start != b"PK\x03\x04":
        raise RunError(f"{path} is not a dashpot checkpoint.")
    try:
        with zipfile.ZipFile(path) as parts:
            names = parts.namelist()
            bad = parts.testzip()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"The checkpoint {path} is damaged: it is truncated or corrupt.") from error
    if bad is not None:
        raise DamagedError(f"The checkpoint {path} is damaged: the checksum of {bad} does not match.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise RunError(f"{path} is a zip file, but not a dashpot checkpoint.")


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual files before it rejects them
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # corrupt bytes can raise almost any exception in torch.load
        found = _unsafe_globals(path)
        if found:
            shown = ", ".join(found[:3])
            raise RunError(f"{path} contains code ({shown}); it was rejected and not executed.") from error
        if isinstance(error, pickle.UnpicklingError):
            raise RunError(f"{path} must contain only plain data and tensors.") from error
        raise DamagedError(f"The checkpoint {path} is damaged: {str(error).splitlines()[0]}") from error


def _unsafe_globals(path: Path) -> list[str]:
    """Return the globals that the pickle refers to, without executing it."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the file is unreadable
        return []


@contextmanager
def _crc32_enabled() -> Iterator[None]:
    """Enable the checksums of torch.save, regardless of the process-wide setting."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _plain(value: Any, where: str) -> Any:
    """Convert `value` to the types that `read` accepts."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {_scalar(key, f"a key of {where}"): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if type(value) is not torch.Size and isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return {_scalar(item, where) for item in value} if isinstance(value, (set, frozenset)) else _scalar(value, where)


def _scalar(value: Any, where: str) -> Any:
    """Convert a number, a string or a dtype."""
    if type(value) in _PLAIN or type(value) is tuple:
        return value
    if isinstance(value, np.generic):
        return value.item()
    for kind in (int, float, str):  # converts instances of subclasses, such as enumerations
        if isinstance(value, kind):
            return kind(value)
    raise RunError(f"A checkpoint must contain only plain data and tensors, got {type(value).__name__} at {where}.")
