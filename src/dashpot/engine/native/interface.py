"""torch's stable C interface, through which kernel libraries read tensor metadata without torch's headers.

Models compiled ahead of time use the same functions (torch/csrc/inductor/aoti_torch/c/shim.h). The argument of each
function is the `at::Tensor` inside a Python tensor. The offset of the `at::Tensor` in the Python object is found by
searching for the address of the `TensorImpl`, and is verified on several tensors. The offset of the dispatch keys in
the `TensorImpl` is found and verified in the same way.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dashpot._torch_private import dispatch_keys, impl_address, neg_view
from dashpot.engine.native.compiler import BuildError

_FUNCTIONS = ("data_ptr", "dtype", "dim", "sizes", "strides")
_WORDS = 22  # number of words to search in a `TensorImpl`; its size is larger than this
_CODES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.complex32: "complex32",
    torch.complex64: "complex64",
    torch.complex128: "complex128",
}


@cache
def functions() -> ctypes.Array[ctypes.c_int64]:
    """Return the contents of the struct `Torch` of `tables.h`.

    Raises:
        BuildError: If torch's C interface is missing or has changed.
    """
    library, version = _library(), torch.__version__
    try:
        found = [ctypes.cast(getattr(library, f"aoti_torch_get_{name}"), ctypes.c_void_p).value for name in _FUNCTIONS]
    except AttributeError as error:
        raise BuildError(f"torch {version} lacks a function of the C interface ({error}).") from error
    samples = (
        torch.zeros(2, 3, device="cpu").t(),
        torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16, device="cpu")),
        torch.zeros((), device="cpu", requires_grad=True),
    )
    offsets = {_offsets(x) for x in samples}
    if len(offsets) != 1 or -1 in next(iter(offsets)) or not all(_agrees(library, x) for x in samples):
        raise BuildError(f"The C interface of torch {version} is not supported by this version of dashpot.")
    fields = [*offsets.pop(), lazy_keys(), *found]
    return (ctypes.c_int64 * len(fields))(*fields)


@cache
def lazy_keys() -> int:
    """Return the dispatch keys of lazily conjugated and negated views."""
    z = torch.zeros(1, dtype=torch.complex64, device="cpu")
    plain = dispatch_keys(z)
    return (dispatch_keys(z.conj()) ^ plain) | (dispatch_keys(neg_view(z)) ^ plain)


@cache
def dtype_code(dtype: torch.dtype) -> int:
    """Return the code that the C interface uses for a floating-point or complex dtype."""
    return int(getattr(_library(), f"aoti_torch_dtype_{_CODES[dtype]}")())


@cache
def _library() -> ctypes.CDLL:
    """Return the torch library that exports the functions. The process has already loaded this library."""
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
    except OSError as error:
        raise BuildError(f"torch's library cannot be loaded ({error}).") from error


def _offsets(x: torch.Tensor) -> tuple[int, int, int]:
    """Return three offsets: type and `TensorImpl` pointer in a Python tensor, and dispatch keys in the `TensorImpl`."""
    size = object.__sizeof__(x) // 8
    return (
        _offset(id(x), size, id(type(x))),
        _offset(id(x), size, impl_address(x)),
        _offset(impl_address(x), _WORDS, dispatch_keys(x)),
    )


def _offset(address: int, size: int, word: int) -> int:
    """Return the byte offset of the first word equal to `word` among `size` words at an address, or -1."""
    words: Any = (ctypes.c_uint64 * size).from_address(address)
    return next((8 * i for i in range(size) if words[i] == word), -1)


def _agrees(library: ctypes.CDLL, x: torch.Tensor) -> bool:
    """Check that the C functions and Python report the same metadata for `x`."""
    handle = ctypes.byref(ctypes.c_void_p(impl_address(x)))
    address, code, dim = ctypes.c_void_p(), ctypes.c_int32(-1), ctypes.c_int64(-1)
    failed = [
        library.aoti_torch_get_data_ptr(handle, ctypes.byref(address)),
        library.aoti_torch_get_dtype(handle, ctypes.byref(code)),
        library.aoti_torch_get_dim(handle, ctypes.byref(dim)),
    ]
    return not any(failed) and (address.value, code.value, dim.value) == (x.data_ptr(), dtype_code(x.dtype), x.dim())
