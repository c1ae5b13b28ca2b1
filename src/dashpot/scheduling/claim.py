"""An item held by this worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.optuna_library import load_optuna
from dashpot.scheduling.storage import Storage
from dashpot.scheduling.suggestions import is_below_median, record_parameters, sampled
from dashpot.scheduling.trials import OUTCOME, VALUES, end_state, end_trial, new_outcome, outcome_of


class Claim:
    """An item that this worker executes, until `finish` or `release`.

    Attributes:
        key: Name of the item.
        is_lost: Whether another worker has taken over the item, after this worker was suspended for longer than its
            lease; `finish` then returns False, so that execution can stop.
        outcome: Outcome that `finish` has written into the trial; None before.
    """

    def __init__(
        self,
        storage: Storage,
        study: str,
        trial: int,
        key: str,
        *,
        earlier: Mapping[str, float] | None,
        pruner: str,
        end: Callable[[int], None],
    ) -> None:
        self.key = key
        self.is_lost = False
        self.outcome: dict[str, Any] | None = None
        self._storage = storage
        self._study = study
        self._trial = trial
        self._earlier = earlier
        self._pruner = pruner
        self._end = end

    def suggest(self, space: Mapping[str, Dimension], given: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return the settings of this item and record them.

        An item that an earlier worker has started keeps its settings, so that an unfinished run can be resumed.

        Args:
            space: Range of each setting.
            given: Settings to record. Default: the TPE sampler of Optuna suggests them.
        """
        values = self._earlier if given is None else given
        if values is None:
            values = self._call(lambda base: sampled(base, self._study, self._trial, space, self.key), {})
        else:
            self._call(lambda base: record_parameters(base, self._trial, space, values), None)
        plain = {name: float(value) for name, value in values.items()}
        self._call(lambda base: base.set_trial_user_attr(self._trial, VALUES, plain), None)
        return plain

    def report(self, step: int, value: float) -> None:
        """Record an intermediate score, for `should_prune`; a non-finite score is not recorded."""
        if math.isfinite(value):
            self._call(lambda base: base.set_trial_intermediate_value(self._trial, step, float(value)), None)

    def should_prune(self) -> bool:
        """Return whether the pruner of the queue ends this item now."""
        if self._pruner == "none":
            return False
        return bool(self._storage.call(lambda base: is_below_median(base, self._study, self._trial)))

    def finish(self, status: str, score: float | None, data: Mapping[str, Any]) -> bool:
        """Record the outcome.

        Args:
            status: "done", "diverged", "failed" or "pruned".
            score: Score; None if there is none.
            data: JSON values to store.

        Returns:
            False if another worker has taken over the item; this outcome is then not recorded and must be dropped.

        Raises:
            ArgumentError: If the status is unknown or the data is not JSON.
            StorageLost: If the storage does not answer; the item is not finished.
        """
        outcome = new_outcome(self.key, status, score, data)
        state, values = end_state(outcome)
        # The outcome precedes the state: a finished trial always has an outcome, whatever kills this process.
        self._call(lambda base: base.set_trial_user_attr(self._trial, OUTCOME, outcome), None)
        self.outcome = outcome
        self._call(lambda base: base.set_trial_state_values(self._trial, state, values), None)
        if self.is_lost:  # an observer may have ended this trial with the outcome
            self.is_lost = outcome_of(self._storage.call(lambda base: base.get_trial(self._trial))) is None
        self._end(self._trial)
        return not self.is_lost

    def release(self) -> None:
        """Give the item back, for example after Ctrl-C; another worker can claim it at once."""
        end_trial(self._storage, self._trial, self.outcome)
        self._end(self._trial)

    def _call(self, operation: Callable[[Any], Any], default: Any) -> Any:
        """Return the result of an operation on the trial; `default` if the item has been taken over."""
        try:
            return self._storage.call(operation)
        except load_optuna().exceptions.UpdateFinishedTrialError:
            self.is_lost = True
            return default
