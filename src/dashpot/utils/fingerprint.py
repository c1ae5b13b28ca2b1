"""Hash of nested data, to compare batches across processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot._torch_private import write_count
from dashpot.utils.named_tensors import named_leaves
from dashpot.utils.nested import tensors

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(value: Any) -> str:
    """Return a hash of the tensors, arrays, numbers and strings in nested data; of other objects, only of the type.

    >>> batch = {"x": torch.ones(2), "y": ["cat", 3]}
    >>> fingerprint(batch) == fingerprint({"x": torch.ones(2), "y": ["cat", 3]})
    True
    >>> fingerprint(batch) == fingerprint({"x": torch.zeros(2), "y": ["cat", 3]})
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in named_leaves(value, ""):
        digest.update(repr(path).encode())
        for part in _parts(leaf):
            digest.update(part)
    return digest.hexdigest()


def write_counts(value: Any) -> list[int] | None:
    """Return the write counts of the tensors in nested lists, tuples and mappings, to detect data changed in place.

    The result is None if torch does not count the writes, as in inference mode.
    """
    try:
        return [write_count(tensor) for tensor in tensors(value)]
    except RuntimeError:
        return None


def _parts(leaf: Any) -> Iterable[Any]:
    if isinstance(leaf, Tensor):
        dense = leaf.detach().to("cpu") if leaf.layout == torch.strided and not leaf.is_quantized else None
        yield f"{leaf.dtype} {tuple(leaf.shape)}".encode()
        if dense is not None and dense.numel():
            flat = dense.resolve_conj().resolve_neg().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data
    elif isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject:
        yield f"{leaf.dtype} {leaf.shape}".encode()
        yield np.ascontiguousarray(leaf).tobytes()
    else:
        yield repr(leaf).encode() if isinstance(leaf, _PLAIN) else type(leaf).__qualname__.encode()
