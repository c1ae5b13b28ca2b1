"""Validation of the keys of parameter groups.

torch ignores unknown keys, so a model with a misspelt setting is trained with the default value. Here a key is rejected
if it is an argument of the constructor that is not allowed in groups, or if it is similar to the name of a setting.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from dashpot.errors import ArgumentError

_OWN = ("params", "name", "param_names", "extra", "lr_scale")
_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
_TORCH = (
    *("lr", "weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"),
    *("momentum", "dampening", "nesterov", "betas", "eps", "amsgrad", "decoupled_weight_decay"),
    *("alpha", "centered", "momentum_decay", "lr_decay", "initial_accumulator_value", "rho", "lambd", "t0"),
    *("etas", "step_sizes"),
)
CARRIED = frozenset((*_OWN, *_SCHEDULERS, *_TORCH))
"""Keys allowed in every group: reserved names, and the keys of torch's schedulers and optimizers."""

_SYNONYMS = {"learning_rate": "lr", "epsilon": "eps"}
_LONG = 7  # minimum length of names that may differ by two edits; "bias" is two edits from "debias" and "betas"
_SHORT = 4  # maximum length of names that must share the first letter: "role" is not a misspelling of "pole"


def check_keys(owner: str, group: Mapping[str, Any], readable: Collection[str], arguments: Collection[str]) -> None:
    """Check that no ignored key of a group resembles a setting or is an argument of the constructor.

    Args:
        owner: Class name of the optimizer, for the message.
        group: The parameter group.
        readable: Keys that the method reads from a group.
        arguments: Names of the constructor's arguments.

    Raises:
        ArgumentError: If a key is a constructor argument that is not allowed in groups, or a misspelt setting.
    """
    for key in group:
        if not isinstance(key, str) or key in readable or key in CARRIED:
            continue
        if key in arguments:
            raise ArgumentError(
                f"{owner}: a parameter group must not have {key!r}, an argument for all groups: "
                f"pass it to {owner}(...)."
            )
        if near := nearest(key, [*readable, *arguments]):
            raise ArgumentError(
                f"{owner}: unknown key {key!r} in a parameter group: did you mean {near!r}? "
                "Put other values into extra={...}."
            )
    if not isinstance(group.get("extra", {}), dict):
        raise ArgumentError(f"{owner}: extra of a parameter group must be a dict, got {type(group['extra']).__name__}.")


def check_params(owner: str, params: Any) -> None:
    """Raise `ArgumentError` if `params` is a module, or a method such as `model.parameters` that was not called."""
    expected = f"{owner}: params must be parameters, as in model.parameters()"
    if isinstance(params, torch.nn.Module):
        raise ArgumentError(f"{expected}, got a {type(params).__name__}.")
    if inspect.ismethod(params):
        raise ArgumentError(f"{expected}, got the method itself.")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that is most likely intended by `word`, or None if there is none.

    Example:
        >>> nearest("weight_decy", ["lr", "weight_decay"]), nearest("rl", ["lr"]), nearest("id", ["lr"])
        ('weight_decay', 'lr', None)
    """
    names = list(names)
    plain = word.lower().replace("-", "_")
    if plain in names:
        return plain
    if _SYNONYMS.get(plain) in names:
        return _SYNONYMS[plain]
    close = [(edit_distance(plain, name), name) for name in names]
    close = [(distance, name) for distance, name in close if _is_misspelling(plain, name, distance)]
    return min(close, key=lambda pair: pair[0])[1] if close else None


def _is_misspelling(word: str, name: str, distance: int) -> bool:
    if len(name) >= _LONG:
        return distance <= 2
    if distance != 1 or len(name) == 1:
        return False
    if len(name) == 2:  # accept two swapped letters, or one extra letter
        return sorted(word) == sorted(name) or (len(word) == 3 and set(name) <= set(word))
    return len(name) > _SHORT or word[0] == name[0] or sorted(word) == sorted(name)


def edit_distance(a: str, b: str) -> int:
    """Return the number of insertions, deletions, replacements and swaps of adjacent letters that turn `a` into `b`.

    Example:
        >>> edit_distance("weigth", "weight"), edit_distance("bta", "betas")
        (1, 2)
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
