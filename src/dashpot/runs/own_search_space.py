"""Search spaces that optimizers define themselves, as `SEARCH_SPACE = {"lr": (1e-4, 0.1, "log"), ...}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dashpot.constraints import shown, unknown
from dashpot.errors import ArgumentError
from dashpot.runs.entry import Entry
from dashpot.runs.makers import RESERVED, default_of, parameters
from dashpot.scheduling.dimension import Dimension
from dashpot.utils.scalars import is_number

TABLE = "SEARCH_SPACE"
"""Name of the attribute of a class, factory or file that contains the search space."""
WARMUP = "warmup"
_NAME = re.compile(r"(?P<argument>[A-Za-z_]\w*)(\[(?P<index>\d)\])?")


def own_space(entry: Entry, table: Any) -> dict[str, Dimension]:
    """Return the search space that an optimizer defines.

    Args:
        entry: Entry of the optimizer.
        table: Mapping from names of numeric arguments to (low, high) or (low, high, "log"). "betas[1]" is an element of
            a tuple, and "warmup" the share of the steps with linear warm-up.

    Raises:
        ArgumentError: If an argument is unknown, is not a number or is an integer, a range is invalid, or the value
            without tuning is zero in a logarithmic range.

    >>> import torch
    >>> own_space(Entry("adam", torch.optim.Adam, 0.01), {"lr": (1e-4, 0.1, "log"), "betas[1]": (0.9, 0.999)})
    {'lr': Dimension(low=0.0001, high=0.1, log=True), 'betas[1]': Dimension(low=0.9, high=0.999, log=False)}
    """
    owner = f"{TABLE} of {entry.origin or entry.name}"
    if not isinstance(table, Mapping) or not table:
        raise ArgumentError(f"{owner} must be a mapping of arguments to ranges, got {shown(table)}.")
    space = {name: _dimension(owner, name, item) for name, item in table.items()}
    for name, dimension in space.items():
        _check_argument(owner, entry, name)
        if dimension.log and value_of(entry, name) <= 0:
            raise ArgumentError(
                f"{owner}: {name} is {value_of(entry, name):g} without tuning, which a logarithmic range cannot "
                "contain; give a positive value or a linear range."
            )
    return space


def value_of(entry: Entry, name: str) -> float:
    """Return the value of an entry in a dimension of its own search space."""
    if name in ("lr", WARMUP):
        return float(entry.lr) if name == "lr" else 0.0
    argument, index = _split(name)
    value = entry.options.get(argument, default_of(entry.make, argument))
    return float(value if index is None else value[index])


def with_value(options: Mapping[str, Any], entry: Entry, name: str, value: float) -> dict[str, Any]:
    """Return options in which the argument of a dimension has a value."""
    argument, index = _split(name)
    if index is None:
        return {**options, argument: value}
    elements = list(options.get(argument, default_of(entry.make, argument)))
    elements[index] = value
    return {**options, argument: tuple(elements)}


def _split(name: str) -> tuple[str, int | None]:
    found = _NAME.fullmatch(name)
    assert found is not None
    return found["argument"], None if found["index"] is None else int(found["index"])


def _dimension(owner: str, name: Any, item: Any) -> Dimension:
    """Return the range of an argument."""
    good = isinstance(item, (tuple, list)) and len(item) in (2, 3) and all(map(is_number, item[:2]))
    if not good or (len(item) == 3 and item[2] not in ("log", "linear")):
        raise ArgumentError(
            f'{owner}: {name} must be (low, high), (low, high, "log") or (low, high, "linear"), got {shown(item)}.'
        )
    try:
        return Dimension(float(item[0]), float(item[1]), log=len(item) == 3 and item[2] == "log")
    except ArgumentError as error:
        raise ArgumentError(f"{owner}: {name}: {str(error).removeprefix('Dimension: ')}") from error


def _check_argument(owner: str, entry: Entry, name: Any) -> None:
    """Check that a name is that of a numeric argument with a value."""
    if name in ("lr", WARMUP):
        return
    known = {item for item in parameters(entry.make) if item not in RESERVED} | {"lr", WARMUP} | set(entry.options)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _split(name)[0] not in known:
        raise unknown(f"argument in {owner}:", name, known)
    argument, index = _split(name)
    item = parameters(entry.make).get(argument)
    if item is not None and item.annotation in (int, "int"):
        raise ArgumentError(f"{owner}: {name} is an integer argument; a search varies real numbers only.")
    value = entry.options.get(argument, default_of(entry.make, argument))
    if index is not None:
        value = value[index] if isinstance(value, (tuple, list)) and index < len(value) else None
    if isinstance(value, bool) or not is_number(value):
        raise ArgumentError(f"{owner}: {name} must be a number without tuning, got {shown(value)}.")
