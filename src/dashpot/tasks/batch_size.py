"""Number of examples of a batch, from a function of the user or from the shapes in the batch."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from numbers import Number
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from dashpot.errors import ArgumentError

SizeFunction = Callable[[Any, Any], int]
_SHOWN = 4
"""Maximum number of columns of a batch in a message."""


def batch_size(
    x: Any, y: Any, size: SizeFunction | None = None, known: int | None = None, owner: str = "Learner: train"
) -> int:
    """Return the number of examples of a batch.

    The number is `size(x, y)` if `size` is given, else `known` if the source defines it, else the number on which x and
    y agree.

    Args:
        x: Model input.
        y: Target.
        size: Function from (x, y) to the number of examples, or None.
        known: Number of examples according to the source of the batch, or None.
        owner: Start of error messages, such as "Learner: train".

    Raises:
        ArgumentError: If `size` does not return an integer >= 0; or, without `size`, if x and y do not agree on exactly
            one number, or agree on a smaller number than `known`.

    >>> import torch
    >>> batch_size(torch.zeros(4, 2), {"label": torch.zeros(4), "boxes": torch.zeros(4, 3, 4)})
    4
    >>> batch_size([torch.zeros(5), torch.zeros(7)], [{"boxes": torch.zeros(1, 4)}, {"boxes": torch.zeros(3, 4)}])
    2
    >>> batch_size(torch.zeros(12, 4), torch.zeros(3), size=lambda x, y: len(y))
    3
    """
    if size is not None:
        return _checked(size(x, y), owner)
    if known is not None and isinstance(x, Tensor) and not x.is_nested and x.shape[:1] == (known,):
        return known
    found = _agreed_counts(x, y)
    if known is not None:
        if isinstance(x, (Tensor, Mapping)) and found and len(found) == 1 and max(found) < known:
            raise ArgumentError(
                f"{owner} must yield batches with all of their {known} examples, got {max(found)} rows, x: "
                f"{describe(x)}, y: {describe(y)}; if the collate function omits examples, pass size=, a function from "
                "(x, y) to the number of examples."
            )
        return known
    if found is not None and len(found) == 1:
        return next(iter(found))
    expected = "batches with countable examples" if found is None else "x and y that agree on the number of examples"
    raise ArgumentError(
        f"{owner} must yield {expected}, got x: {describe(x)}, y: {describe(y)}; pass "
        "size=, a function from (x, y) to the number of examples."
    )


def as_examples(x: Any, y: Any, known: int) -> Any:
    """Return `x` as a list if it is a tuple of examples, as made by `tuple(zip(*examples))`, and not of columns.

    The last batch of a loader may have a single example, whose tuple would otherwise be one argument of the model.

    Args:
        x: Model input.
        y: Target.
        known: Number of examples according to the source.

    >>> import torch
    >>> type(as_examples((torch.zeros(3, 8, 8),), ({},), known=1)), type(as_examples((torch.zeros(1, 8),), 0, known=1))
    (<class 'list'>, <class 'tuple'>)
    """
    if type(x) is not tuple or len(x) != known:
        return x
    counts = columns_counts(x)
    examples = (counts is not None and known not in counts) or (known == 1 and type(y) is tuple and len(y) == 1)
    return list(x) if examples else x


def _agreed_counts(x: Any, y: Any) -> set[int] | None:
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim and not x.is_nested and x.shape[:1] == y.shape[:1]:
        return {x.shape[0]}  # the same result, faster
    return columns_counts((x, y))


def row_counts(value: Any) -> set[int] | None:
    """Return the possible numbers of examples of `value`; None if `value` has no number, such as a scalar.

    Arrays have their first dimension, lists their length and, if they contain arrays with a common first dimension,
    also this dimension. Tuples, mappings and dataclasses are columns: their items must agree.

    >>> import torch
    >>> sorted(row_counts([torch.zeros(4, 2), torch.zeros(4)])), row_counts((torch.zeros(4, 2), torch.zeros(4)))
    ([2, 4], {4})
    >>> row_counts(["a", "b", "c"]), row_counts((torch.zeros(3), torch.zeros(2))), row_counts(0.5)
    ({3}, set(), None)
    """
    if isinstance(value, PackedSequence):
        return {int(value.batch_sizes[0])}
    if (shape := shape_of(value)) is not None:
        return {int(shape[0])} if shape else None
    if (columns := columns_of(value)) is not None:
        return columns_counts(columns)
    if is_list(value):
        return {len(value), *(list_columns_counts(value) or ())}
    return {len(value)} if isinstance(value, tuple) else _own_count(value)


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor or another array; the first dimension of a nested tensor; None for other values."""
    if isinstance(value, Tensor) and value.is_nested:
        return (value.size(0),)
    shape = getattr(value, "shape", None)
    return shape if isinstance(shape, tuple) else None


