"""Access to hyperparameters of a parameter group by common names.

torch stores the pole of the gradient filter as `momentum` (SGD, RMSprop) or as the first entry of `betas` (Adam and its
variants). In schedules, `pole` and `momentum` both refer to this hyperparameter in any group, and `betas[1]` refers to
the second entry of a pair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

from dashpot.errors import ArgumentError

_ENTRY = re.compile(r"(\w+)\[(\d)\]")


def locate(group: Mapping[str, Any], name: str) -> tuple[str, int | None]:
    """Return the key of the hyperparameter `name` in `group`, and its index if it is an entry of a pair (else None).

    >>> locate({"lr": 0.1, "betas": (0.9, 0.999)}, "pole"), locate({"momentum": 0.9}, "pole")
    (('betas', 0), ('momentum', None))
    """
    entry = _ENTRY.fullmatch(name)
    values = group.get(entry[1]) if entry else None
    if entry and isinstance(values, (tuple, list)) and int(entry[2]) < len(values):
        return entry[1], int(entry[2])
    if name in group:
        return name, None
    if name in ("pole", "momentum"):
        for key, index in (("momentum", None), ("betas", 0)):
            if key in group:
                return key, index
    known = ", ".join(_written(group, key) for key in group if key not in ("params", "param_names"))
    raise ArgumentError(f"The parameter group has no hyperparameter {name!r}; it has {known}.")


def _written(group: Mapping[str, Any], key: str) -> str:
    """Return the names under which a schedule may refer to a group key; for a pair, these name the two entries."""
    return f"{key}[0], {key}[1]" if is_pair(group[key]) else key


def is_pair(value: Any) -> bool:
    """Return True for a pair, such as betas."""
    return isinstance(value, (tuple, list)) and len(value) == 2


def read(group: Mapping[str, Any], name: str) -> Any:
    """Return the value of `name` in `group`.

    >>> read({"betas": (0.9, 0.999)}, "betas[1]")
    0.999
    """
    key, index = locate(group, name)
    return group[key] if index is None else group[key][index]


def write(group: MutableMapping[str, Any], name: str, value: Any) -> None:
    """Set `name` in `group`; pairs are replaced by a new tuple, not modified in place.

    >>> group = {"betas": (0.9, 0.999)}
    >>> write(group, "momentum", 0.85)
    >>> group
    {'betas': (0.85, 0.999)}
    """
    key, index = locate(group, name)
    if index is None:
        group[key] = value
    else:
        pair = list(group[key])
        pair[index] = value
        group[key] = tuple(pair)
