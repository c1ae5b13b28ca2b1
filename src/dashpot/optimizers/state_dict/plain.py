"""Plain data: what `torch.load(weights_only=True)` reads back."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["plain_data"]

_SCALARS = (int, float, complex, str, bytes)
_PLAIN = frozenset({bool, type(None), Tensor, *_SCALARS})


def plain_data(value: Any) -> Any:
    """`value` with numpy numbers, arrays and subclasses of Python's types replaced by Python's own types.

    Tensors and objects of other kinds stay as they are, and so does a container in which nothing had to be replaced.

    >>> import numpy as np
    >>> plain_data({"lr": np.float64(0.5), "betas": (np.float32(0.5), 0.75)})
    {'lr': 0.5, 'betas': (0.5, 0.75)}
    """
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return _of_numpy(value)
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
    return value if kind is None else _base(kind, value)


def _of_numpy(value: np.generic) -> Any:
    item = value.item()
    if isinstance(item, np.generic):  # Python has no extended precision
        return complex(item) if isinstance(item, np.complexfloating) else float(item)
    return item


def _base(kind: type, value: Any) -> Any:
    return str.__str__(value) if kind is str else kind(value)


def _same(new: Any, old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))
