"""One checkpoint file: written whole or not at all, read without running anything in it."""

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

__all__ = ["FORMAT", "DamagedError", "read", "write"]

FORMAT = 1
"""The format that this version writes, and the highest that it reads."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class DamagedError(RunError):
    """A checkpoint is not as it was written."""


def write(path: Path, state: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint, complete and on the disk before it has its name.

    The file is what `torch.save` makes of `{"format", "dashpot", "torch", "python", "written", **header, "state"}`, so
    `torch.load(path, weights_only=True)` reads it without dashpot.

    Args:
        path: the file; its folder is made where it is missing.
        state: plain data and tensors.
        header: more that is worth knowing about the run, such as its settings; plain data.

    Raises:
        RunError: the file cannot be written, or `state` holds something that reading would refuse.

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
        with _checksums():
            write_atomically(path, lambda stream: torch.save(content, stream))
    except OSError as error:
        raise write_error(path, error) from error
    except RuntimeError as error:  # torch's writer reports a disk that is full in its own way
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error.__context__
        if isinstance(reason, OSError):
            raise write_error(path, reason) from error
        raise RunError(
            f"Cannot write {path}: {str(error).splitlines()[0]}; what was finished before is kept."
        ) from error


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Every byte is checked, and nothing in the file is executed.

    Raises:
        DamagedError: the file is truncated or has changed.
        RunError: it is missing, cannot be read, is something else, holds code, or is from a newer dashpot.
    """
    try:
        _check_container(path)
        content = _load(path)
    except FileNotFoundError as error:
        raise RunError(f"There is no checkpoint {path}.") from error
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not isinstance(content, dict) or not {"format", "dashpot"} <= content.keys():
        raise RunError(f"{path} is a file of torch's, but no checkpoint of dashpot's.")
    if not isinstance(content["format"], int) or content["format"] > FORMAT:
        raise RunError(
            f"The checkpoint {path} is of format {content['format']}, which dashpot {content['dashpot']} wrote: that "
            f"version or a newer one reads it; this is dashpot {__version__}, which reads formats up to {FORMAT}."
        )
    if not isinstance(content.get("state"), dict):
        raise DamagedError(f"The checkpoint {path} is damaged: it holds no state.")
    return content["state"]


def _check_container(path: Path) -> None:
    """Refuse what is no checkpoint by its outside, and one whose bytes have changed."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if len(start) < 4:
        raise DamagedError(f"The checkpoint {path} is damaged: it ends after {len(start)} bytes.")
    if start[:1] == b"\x80":
        raise RunError(f"{path} is a bare pickle, which can hold code: it is refused, nothing in it was run.")
    if start != b"PK\x03\x04":
        raise RunError(f"{path} is no checkpoint of dashpot's.")
    try:
        with zipfile.ZipFile(path) as parts:
            names = parts.namelist()
            bad = parts.testzip()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"The checkpoint {path} is damaged: it was cut short or has changed.") from error
    if bad is not None:
        raise DamagedError(f"The checkpoint {path} is damaged: the checksum of its part {bad} does not match.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise RunError(f"{path} is a zip file, but no checkpoint of dashpot's.")


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses about what it is given before it refuses it
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged bytes make torch.load raise almost anything
        found = _code(path)
        if found:
            text = f"{path} holds code ({', '.join(found[:3])}) in place of plain data: it is refused, nothing was run."
            raise RunError(text) from error
        if isinstance(error, pickle.UnpicklingError):
            raise RunError(f"{path} holds something else than plain data and tensors, and is refused.") from error
        raise DamagedError(f"The checkpoint {path} is damaged: {str(error).splitlines()[0]}") from error


def _code(path: Path) -> list[str]:
    """The names in a file that stand for code, found without running any."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not even that can be read
        return []


@contextmanager
def _checksums() -> Iterator[None]:
    """Let torch write the checksums of its parts, whatever this process has set otherwise."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _plain(value: Any, where: str) -> Any:
    """`value` of the types that reading accepts, so that no file is written which nobody can read."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {_one(key, f"a key in {where}"): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if type(value) is not torch.Size and isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return {_one(item, where) for item in value} if isinstance(value, (set, frozenset)) else _one(value, where)


def _one(value: Any, where: str) -> Any:
    """A single thing: a number, a text, a dtype."""
    if type(value) in _PLAIN or type(value) is tuple:
        return value
    if isinstance(value, np.generic):
        return value.item()
    for kind in (int, float, str):  # of a class of its own, such as an enumeration
        if isinstance(value, kind):
            return kind(value)
    raise RunError(f"A checkpoint holds plain data and tensors, and {where} is of {type(value).__name__}.")
