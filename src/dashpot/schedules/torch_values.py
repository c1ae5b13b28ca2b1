"""Values that torch's schedulers produce, from a simulated copy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.schedules.hyperparams import is_pair, read

Curves = dict[str, dict[str, list[float]]]
"""Values by hyperparameter and by label."""


def simulate(owner: str, scheduler: Any, steps: int, metrics: Sequence[float] | None = None) -> Curves:
    """Return the hyperparameters of each group over the next steps of a copy of the scheduler."""
    opt = scheduler.optimizer
    # The copy shares the parameters, which no scheduler changes, and has no optimizer state.
    memo: dict[int, Any] = {id(p): p for group in opt.param_groups for p in group["params"]}
    memo[id(opt.state)] = type(opt.state)(dict)
    own = copy.deepcopy(scheduler, memo)
    groups = own.optimizer.param_groups
    values: dict[tuple[str, int], list[float]] = {
        (name, index): [] for index, group in enumerate(groups) for name, _ in _numbers(group, opt.defaults)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copied optimizer does not step
        for step in range(steps):
            for index, group in enumerate(groups):
                for name, value in _numbers(group, opt.defaults):
                    values[name, index].append(value)
            if step + 1 < steps:
                _advance(owner, own, step, metrics)
    names = dict.fromkeys(["lr", *(name for (name, _), line in values.items() if len(set(line)) > 1)])
    return {name: _merge({index: line for (own, index), line in values.items() if own == name}) for name in names}


def _advance(owner: str, scheduler: Any, step: int, metrics: Sequence[float] | None) -> None:
    try:
        scheduler.step(*([] if metrics is None else [metrics[step]]))
    except ValueError as error:
        raise ArgumentError(
            f"{owner}: steps must be at most {step + 1}, because {type(scheduler).__name__} ends there ({error})."
        ) from error


def _numbers(group: Mapping[str, Any], names: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numeric hyperparameters of a group; the entries of a pair are `betas[0]` and `betas[1]`."""
    for name in ["lr", *(name for name in names if name != "lr")]:
        value = group.get(name)
        entries: dict[str, Any] = {name: value}
        if is_pair(value):
            entries = {f"{name}[{index}]": read(group, f"{name}[{index}]") for index in range(2)}
        for entry, item in entries.items():
            if isinstance(item, (int, float)) or (isinstance(item, Tensor) and item.numel() == 1):
                yield entry, float(item)


def _merge(lines: Mapping[int, list[float]]) -> dict[str, list[float]]:
    """Return the lines of all groups by label, with one line for groups with equal values."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, line in lines.items():
        groups.setdefault(tuple(line), []).append(index)
    return {f"group{'s' * (len(of) > 1)} {', '.join(map(str, of))}": list(line) for line, of in groups.items()}
