"""Scan of the pickle of a torch file without executing it or allocating tensors."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import torch

_PLAIN_GLOBALS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("__builtin__", "set"),
    ("builtins", "set"),
    ("__builtin__", "complex"),
    ("builtins", "complex"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.storage", "UntypedStorage"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    *(
        ("torch._utils", f"_rebuild_{name}")
        for name in ("parameter", "parameter_with_state", "qtensor", "sparse_tensor", "tensor_v2", "tensor_v3")
    ),
}
"""Globals in the pickles of plain data and tensors, besides dtypes and storage classes of torch."""


class ScanError(ValueError):
    """Error raised for a damaged pickle; the message is a clause."""


class CodeError(ScanError):
    """Error raised for a pickle that refers to other globals than those of plain data and tensors."""


def check_pickle(content: bytes, sizes: Mapping[str, int]) -> None:
    """Check that a pickle contains only plain data and tensors, whose sizes are those of the parts of the file.

    Args:
        content: The pickle.
        sizes: Number of bytes of each part of the file, by name; the data of storage N are in the part `data/N`.

    Raises:
        CodeError: If the pickle refers to other globals; the message names them.
        ScanError: If the pickle is damaged, or a storage has no part of its size.
    """
    scan = _Scan(io.BytesIO(content), encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the dtype of a storage class is deprecated
            scan.load()
    except Exception as error:  # corrupt bytes can raise almost any exception
        if not scan.unknown:
            raise ScanError("its pickle is corrupt") from error
    if scan.unknown:
        raise CodeError(", ".join(sorted(scan.unknown)[:3]))
    for key, size in scan.storages.items():
        if sizes.get(f"data/{key}") != size:
            raise ScanError(f"the part data/{key} does not have the {size} bytes of its tensor")


class _Stub:
    """Replacement of every object that the pickle constructs; it ignores its contents."""

    def __call__(self, *_args: Any, **_options: Any) -> _Stub:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


# The Python implementation keeps its memo in a dict; a large index makes the C implementation allocate gigabytes.
class _Scan(pickle._Unpickler):
    """Unpickler that records storages and globals, and constructs only stubs and plain data."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.unknown: set[str] = set()
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        item = _item_size(module, name)
        if item is None and (module, name) not in _PLAIN_GLOBALS:
            self.unknown.add(f"{module}.{name}")
        return _Stub() if item is None else item

    def persistent_load(self, pid: Any) -> Any:
        kind, item, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or isinstance(count, bool) or not isinstance(count, int):
            raise ValueError("malformed storage")
        size = count * (1 if isinstance(item, _Stub) else item)  # a stub is an untyped storage
        if count < 0 or self.storages.setdefault(key, size) != size:
            raise ValueError("two sizes of a storage")
        return _Stub()


def _item_size(module: str, name: str) -> int | None:
    """Return the number of bytes per element of a dtype or a storage class of torch, or None for other globals."""
    if module != "torch":
        return None
    found = getattr(torch, name, None)
    if isinstance(found, type) and issubclass(found, torch.storage.TypedStorage):
        found = getattr(found, "dtype", None)
    return found.itemsize if isinstance(found, torch.dtype) else None
