"""Objects whose state can be saved and loaded."""

from __future__ import annotations

from typing import Any


def is_stateful(value: Any) -> bool:
    """Return whether an object has the methods `state_dict` and `load_state_dict`.

    >>> import torch
    >>> is_stateful(torch.nn.Linear(1, 1)), is_stateful({"state_dict": 1})
    (True, False)
    """
    return all(callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict"))
