"""Search spaces of the settings of a method, and the points at which a study tries them.

| setting | varied argument | range | scale | methods |
|---|---|---|---|---|
| lr | `lr` | the generic rate of the method / 30 ... times 30 | log | all with lr > 0 |
| weight_decay | `weight_decay` | 1e-6 ... 0.1 | log | those with weight decay |
| momentum | `betas[0]`, `pole` or `momentum` | 0.5 ... 0.99 | log of 1 - momentum | those with momentum |
| beta2 | `betas[1]`, `alpha` or `rho` | 0.9 ... 0.9999 | log of 1 - beta2 | with an average of squares |
| warmup | share of the steps with linear warm-up of the rate | 0 ... 0.2 | linear | all |

`beta2` is searched on request only. The generic rate is that in `dashpot.names`, also for classes of torch with equal
updates; for others, the rate of the entry. A range is widened if it does not contain the value of the entry. A
setting that is zero in the entry is not searched, so that `sgd` remains SGD without momentum and without weight decay.
Warm-up is searched for a constant rate, and for the schedules "linear" and "cosine", since "warmup-linear" and
"warmup-cosine" exist. The table applies to every method, except those that define their own search space
(`dashpot.runs.own_search_space`).
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from dashpot import schedules
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.names import METHODS
from dashpot.runs.counterparts import COUNTERPARTS
from dashpot.runs.entry import Entry
from dashpot.runs.entry_schedules import scheduled
from dashpot.runs.makers import parameters
from dashpot.runs.own_search_space import value_of, with_value
from dashpot.runs.probe import probe
from dashpot.runs.tuning_options import ALL_SETTINGS, SETTINGS
from dashpot.scheduling.dimension import Dimension
from dashpot.utils.optional_packages import need

RATE_FACTOR = 30.0
DECAYS = (1e-6, 0.1)
COMPLEMENTS = (0.01, 0.5)
"""Range of 1 - momentum."""
SQUARES = (1e-4, 0.1)
"""Range of 1 - beta2."""
WARMUPS = (0.0, 0.2)
COMPLEMENT = "1-momentum"
"""Name of the dimension of the momentum, which is 1 - momentum."""
SQUARE_ARGUMENTS = {"RMSprop": "alpha", "Adadelta": "rho"}
"""Arguments of the average of squares, of classes without `betas`."""
COMPLEMENT2 = "1-beta2"
"""Name of the dimension of the average of squares."""
COMPLEMENTED = {"momentum": COMPLEMENT, "beta2": COMPLEMENT2}
"""For each setting that is searched as 1 - value, the name of its dimension."""


SearchSpace = Mapping[str, Dimension]
"""Ranges by dimension: "lr", "weight_decay", "1-momentum", "1-beta2" and "warmup"."""


def search_space(entry: Entry, settings: Iterable[str] = SETTINGS) -> dict[str, Dimension]:
    """Return the search space of an entry: its own, or else that of the table of this module.

    Args:
        entry: Entry whose values are the defaults of the search.
        settings: Settings to search: "lr", "weight_decay", "momentum", "warmup", "beta2", and names in the own space of
            the entry. The default selects the whole own space.

    Raises:
        ArgumentError: If a setting is unknown.

    >>> from dashpot.runs.entries import entry
    >>> search_space(entry("adamw", "digits", lr=1e-3), ["lr", "weight_decay"])
    {'lr': Dimension(low=3.33333e-05, high=0.03, log=True), 'weight_decay': Dimension(low=1e-06, high=0.1, log=True)}
    >>> list(search_space(entry("sgd", "digits"))), list(search_space(entry("nag", "digits")))
    (['lr', 'warmup'], ['lr', '1-momentum', 'warmup'])
    """
    chosen = tuple(settings)
    for name in chosen:
        if name not in ALL_SETTINGS and name not in entry.space:
            raise unknown("setting to tune", name, {*ALL_SETTINGS, *entry.space})
    known = default_values(entry)
    if entry.space:
        own = {name: item for name, item in entry.space.items() if chosen == SETTINGS or name in chosen}
        return {name: item.widened(known[name]) for name, item in own.items() if name in known}
    ranges = {
        "lr": lambda: Dimension(*_rates(entry), log=True),
        "weight_decay": lambda: Dimension(*DECAYS, log=True),
        COMPLEMENT: lambda: Dimension(*COMPLEMENTS, log=True),
        COMPLEMENT2: lambda: Dimension(*SQUARES, log=True),
        "warmup": lambda: Dimension(*WARMUPS),
    }
    wanted = {COMPLEMENTED.get(name, name) for name in chosen}
    return {name: make().widened(known[name]) for name, make in ranges.items() if name in wanted and name in known}


def default_values(entry: Entry) -> dict[str, float]:
    """Return the value of the entry in each dimension that can be searched.

    >>> from dashpot.runs.entries import entry
    >>> default_values(entry("heavy-ball", "digits", lr=0.01))
    {'lr': 0.01, '1-momentum': 0.1, 'warmup': 0.0}
    """
    if entry.space:
        return _own_values(entry)
    group = _group(entry)
    values = {"lr": float(entry.lr), "weight_decay": _number(group.get("weight_decay"))}
    values |= {COMPLEMENT: _complement(entry, group), COMPLEMENT2: _complement2(entry, group)}
    values |= {"warmup": _warmup(entry)}
    return {name: value for name, value in values.items() if value is not None and (value > 0 or name == "warmup")}


def _own_values(entry: Entry) -> dict[str, float]:
    """Return the values in the own search space; without "warmup" if the schedule has no warm-up."""
    warmup = _warmup(entry)
    values = {name: value_of(entry, name) for name in entry.space if name != "warmup"}
    return {**values, "warmup": warmup} if "warmup" in entry.space and warmup is not None else values


def apply(entry: Entry, values: Mapping[str, float]) -> Entry:
    """Return the entry with the values of some dimensions; its name remains.

    >>> from dashpot.runs.entries import entry
    >>> apply(entry("adam", "digits"), {"lr": 0.002, "1-momentum": 0.05}).call(steps=100)
    'dashpot.Adam(model.parameters(), lr=0.002, betas=(0.95, 0.999))'
    """
    options = dict(entry.options)
    for name, value in values.items():
        if name not in ("lr", COMPLEMENT, COMPLEMENT2, "warmup"):
            options = with_value(options, entry, name, value)
    if COMPLEMENT in values:
        options |= _momentum_options(entry, _one_minus(values[COMPLEMENT]))
    if COMPLEMENT2 in values:
        options |= _squares_options(dataclasses.replace(entry, options=options), _one_minus(values[COMPLEMENT2]))
    applied = dataclasses.replace(entry, lr=values.get("lr", entry.lr), options=options)
    return _warmed(applied, values["warmup"]) if "warmup" in values else applied


def settings_of(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values by the names of the settings, for records and tables.

    >>> settings_of({"lr": 0.01, "1-momentum": 0.1})
    {'lr': 0.01, 'momentum': 0.9}
    """
    names = {dimension: name for name, dimension in COMPLEMENTED.items()}
    return {names.get(name, name): _one_minus(value) if name in names else value for name, value in values.items()}


