"""Keys of a parameter group: what a method reads, what may stand beside it, and what is a mistake.

torch ignores a key it does not know, so that a misspelt setting trains with the default. Here a key is refused where it
is an argument of the optimizer that groups do not have, or close to the name of a setting.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from dashpot.errors import ArgumentError

__all__ = ["CARRIED", "check_keys", "check_params", "edit_distance", "nearest"]

_OWN = ("params", "name", "param_names", "extra", "lr_scale")
_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
_TORCH = (
    *("lr", "weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"),
    *("momentum", "dampening", "nesterov", "betas", "eps", "amsgrad", "decoupled_weight_decay"),
    *("alpha", "centered", "momentum_decay", "lr_decay", "initial_accumulator_value", "rho", "lambd", "t0"),
    *("etas", "step_sizes"),
)
CARRIED = frozenset((*_OWN, *_SCHEDULERS, *_TORCH))
"""Keys that every group may have: a user's, those that torch's schedulers write and those of torch's optimizers."""

_SYNONYMS = {"learning_rate": "lr", "epsilon": "eps"}
_LONG = 7  # from this length on two edits are a misspelling; "bias" is two edits from "debias" and from "betas"
_SHORT = 4  # up to this length another first letter makes another word: "role" is not "pole"


def check_keys(owner: str, group: Mapping[str, Any], readable: Collection[str], arguments: Collection[str]) -> None:
    """Raise `ArgumentError` for a key that looks like a setting and would be ignored.

    `readable` are the keys that the method reads from a group, `arguments` those of its constructor.
    """
    for key in group:
        if not isinstance(key, str) or key in readable or key in CARRIED:
            continue
        if key in arguments:
            raise ArgumentError(
                f"{owner}: a parameter group cannot have {key!r}, which is one for all groups: give it to {owner}(...)."
            )
        if near := nearest(key, [*readable, *arguments]):
            raise ArgumentError(
                f"{owner}: unknown key {key!r} in a parameter group: did you mean {near!r}? "
                "Values of your own go into extra={...}."
            )
    if not isinstance(group.get("extra", {}), dict):
        raise ArgumentError(f"{owner}: extra of a parameter group must be a dict, got {type(group['extra']).__name__}.")


def check_params(owner: str, params: Any) -> None:
    """Raise `ArgumentError` for a module, or its method `parameters` itself, where its parameters are meant."""
    if isinstance(params, torch.nn.Module):
        raise ArgumentError(
            f"{owner}: give the module's parameters, model.parameters(), not a {type(params).__name__}."
        )
    if inspect.ismethod(params):
        raise ArgumentError(f"{owner}: call the method that gives the parameters, as in model.{params.__name__}().")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name of which `word` is a misspelling, or None.

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
    if len(name) == 2:  # letters swapped, or one too many
        return sorted(word) == sorted(name) or (len(word) == 3 and set(name) <= set(word))
    return len(name) > _SHORT or word[0] == name[0] or sorted(word) == sorted(name)


def edit_distance(a: str, b: str) -> int:
    """The number of letters to insert, delete, replace or swap with their neighbour to get from `a` to `b`.

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
