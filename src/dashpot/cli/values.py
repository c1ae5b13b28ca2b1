"""Values of command-line options."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from cyclopts import Token

from dashpot.errors import ArgumentError
from dashpot.runs.settings import parse_value


def parse_token(kind: type, _: type, tokens: Sequence[Token]) -> Any:
    """Parse the value of an option as `kind`; cyclopts itself would treat "none" as an option that is not given."""
    text = tokens[0].value
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"must be {'an integer' if kind is int else 'a number'}, got {text!r}.") from error


integer = partial(parse_token, int)
number = partial(parse_token, float)


def parse_pairs(option: str, items: Sequence[str]) -> dict[str, Any]:
    """Parse the `NAME=VALUE` items of an option."""
    example = "shuffle=false" if option == "--task-options" else "weight_decay=5e-4"
    parsed = {}
    for item in items or [""]:  # empty for an option without a value
        key, sign, value = item.partition("=")
        if not key or not sign or not value:
            raise ArgumentError(f"{option} must be NAME=VALUE, such as {example}, got {item!r}.")
        parsed[key] = parse_value(value)
    return parsed
