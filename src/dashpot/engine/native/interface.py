"""torch's stable C interface, by which a kernel library looks at tensors without torch's headers.

The functions are those that ahead-of-time compiled models call (torch/csrc/inductor/aoti_torch/c/shim.h). They take an
`at::Tensor*`, which every Python tensor holds: the place in the object is found by the number that Python shows as
`_cdata`, and compared on several tensors before anything relies on it.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["InterfaceError", "dtype_code", "functions"]

_FUNCTIONS = ("data_ptr", "dtype", "device_type", "layout", "dim", "sizes", "strides")
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
    places = {(_place(x, id(type(x))), _place(x, x._cdata)) for x in samples}
    if len(places) != 1 or not all(_agrees(library, x) for x in samples):
        raise InterfaceError(f"The C interface of torch {version} is not one that this version of dashpot knows.")
    fields = [*places.pop(), *found]
    return (ctypes.c_int64 * len(fields))(*fields)


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


def _place(x: torch.Tensor, word: int) -> int:
    """How many bytes from the start of a Python object a word is first found; -1 for none."""
    size = object.__sizeof__(x) // 8
    words: Any = (ctypes.c_uint64 * size).from_address(id(x))
    return next((8 * i for i in range(size) if words[i] == word), -1)


def _agrees(library: ctypes.CDLL, x: torch.Tensor) -> bool:
    """True where the functions say of a tensor what Python says."""
    handle = ctypes.byref(ctypes.c_void_p(x._cdata))
    address, code, dim = ctypes.c_void_p(), ctypes.c_int32(-1), ctypes.c_int64(-1)
    failed = [
        library.aoti_torch_get_data_ptr(handle, ctypes.byref(address)),
        library.aoti_torch_get_dtype(handle, ctypes.byref(code)),
        library.aoti_torch_get_dim(handle, ctypes.byref(dim)),
    ]
    return not any(failed) and (address.value, code.value, dim.value) == (x.data_ptr(), dtype_code(x.dtype), x.dim())