def sobol_point(space: SearchSpace, number: int, seed: int = 0) -> dict[str, float]:
    """Return point `number`, from 0, of a scrambled Sobol sequence in the space.

    The point depends only on the arguments, so that workers need not agree on an order.

    Source: Sobol, 1967; Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", 1995; `scipy.stats.qmc.Sobol`.

    Raises:
        RunError: If scipy is not installed.

    >>> point = sobol_point({"lr": Dimension(0.001, 1.0, log=True)}, 3)
    >>> point == sobol_point({"lr": Dimension(0.001, 1.0, log=True)}, 3), 0.001 <= point["lr"] <= 1.0
    (True, True)
    """
    if not space:
        return {}
    need("A search over settings", "scipy", extra="study")
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)
    sampler = qmc.Sobol(len(space), scramble=True, seed=rng)  # pyright: ignore[reportCallIssue] - rng since scipy 1.15
    positions = sampler.random_base2(number.bit_length())[number]
    return {name: space[name].at(float(place)) for name, place in zip(space, positions, strict=True)}


def grid_point(space: SearchSpace, number: int, budget: int) -> dict[str, float]:
    """Return point `number`, from 0, of an evenly spaced grid of `budget` values from the lowest to the highest.

    Args:
        space: Space with one dimension.
        number: Number of the point, from 0 to `budget` - 1.
        budget: Number of points; 1 gives the center.

    >>> [grid_point({"lr": Dimension(0.01, 1.0, log=True)}, number, 3)["lr"] for number in range(3)]
    [0.01, 0.1, 1.0]
    """
    [(name, dimension)] = space.items()
    return {name: dimension.at(0.5 if budget == 1 else number / (budget - 1))}


