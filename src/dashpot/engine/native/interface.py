"""torch's stable C interface, by which a kernel library looks at tensors without torch's headers.

The functions are those that ahead-of-time compiled models call (torch/csrc/inductor/aoti_torch/c/shim.h). They take an
`at::Tensor*`, which every Python tensor holds: the place in the object is found by the number that Python shows as
`_cdata`, and compared on several tensors before anything relies on it. The place of the dispatch keys in what it points
to is found likewise.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dashpot._torch_private import dispatch_keys, impl_address, neg_view

__all__ = ["InterfaceError", "dtype_code", "functions", "lazy_keys"]

_FUNCTIONS = ("data_ptr", "dtype", "dim", "sizes", "strides")
_WORDS = 22  # of a `TensorImpl`, fewer than it has
_CODES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.complex32: "complex32",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}


class InterfaceError(Exception):
    """torch's C interface is missing or not what it was."""


@cache
def functions() -> ctypes.Array[ctypes.c_int64]:
    """The struct `Torch` of tables.h. Raises `InterfaceError`."""
    library, version = _library(), torch.__version__
    try:
        found = [ctypes.cast(getattr(library, f"aoti_torch_get_{name}"), ctypes.c_void_p).value for name in _FUNCTIONS]
    except AttributeError as error:
        raise InterfaceError(f"torch {version} lacks a function of its C interface ({error}).") from error
    samples = (
        torch.zeros(2, 3, device="cpu").t(),
        torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16, device="cpu")),
        torch.zeros((), device="cpu", requires_grad=True),
    )
    places = {_places(x) for x in samples}
    if len(places) != 1 or -1 in next(iter(places)) or not all(_agrees(library, x) for x in samples):
        raise InterfaceError(f"The C interface of torch {version} is not one that this version of dashpot knows.")
    fields = [*places.pop(), lazy_keys(), *found]
    return (ctypes.c_int64 * len(fields))(*fields)


@cache
def lazy_keys() -> int:
    """The keys of views that conjugate or negate what they read."""
    z = torch.zeros(1, dtype=torch.complex64, device="cpu")
    plain = dispatch_keys(z)
    return (dispatch_keys(z.conj()) ^ plain) | (dispatch_keys(neg_view(z)) ^ plain)


@cache
def dtype_code(dtype: torch.dtype) -> int:
    """The number of a floating or complex dtype in the C interface."""
    return int(getattr(_library(), f"aoti_torch_dtype_{_CODES[dtype]}")())


@cache
def _library() -> ctypes.CDLL:
    """The library of torch's that has the functions; torch has loaded it already."""
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
    except OSError as error:
        raise InterfaceError(f"torch's library cannot be loaded ({error}).") from error


def _places(x: torch.Tensor) -> tuple[int, int, int]:
    """Where a tensor's object has its type and its implementation, and where that has its dispatch keys."""
    size = object.__sizeof__(x) // 8
    return (
        _place(id(x), size, id(type(x))),
        _place(id(x), size, impl_address(x)),
        _place(impl_address(x), _WORDS, dispatch_keys(x)),
    )


def _place(address: int, size: int, word: int) -> int:
    """How many bytes from an address a word is first found among `size` words; -1 for none."""
    words: Any = (ctypes.c_uint64 * size).from_address(address)
    return next((8 * i for i in range(size) if words[i] == word), -1)


def _agrees(library: ctypes.CDLL, x: torch.Tensor) -> bool:
    """True where the functions say of a tensor what Python says."""
    handle = ctypes.byref(ctypes.c_void_p(impl_address(x)))
    address, code, dim = ctypes.c_void_p(), ctypes.c_int32(-1), ctypes.c_int64(-1)
    failed = [
        library.aoti_torch_get_data_ptr(handle, ctypes.byref(address)),
        library.aoti_torch_get_dtype(handle, ctypes.byref(code)),
        library.aoti_torch_get_dim(handle, ctypes.byref(dim)),
    ]
    return not any(failed) and (address.value, code.value, dim.value) == (x.data_ptr(), dtype_code(x.dtype), x.dim())
