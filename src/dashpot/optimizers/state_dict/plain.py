"""Conversion to plain data, which `torch.load(weights_only=True)` can read."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

_SCALARS = (int, float, complex, str, bytes)
_PLAIN = frozenset({bool, type(None), Tensor, *_SCALARS})


def plain_data(value: Any) -> Any:
    """Convert NumPy numbers, NumPy arrays and instances of subclasses of built-in types to built-in types.

    Tensors and other objects are unchanged. A container in which nothing is replaced is returned as is.

    Example:
        >>> import numpy as np
        >>> plain_data({"lr": np.float64(0.5), "betas": (np.float32(0.5), 0.75)})
        {'lr': 0.5, 'betas': (0.5, 0.75)}
    """
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return _numpy_item(value)
    if isinstance(value, np.ndarray):
        return plain_data(value.tolist())
    if isinstance(value, dict):
        items = {plain_data(key): plain_data(item) for key, item in value.items()}
        return value if type(value) is dict and _same(items.values(), value.values()) else items
    for kind in (tuple, list):
        if isinstance(value, kind):
            entries = [plain_data(item) for item in value]
            return value if type(value) is kind and _same(entries, value) else kind(entries)
    kind = next((kind for kind in _SCALARS if isinstance(value, kind)), None)
    return value if kind is None else _builtin(kind, value)


def _numpy_item(value: np.generic) -> Any:
    item = value.item()
    if isinstance(item, np.generic):  # Python has no numbers of extended precision
        return complex(item) if isinstance(item, np.complexfloating) else float(item)
    return item


def _builtin(kind: type, value: Any) -> Any:
    return str.__str__(value) if kind is str else kind(value)


def _same(new: Any, old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))
