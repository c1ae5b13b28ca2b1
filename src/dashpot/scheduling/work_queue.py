"""Work queue: any number of workers on any number of machines execute each item exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dashpot.constraints import Interval, OneOf, check
from dashpot.errors import ArgumentError
from dashpot.scheduling.claim import Claim
from dashpot.scheduling.heartbeat import Heartbeat
from dashpot.scheduling.leases import RENEWALS, LeaseWatch, new_lease
from dashpot.scheduling.optuna_library import load_optuna
from dashpot.scheduling.queue_settings import create_study, share_settings, study_name
from dashpot.scheduling.storage import Storage
from dashpot.scheduling.suggestions import PRUNERS
from dashpot.scheduling.trials import LEASE, OUTCOME, GroupTrials, end_state, end_trial, new_trial
from dashpot.scheduling.work_items import Outcome, WorkItem
from dashpot.scheduling.worker_lock import WorkerLock


class WorkQueue:
    """Items of a study, executed exactly once by the workers that share a storage.

    Every worker adds the same items and claims them one by one. An item whose worker has died is claimed again: at
    once if the workers share a folder on one machine, else after the lease.

    Args:
        storage: Storage of the queue.
        name: Name of the study within the storage.
        settings: JSON values that all workers share.
        folder: Study folder for lock files of the workers of this machine; None for leases only.
        direction: "max" or "min": whether larger or smaller scores are better.
        pruner: "none", or "median": an item is pruned if its best score is below the median of the others at this step.
        lease: Time in seconds after which a worker without a sign of life loses its items; positive.

    Raises:
        ArgumentError: If an argument is out of range.
        RunError: If the storage contains this study with other settings, or something else under its name.

    Example:
        >>> import tempfile
        >>> from dashpot.scheduling.storage import open_storage
        >>> with tempfile.TemporaryDirectory() as folder, open_storage(Path(folder, "study.journal")) as storage:
        ...     with WorkQueue(storage, "digits", {"epochs": 3}, Path(folder)) as queue:
        ...         queue.add([WorkItem("run/adam/0", "runs"), WorkItem("run/adam/1", "runs")])
        ...         while claim := queue.claim():
        ...             _ = claim.finish("done", 0.9, {})
        ...         sorted(queue.outcomes())
        ['run/adam/0', 'run/adam/1']
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        settings: Mapping[str, Any],
        folder: Path | None,
        *,
        direction: str = "max",
        pruner: str = "none",
        lease: float = 60.0,
    ) -> None:
        check("WorkQueue", "direction", direction, OneOf(("max", "min")))
        check("WorkQueue", "pruner", pruner, PRUNERS)
        check("WorkQueue", "lease", lease, Interval(0))
        self.name = name
        self._storage = storage
        self._direction = direction
        self._pruner = pruner
        share_settings(storage, name, settings)
        self._items: dict[str, WorkItem] = {}
        self._groups: dict[str, GroupTrials] = {}
        self._claims: dict[int, Claim] = {}
        self._is_claiming = False
        self._renewals: dict[int, int] = {}
        self._lock = WorkerLock(folder)
        self._watch = LeaseWatch(self._lock, lease)
        self._heartbeat = Heartbeat(self._renew, lease / RENEWALS, storage.end_thread)

    def add(self, items: Iterable[WorkItem]) -> None:
        """Add items at the end of the queue; items that are present remain unchanged.

        Raises:
            ArgumentError: If an item is present in another group.
        """
        for item in items:
            present = self._items.setdefault(item.key, item)
            if present != item:
                raise ArgumentError(f"WorkQueue: {item.key} is in the group {present.group}, got {item.group}.")
            if item.group not in self._groups:
                study = create_study(self._storage, study_name(self.name, item.group), self._direction)
                self._groups[item.group] = GroupTrials(study)

    def claim(self, ready: Callable[[str], bool] = lambda key: True) -> Claim | None:
        """Claim the first item that no worker executes.

        Args:
            ready: Function of the key that returns whether an item can be executed now.

        Returns:
            The claim; None if no item is free and ready.

        Raises:
            StorageLost: If the storage does not answer.
        """
        with self._lock.claiming():
            updated = set()
            for item in self._items.values():
                if item.group not in updated and item.key not in self._groups[item.group].outcomes:
                    self._update_group(self._groups[item.group])
                    updated.add(item.group)
                if self._is_free(item) and ready(item.key) and (claim := self._try(item)) is not None:
                    return claim
        return None

    def outcomes(self) -> dict[str, Outcome]:
        """Return the outcomes of finished items by key; only changes are read from the storage."""
        self._update()
        return {key: outcome for group in self._groups.values() for key, outcome in group.outcomes.items()}

    def close(self) -> None:
        """Give back the items of this worker, stop the renewal of leases and release the lock file.

        During an outage the items are not given back; other workers take them over.
        """
        self._heartbeat.stop()
        released = [self._released(trial) for trial in list(self._claims)]
        if all(item.key in self._groups[item.group].outcomes for item in self._items.values()):
            self._lock.sweep()
        # While this worker appears as the holder of an item, its unlocked file shows that it has ended.
        self._lock.close(remove=all(released) and not self._is_claiming)

    def __enter__(self) -> WorkQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, item: WorkItem) -> Claim | None:
        """Append a trial for an item, and keep it if no earlier one holds the item."""
        group = self._groups[item.group]
        self._is_claiming = True  # remains set if an interrupt hits this worker before it has registered the trial
        trial = self._storage.call(
            lambda base: base.create_new_trial(group.study, new_trial(item.key, new_lease(self._lock)))
        )
        claim = self._new_claim(item, trial)
        self._update_group(group)
        if self._is_free(item, before=trial):
            return claim
        claim.release()
        return None

    def _new_claim(self, item: WorkItem, trial: int) -> Claim:
        claim = Claim(
            self._storage,
            study_name(self.name, item.group),
            trial,
            item.key,
            earlier=self._groups[item.group].given_up_values(item.key),
            pruner=self._pruner,
            end=self._forget,
        )
        self._claims[trial] = claim
        self._is_claiming = False
        self._heartbeat.start()
        return claim

    def _is_free(self, item: WorkItem, before: int | None = None) -> bool:
        """Return whether an item is neither finished nor held, and end the trials of workers that have ended.

        Args:
            item: The item.
            before: Identity of the own trial; only trials before it are examined.
        """
        group = self._groups[item.group]
        for trial in [] if item.key in group.outcomes else group.running(item.key):
            if trial._trial_id == before:
                break
            if not self._is_over(trial):
                return False
            end_trial(self._storage, trial._trial_id, trial.user_attrs.get(OUTCOME))  # a written outcome is kept
            self._update_group(group)
        return item.key not in group.outcomes

    def _is_over(self, trial: Any) -> bool:
        lease = trial.user_attrs[LEASE]
        if lease["worker"] == self._lock.worker:
            return trial._trial_id not in self._claims  # an interrupted claim, or a repeated operation
        return self._watch.is_over(trial._trial_id, lease)

    def _update(self) -> None:
        items = self._items.values()
        unfinished = {item.group for item in items if item.key not in self._groups[item.group].outcomes}
        for name in unfinished:
            self._update_group(self._groups[name])

    def _update_group(self, group: GroupTrials) -> None:
        group.update(self._storage.call(lambda base: base.get_all_trials(group.study, deepcopy=False)))

    def _renew(self) -> None:
        """Renew the leases of all claims; called by the heartbeat thread."""
        optuna = load_optuna()
        for trial, claim in list(self._claims.items()):
            self._renewals[trial] = count = self._renewals.get(trial, 0) + 1
            lease = new_lease(self._lock, count)
            try:
                self._storage.attempt(lambda base, t=trial, new=lease: base.set_trial_user_attr(t, LEASE, new))
            except optuna.exceptions.UpdateFinishedTrialError:
                claim.is_lost = claim.is_lost or trial in self._claims

    def _released(self, trial: int) -> bool:
        """Give back an item with a single attempt, and return whether the storage has answered.

        If an interrupt or outage has hit `Claim.finish` after it has written the outcome, the outcome is kept.
        """
        optuna = load_optuna()
        state, values = end_state(self._claims[trial].outcome)
        try:
            self._storage.attempt(lambda base: base.set_trial_state_values(trial, state, values))
        except optuna.exceptions.UpdateFinishedTrialError:
            pass
        except Exception:
            return False
        self._forget(trial)
        return True

    def _forget(self, trial: int) -> None:
        self._claims.pop(trial, None)
        self._renewals.pop(trial, None)