def columns_of(value: Any) -> Iterable[Any] | None:
    """Return the columns of a tuple, mapping or dataclass; None for other values and for plain tuples of scalars."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, tuple):
        scalars = bool(value) and not hasattr(value, "_fields") and all(map(_is_scalar, value))
        return None if scalars else value
    if is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return None


def columns_counts(columns: Iterable[Any]) -> set[int] | None:
    """Return the numbers of examples that are possible for all columns; None if no column has a number."""
    found = [counts for column in columns if (counts := row_counts(column)) is not None]
    return set.intersection(*found) if found else None


def list_columns_counts(value: Sequence[Any]) -> set[int] | None:
    """Return the possible numbers of examples of a list of columns; None unless items are arrays or sequences."""
    contains = any(is_list(item) or isinstance(item, tuple) or shape_of(item) for item in value)
    return columns_counts(value) if contains else None


def is_list(value: Any) -> bool:
    """Return whether `value` is a list or another sequence, except strings, tuples and arrays."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, tuple)) and not hasattr(value, "shape")


def is_dataclass(value: Any) -> bool:
    """Return whether `value` is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def describe(value: Any, depth: int = 2) -> str:
    """Return the shapes in `value` without its contents.

    >>> import torch
    >>> describe({"boxes": torch.zeros(4, 2), "names": ["a", "b"]}), describe([{"label": 1}] * 3)
    ("{'boxes': (4, 2), 'names': list of 2 str}", 'list of 3 dict')
    """
    if (shape := shape_of(value)) is not None:
        return str(tuple(shape))
    kind = type(value).__name__
    if depth and isinstance(value, Mapping):
        return "{" + _joined((f"{key!r}: {describe(value[key], depth - 1)}" for key in value), len(value)) + "}"
    if depth and isinstance(value, tuple):
        return "(" + _joined((describe(item, depth - 1) for item in value), len(value)) + ")"
    if is_list(value):
        items = list(dict.fromkeys(describe(item, 0) for item in islice(value, 64)))
        return f"{kind} of {len(value)} {_joined(items, len(items))}".rstrip()
    return "None" if value is None else kind


def _joined(parts: Iterable[str], count: int) -> str:
    return ", ".join(islice(parts, _SHOWN)) + (", ..." if count > _SHOWN else "")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bytes, Number)) or shape_of(value) == ()


def _own_count(value: Any) -> set[int] | None:
    """Return the number of examples that a batch object defines, such as the number of graphs."""
    if isinstance(value, (str, bytes, Number, type(None))):
        return None
    for name in ("batch_size", "num_graphs"):
        count = getattr(value, name, None)
        if isinstance(count, int) and not isinstance(count, bool):
            return {count}
    return None


def _checked(count: Any, owner: str) -> int:
    try:
        number = -1 if isinstance(count, bool) else operator.index(count)
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentError(
            f"{owner.partition(':')[0]}: size must return an integer >= 0, the number of examples, got "
            f"{describe(count) if isinstance(count, Tensor) else repr(count)}."
        )
    return number
