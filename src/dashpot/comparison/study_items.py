"""Items of a study: what is run, what must be finished before, and with which settings.

All functions are pure functions of the study and the outcomes, so that every worker comes to the same decisions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashpot.comparison.item_keys import rate_keys, run_keys, trial_keys
from dashpot.comparison.looks import runs_end_at
from dashpot.comparison.run_plan import RunPlan
from dashpot.runs.entry import Entry
from dashpot.runs.search_space import apply, default_values, grid_point, settings_of, sobol_point
from dashpot.runs.study import Study
from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.work_items import Outcome, WorkItem

Outcomes = Mapping[str, Outcome]


def items(study: Study) -> list[WorkItem]:
    """Return all items of a study in the order in which they are worked on: trials, runs, runs at wrong rates."""
    settings = study.settings()
    trials = [WorkItem(key, f"trials/{_method(key)}") for key in trial_keys(settings)]
    return trials + [WorkItem(key, "runs") for key in (*run_keys(settings), *rate_keys(settings))]


def needed(study: Study, outcomes: Outcomes) -> list[str]:
    """Return the keys of all items that the study needs, finished or not, given the outcomes so far.

    In a group-sequential study, the runs after the last look, and after a look that is not finished, are not included.
    """
    settings = study.settings()
    runs = run_keys(settings)[: runs_end_at(study, outcomes) * len(study.entries)]
    return [*trial_keys(settings), *runs, *rate_keys(settings)]


def ready_keys(study: Study, outcomes: Outcomes) -> set[str]:
    """Return the keys of all needed items, finished or not, for which everything is finished that they depend on.

    A run requires all trials of its method and, in a group-sequential study, all runs up to the look before it.
    """
    trials = {entry.name: trial_keys(study.settings(), entry.name) for entry in study.entries}
    tuned = {name for name, keys in trials.items() if all(key in outcomes for key in keys)}
    return {key for key in needed(study, outcomes) if key.startswith("trial/") or _method(key) in tuned}


def finished(study: Study, outcomes: Outcomes) -> bool:
    """Return whether all items are finished that the study needs."""
    return all(key in outcomes for key in needed(study, outcomes))


@dataclass(frozen=True)
class Asked:
    """Arguments of `Claim.suggest` for a trial: the space, and the values unless a sampler suggests them."""

    space: Mapping[str, Dimension]
    given: Mapping[str, float] | None


def asked(study: Study, key: str) -> Asked | None:
    """Return the values of a trial that the queue records or, with the sampler "tpe", suggests; None for other items.

    Trial 0 has the values of the entry; trial N has point N - 1 of a Sobol sequence, unless a sampler suggests it. With
    the sampler "grid", trial N has value N of the grid.
    """
    if not key.startswith("trial/"):
        return None
    number, name = _number(key), _method(key)
    space = study.search_spaces[name]
    if study.sampler == "grid":
        return Asked(space, grid_point(space, number, study.budget))
    if number == 0:
        known = default_values(study.entry(name))
        return Asked(space, {item: known[item] for item in space})
    given = sobol_point(space, number - 1, study.tuning_seed) if study.sampler == "qmc" else None
    return Asked(space, given)


def plan(study: Study, key: str, outcomes: Outcomes, claim_values: Mapping[str, float] | None = None) -> RunPlan:
    """Return the plan of an item.

    Args:
        study: Study with the item.
        key: Key of the item.
        outcomes: Finished items, which include everything that the item depends on.
        claim_values: Values by dimension that the queue has recorded for a trial; None for those of `asked`.
    """
    kind, name, *rest = key.split("/")
    if kind == "trial":
        values = claim_values or _given(study, key)
        entry = study.entry(name)
        applied = entry if _is_entry(study, _number(key)) else apply(entry, values)
        return RunPlan(key, kind, applied, study.tuning_seed, settings_of(values))
    applied = selected_entry(study, name, outcomes)
    if kind == "rate":
        applied = dataclasses.replace(applied, lr=applied.lr * float(rest[0]))
    return RunPlan(key, kind, applied, int(rest[-1]), settings_of(selected_values(study, name, outcomes)))


def selected_trial(study: Study, method: str, outcomes: Outcomes) -> int | None:
    """Return the number of the trial with the best final validation score; None without tuning.

    Of equal scores, the lower number is selected. If no trial has been done, trial 0 is selected, the settings of the
    entry.
    """
    keys = trial_keys(study.settings(), method)
    if not keys:
        return None
    sign = 1.0 if study.settings()["score"]["direction"] == "max" else -1.0
    done = [(key, outcomes[key].score) for key in keys if key in outcomes and outcomes[key].status == "done"]
    scores = {_number(key): sign * score for key, score in done if score is not None}
    return max(scores, key=lambda number: (scores[number], -number)) if scores else 0


def selected_values(study: Study, method: str, outcomes: Outcomes) -> dict[str, float]:
    """Return the values of the selected trial by dimension; empty without tuning."""
    number = selected_trial(study, method, outcomes)
    if number is None:
        return {}
    key = f"trial/{method}/{number}"
    stored: Any = outcomes[key].values if key in outcomes else None
    return {name: float(value) for name, value in stored.items()} if stored else _given(study, key)


def selected_entry(study: Study, method: str, outcomes: Outcomes) -> Entry:
    """Return the entry of a method with the settings of the selected trial; trial 0 has those of the entry."""
    entry = study.entry(method)
    number = selected_trial(study, method, outcomes)
    if number is None or _is_entry(study, number):
        return entry
    return apply(entry, selected_values(study, method, outcomes))


def _is_entry(study: Study, number: int) -> bool:
    """Return whether a trial has the settings of the entry."""
    return number == 0 and study.sampler != "grid"


def _given(study: Study, key: str) -> dict[str, float]:
    values = asked(study, key)
    assert values is not None
    assert values.given is not None
    return dict(values.given)


def _method(key: str) -> str:
    return key.split("/")[1]


def _number(key: str) -> int:
    return int(key.split("/")[2])