def _rates(entry: Entry) -> tuple[float, float]:
    centre = _generic_rate(entry)
    return float(f"{centre / RATE_FACTOR:.6g}"), float(f"{centre * RATE_FACTOR:.6g}")


def _generic_rate(entry: Entry) -> float:
    """Return the rate of the method in the registry, or that of the entry if its optimizer is none of the registry."""
    name = getattr(entry.make, "__name__", "")
    if getattr(torch.optim, name, None) is entry.make and name in COUNTERPARTS:
        return METHODS[COUNTERPARTS[name]].lr
    for row in METHODS.values():
        if row.path == f"{entry.make.__module__}:{name}":
            return row.lr
    return float(entry.lr)


def _group(entry: Entry) -> Mapping[str, Any]:
    """Return the parameter group of the optimizer over a tiny model; empty for optimizers without groups.

    Warnings are ignored: the entry may have a value on trial, and its optimizer over the real model warns otherwise.
    """
    schedule = entry.arguments(1000).get("schedule")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = probe(entry.make, entry.options, entry.lr, **({} if schedule is None else {"schedule": schedule}))
    return {} if optimizer is None else optimizer.param_groups[0]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _complement(entry: Entry, group: Mapping[str, Any]) -> float | None:
    """Return 1 - momentum; None if the momentum is zero, missing, scheduled, or cannot be set by an argument."""
    value = _number(group["betas"][0] if group.get("betas") else group.get("momentum"))
    if not value or isinstance(entry.schedule and entry.schedule(1000), Mapping):
        return None
    try:
        changed = _group(dataclasses.replace(entry, options={**entry.options, **_momentum_options(entry, 0.75)}))
    except (ArgumentError, TypeError, ValueError):
        return None
    found = changed["betas"][0] if changed.get("betas") else changed.get("momentum")
    return _one_minus(value) if found == 0.75 else None


def _complement2(entry: Entry, group: Mapping[str, Any]) -> float | None:
    """Return 1 - beta2; None if there is no average of squares, or no argument sets it."""
    if group.get("betas"):
        argument, value = "betas", _number(group["betas"][-1])
    else:
        argument = SQUARE_ARGUMENTS.get(getattr(entry.make, "__name__", ""), "")
        value = _number(group.get(argument))
    return _one_minus(value) if value and argument in parameters(entry.make) else None


def _squares_options(entry: Entry, beta2: float) -> dict[str, Any]:
    """Return the argument that sets the average of squares."""
    betas = _group(entry).get("betas")
    return {"betas": (*betas[:-1], beta2)} if betas else {SQUARE_ARGUMENTS[entry.make.__name__]: beta2}


def _one_minus(value: float) -> float:
    return float(f"{1 - value:.8g}")


def _momentum_options(entry: Entry, momentum: float) -> dict[str, Any]:
    """Return the argument that sets the momentum."""
    betas = _group(entry).get("betas")
    if betas:
        return {"betas": (momentum, *betas[1:])}
    return {"pole" if "pole" in parameters(entry.make) else "momentum": momentum}


def _warmup(entry: Entry) -> float | None:
    """Return the share of warm-up; None if the schedule has no warm-up."""
    if entry.schedule is None:
        return 0.0
    name, given = schedules.split_name(entry.schedule_name) if entry.schedule_name else ("", {})
    return float(given.get("warmup", 0.1 if name.startswith("warmup") else 0.0)) if _warmed_name(name, given) else None


def _warmed_name(name: str, given: Mapping[str, Any]) -> str | None:
    """Return the name of the schedule with warm-up, if it exists with the given options."""
    warmed = name if name.startswith("warmup") else "warmup" if name == "constant" else f"warmup-{name}"
    if warmed not in schedules.NAMES:
        return None
    return warmed if set(given) <= set(inspect.signature(schedules.NAMES[warmed]).parameters) else None


def _warmed(entry: Entry, warmup: float) -> Entry:
    """Return the entry with a share of warm-up."""
    name, given = schedules.split_name(entry.schedule_name or "constant")
    warmed = _warmed_name(name, given)
    if warmed is None or (warmup == 0 and not name.startswith("warmup")):
        return entry
    options = ",".join(f"{key}={value}" for key, value in {**given, "warmup": warmup}.items())
    text = f"{warmed}:{options}"
    make: Callable[[int], Any] | None = scheduled(entry.name, entry.make, entry.options, text)
    return dataclasses.replace(entry, schedule=make, schedule_name=text)
