"""Items as trials of an Optuna storage.

Each claim of an item appends a running trial. The running or finished trial with the lowest number holds the item; the
other claimants yield. A worker writes the outcome into its trial and then ends the trial; an observer ends the trial of
a dead worker. The storage applies only the first of the two. A trial that has been given up is FAIL, which no outcome
uses, so that FAIL always means that the item was not finished by this trial.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

from dashpot.errors import ArgumentError
from dashpot.scheduling.optuna_library import load_optuna
from dashpot.scheduling.storage import Storage
from dashpot.scheduling.work_items import Outcome
from dashpot.utils.strict_json import encode

ITEM, LEASE, VALUES, OUTCOME = "item", "lease", "values", "outcome"
"""Keys of the user attributes of a trial."""


def new_trial(key: str, lease: Mapping[str, Any]) -> Any:
    """Return the trial that claims an item."""
    optuna = load_optuna()
    return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={ITEM: key, LEASE: dict(lease)})


def new_outcome(key: str, status: str, score: float | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user attribute with the outcome of an item.

    Raises:
        ArgumentError: If the status is unknown, or the data is not JSON.
    """
    outcome = Outcome(key, status, None if score is None else float(score), {}, data)
    try:
        return json.loads(encode({"status": status, "score": outcome.score, "data": dict(data)}))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"Claim.finish: data must be a mapping of JSON values ({error}).") from error


def end_state(outcome: Mapping[str, Any] | None) -> tuple[Any, list[float] | None]:
    """Return the state and the values of a trial that ends with an outcome, or is given up without one.

    An item without a usable score is PRUNED, which samplers rank below all scores.
    """
    state = load_optuna().trial.TrialState
    if outcome is None:
        return state.FAIL, None
    score = None if outcome["score"] is None else float(outcome["score"])
    if outcome["status"] in ("done", "diverged") and score is not None and math.isfinite(score):
        return state.COMPLETE, [score]
    return state.PRUNED, None


def end_trial(storage: Storage, trial: int, outcome: Mapping[str, Any] | None) -> None:
    """End a running trial with its outcome, or give it up without one; a finished trial remains unchanged."""
    state, values = end_state(outcome)
    with contextlib.suppress(load_optuna().exceptions.UpdateFinishedTrialError):
        storage.call(lambda base: base.set_trial_state_values(trial, state, values))


def outcome_of(trial: Any) -> Outcome | None:
    """Return the outcome of a trial; None if it is running or has been given up."""
    state = load_optuna().trial.TrialState
    found = trial.user_attrs.get(OUTCOME)
    if found is None or not trial.state.is_finished() or trial.state == state.FAIL:
        return None
    score = None if found["score"] is None else float(found["score"])
    values = trial.user_attrs.get(VALUES, {})
    return Outcome(trial.user_attrs[ITEM], found["status"], score, values, found["data"])


class GroupTrials:
    """Trials of a group; each update examines only new and running ones.

    Attributes:
        study: Identity of the Optuna study of the group.
        outcomes: Outcomes of finished items by key.
    """

    def __init__(self, study: int) -> None:
        self.study = study
        self.outcomes: dict[str, Outcome] = {}
        self._running: dict[str, list[Any]] = {}
        self._given_up: dict[str, dict[str, float]] = {}
        self._settled: set[int] = set()

    def update(self, trials: list[Any]) -> None:
        """Read the trials of the storage, in the order of their numbers."""
        self._running = {}
        for trial in trials:
            if trial.number in self._settled:
                continue
            if trial.state.is_finished():
                self._settle(trial)
            else:
                self._running.setdefault(trial.user_attrs.get(ITEM, ""), []).append(trial)

    def running(self, key: str) -> list[Any]:
        """Return the running trials of an item, in the order of their numbers."""
        return self._running.get(key, [])

    def given_up_values(self, key: str) -> dict[str, float] | None:
        """Return the settings of the last trial of an item that has been given up."""
        return self._given_up.get(key)

    def _settle(self, trial: Any) -> None:
        self._settled.add(trial.number)
        key = trial.user_attrs.get(ITEM)
        outcome = outcome_of(trial)
        if outcome is not None:
            self.outcomes.setdefault(outcome.key, outcome)
        elif key is not None and VALUES in trial.user_attrs:
            self._given_up[key] = trial.user_attrs[VALUES]
