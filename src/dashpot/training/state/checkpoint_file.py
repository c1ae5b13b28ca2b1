"""Checkpoint files: written atomically, read without executing code."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dashpot import __version__
from dashpot.errors import RunError
from dashpot.runs.files import write_error
from dashpot.training.state.pickle_scan import CodeError, ScanError, check_pickle
from dashpot.training.state.sealed_zip import SealingWriter, seal_state
from dashpot.training.state.zip_parts import ZipPartsError, check_parts, read_pickle, starts_like_torch
from dashpot.utils.atomic_files import write_atomically
from dashpot.utils.format import reason

FORMAT = 2
"""Format written by this version, and the highest format it reads. Format 1 has no checksum of the whole file."""
MAX_DEPTH = 64
"""Number of levels of nested containers in the content."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class DamagedError(RunError):
    """Error raised for a truncated or corrupt checkpoint."""


class ContentError(RunError):
    """Error raised for a state that contains other types than plain data and tensors."""


class ForeignError(RunError):
    """Error raised for a file that is not a dashpot checkpoint."""


def write(path: Path, state: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint atomically: the file gets its name once its content has been synced to disk.

    The content is `torch.save({"format", "dashpot", "torch", "python", "written", **header, "state"})`, followed by a
    checksum of the whole file; `torch.load(path, weights_only=True)` reads the file without dashpot.

    Args:
        path: Path of the file; a missing folder is created.
        state: State to save, as plain data and tensors.
        header: Metadata of the run, such as its settings, as plain data.

    Raises:
        ContentError: If `state` contains types that `read` does not accept.
        RunError: If the file cannot be written.

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
            write_atomically(path, lambda stream: _save(content, stream))
    except OSError as error:
        raise write_error(path, error) from error
    except RuntimeError as error:  # torch's writer wraps the OSError of a full disk
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise write_error(path, cause) from error
        raise RunError(f"Cannot write {path}: {reason(error)}; earlier checkpoints are unchanged.") from error


def read(path: Path) -> dict[str, Any]:
    """Read the state from a checkpoint, after verifying the checksum of the whole file, without executing code.

    Files of format 1 have only checksums of their parts; for them, every header of the container is verified.

    Raises:
        DamagedError: If the file is truncated or corrupt.
        ForeignError: If the file is not a dashpot checkpoint.
        RunError: If the file is missing or unreadable, contains code, or has a newer format.
    """
    try:
        with path.open("rb") as stream:
            sealed = _check_file(path, stream)
            content = _load(path, stream)
    except FileNotFoundError as error:
        raise RunError(f"Checkpoint {path} does not exist.") from error
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not isinstance(content, dict) or not {"format", "dashpot"} <= content.keys():
        raise ForeignError(f"{path} is a torch file, but not a dashpot checkpoint.")
    _check_tree(path, content)
    _check_format(path, content, sealed)
    if not isinstance(content.get("state"), dict):
        raise DamagedError(f"The checkpoint {path} is damaged: the state is missing.")
    return content["state"]


def _save(content: Any, stream: BinaryIO) -> None:
    writer = SealingWriter(stream)
    torch.save(content, writer)  # pyright: ignore[reportArgumentType]
    writer.seal()


def _check_file(path: Path, stream: BinaryIO) -> bool:
    """Check everything that can be checked without loading the content; return whether the file has a checksum."""
    start = stream.read(4)
    sealed = seal_state(stream)
    if sealed is False:
        raise DamagedError(f"The checkpoint {path} is damaged: the checksum of the file does not match.")
    if len(start) < 4:
        raise DamagedError(f"The checkpoint {path} is damaged: it ends after {len(start)} bytes.")
    if start[0] == 0x80 and start[1] <= 5:  # the opcode PROTO and a protocol
        raise RunError(f"{path} is a bare pickle, which can contain code; it was rejected and not executed.")
    torch_file = starts_like_torch(stream)
    try:
        sizes = check_parts(stream, checksums=not sealed)
        check_pickle(read_pickle(stream), sizes)
    except CodeError as error:
        raise RunError(f"{path} contains code ({error}); it was rejected and not executed.") from error
    except (ZipPartsError, ScanError) as error:
        if torch_file or sealed:
            raise DamagedError(f"The checkpoint {path} is damaged: {error}.") from error
        kind = "a zip file, but " if start == b"PK\x03\x04" else ""
        raise ForeignError(f"{path} is {kind}not a dashpot checkpoint.") from error
    return bool(sealed)


def _load(path: Path, stream: BinaryIO) -> Any:
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual files before it rejects them
            return torch.load(stream, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # corrupt content can raise almost any exception in torch.load
        raise DamagedError(f"The checkpoint {path} is damaged: {reason(error)}.") from error


def _check_tree(path: Path, content: Any) -> None:
    """Check that the content is a tree of plain data and tensors in CPU memory, without recursion."""
    seen: set[int] = set()
    level, depth = [content], 0
    while level:
        depth += 1
        below: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                _check_tensor(path, value)
            elif isinstance(value, (dict, list, tuple, set)) and value:
                if id(value) in seen or depth > MAX_DEPTH:
                    problem = "a container occurs twice" if id(value) in seen else f"nesting exceeds {MAX_DEPTH} levels"
                    raise DamagedError(f"The checkpoint {path} is damaged: {problem}.")
                seen.add(id(value))
                below += [*value.keys(), *value.values()] if isinstance(value, dict) else value
        level = below


def _check_tensor(path: Path, value: Tensor) -> None:
    """Check that the data of a tensor are in the file: an expanded tensor can have any size."""
    stored = value.layout is not torch.strided or value.nbytes <= value.untyped_storage().nbytes()
    if value.device.type != "cpu" or not stored:
        raise DamagedError(f"The checkpoint {path} is damaged: a tensor of shape {tuple(value.shape)} has no data.")


def _check_format(path: Path, content: dict[str, Any], sealed: bool) -> None:
    found = content["format"]
    if type(found) is not int or not 1 <= found < 2**31:
        got = found if type(found) is int and abs(found) < 2**31 else type(found).__name__
        raise DamagedError(f"The checkpoint {path} is damaged: format must be an integer in [1, 2**31), got {got}.")
    if found > FORMAT:
        raise RunError(
            f"The checkpoint {path} must have format {FORMAT} or lower for dashpot {__version__}, got format "
            f"{found}, written by dashpot {str(content['dashpot'])[:40]}; install that version or a newer one."
        )
    if found > 1 and not sealed:
        raise DamagedError(f"The checkpoint {path} is damaged: its checksum is missing.")


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
    raise ContentError(f"A checkpoint must contain only plain data and tensors, got {type(value).__name__} at {where}.")
