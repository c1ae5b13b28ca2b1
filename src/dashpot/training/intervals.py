"""Plan of a fit whose epochs are intervals of a number of optimizer steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError, RunError
from dashpot.training.fit_plan import DATA_SETTINGS, FitPlan
from dashpot.training.loader import ResumableLoader
from dashpot.training.loop_state import Batch
from dashpot.utils.schema import SchemaError

COUNT = Interval(1, math.inf, "left", integer=True)


class Intervals(FitPlan):
    """Plan of a fit whose epochs are intervals of `every` optimizer steps; the last interval may be shorter.

    Passes over the data follow each other, independently of the intervals. Let L be the number of batches of a pass and
    A the number of micro-batches of a step. In a fit of `steps` steps, every step has A micro-batches, which may belong
    to two passes. In a fit of `epochs` passes, the last step of a pass has the remaining micro-batches, as in a fit
    without intervals, so that a pass has ceil(L / A) steps.

    Args:
        loader: Training data.
        steps: Number of optimizer steps, or None if `epochs` is given.
        epochs: Number of passes, or None if `steps` is given.
        every: Number of steps per interval. Default: the value in `resume`, else ceil(L / A), or all steps if the data
            have no length.
        resume: Saved progress of the fit to resume, or None.

    Raises:
        ArgumentError: If the data have no length and `epochs` is given.
    """

    noun: ClassVar[str] = "interval"

    def __init__(
        self,
        loader: ResumableLoader,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        every: int | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(loader, epochs or 0)
        if steps is None and loader.size is None:
            raise ArgumentError(
                "fit: evaluate_every with epochs requires training data with a length; pass steps=N instead of epochs."
            )
        saved = {} if resume is None or resume.get("interval") is None else resume["interval"]
        self._steps, self._every = steps, saved.get("every") if every is None else every
        # An epoch, and the number of steps before it.
        self._first = (0, 0) if resume is None else (resume["position"][0], saved.get("start", 0))
        self._pass = tuple(saved.get("pass", (0, 0)))  # indices (pass, batch) of the next batch
        self._drawn = saved.get("drawn", 0)  # number of batches since the start of the fit
        # For each batch that is drawn but not used: the value of `_pass` after it, and the start of its pass.
        self._ahead: deque[tuple[tuple[int, int], Any]] = deque()
        self._items: Iterator[Batch] | None = None

    # ---- epochs and steps -------------------------------------------------------------------------------------------

    @property
    def every(self) -> int:
        """Number of optimizer steps per interval."""
        if self._every is not None:
            return self._every
        return self.total_steps if self.loader.size is None else self._steps_of_pass(self.loader.size)

    @property
    def total_steps(self) -> int:
        return super().total_steps if self._steps is None else self._steps

    @property
    def epochs(self) -> int:
        epoch, steps = self._first
        return epoch - (steps - self.total_steps) // self.every

    def size(self, epoch: int) -> int:
        return self.batches_before(epoch + 1) - self.batches_before(epoch)

    def batches_before(self, epoch: int) -> int:
        return self._batches_before(self.steps_before(epoch))

    def batches_left(self, epoch: int, done: int) -> int:
        return self._batches_before(self.total_steps) - self.batches_before(epoch) - done

    def steps_before(self, epoch: int) -> int:
        """Return the number of steps before an interval, including skipped steps."""
        first, steps = self._first
        return min(steps + (epoch - first) * self.every, self.total_steps)

    def _batches_before(self, step: int) -> int:
        """Return the number of batches of the first `step` steps of the fit."""
        if self._steps is not None:
            return step * self.accumulate
        passes, rest = divmod(step, self._steps_of_pass(len(self.loader)))
        return passes * len(self.loader) + rest * self.accumulate

    def _steps_until(self, batches: int) -> int:
        """Return the number of steps of the first `batches` batches of the fit."""
        if self._steps is not None:
            return self._steps_of_pass(batches)
        passes, rest = divmod(batches, len(self.loader))
        return passes * self._steps_of_pass(len(self.loader)) + self._steps_of_pass(rest)

    def _window(self, index: int, size: int) -> range:
        if self._steps is not None:
            return super()._window(index, size)
        at = (self._offset + index) % len(self.loader)
        within = super()._window(at, len(self.loader))
        return range(within.start - at + index, within.stop - at + index)

    def cut(self, epoch: int) -> None:
        self._first = (epoch + 1, self._steps_until(self._drawn))

    # ---- data -------------------------------------------------------------------------------------------------------

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        self._offset = self._batches_before(self.steps_before(epoch))
        if self._items is None:
            self._items = self._passes()
        self._use(len(self._ahead))
        for _ in islice(self._items, self._offset + start - self._drawn):  # the previous interval was cancelled
            self._use(1)
        size = self.size(epoch)
        for index, batch in enumerate(self._placed(islice(self._items, size - start), start, size), start):
            self._use(1)
            if index == batch.first_microbatch:
                self._step_start = self._drawn - 1, (self._pass[0], self._pass[1] - 1), self._pass_start
            yield batch

    def _passes(self) -> Iterator[Batch]:
        """Yield the batches of all passes, and append the position after each batch to `_ahead`."""
        index, start = self._pass
        while True:
            for done, batch in enumerate(self.loader.batches(index, start), start + 1):
                self._ahead.append(((index, done), self.loader.epoch_start))
                yield batch
            index, start = index + 1, 0

    def _use(self, batches: int) -> None:
        """Advance the position in the data by a number of batches that have been drawn."""
        for _ in range(batches):
            self._pass, self._pass_start = self._ahead.popleft()
        self._drawn += batches

    def side_pass(self, loader: ResumableLoader, epoch: int) -> Iterator[Batch]:
        """Return the batches of the current pass from its start; only as many as in an interval if it has no length.

        Raises:
            ArgumentError: If a second iterator would restart the workers of the training data.
        """
        if getattr(loader.source, "persistent_workers", False):
            raise ArgumentError(
                "Learner: train must not have persistent_workers=True in a fit with steps or evaluate_every, because "
                "an additional pass, such as that of SWA, would restart its workers."
            )
        return islice(loader.batches(self._pass[0]), self.size(epoch) if loader.size is None else None)

    def close(self) -> None:
        self._items = None

    # ---- state ------------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        return {"evaluate every": self.every}

    def fixed_settings(self, progress: Mapping[str, Any]) -> tuple[str, ...]:
        within_interval = ("metrics", "evaluate every") if progress["position"][1] else ()
        within_pass = DATA_SETTINGS if progress["interval"]["pass"][1] else ()
        # The number of batches before an interval depends on them.
        always = ("accumulate",) if self._steps is not None else ("accumulate", "batches")
        return (*always, *within_interval, *within_pass)

    def state_dict(self, position: tuple[int, int]) -> dict[str, Any]:
        epoch, batch = position
        if self._ahead and batch:
            raise RunError(
                f"Learner: state_dict must be called between optimizer steps, got {len(self._ahead)} micro-batches "
                "left in the step."
            )
        self._use(len(self._ahead))  # batches of a cancelled interval
        index, done = self._pass
        return {
            "by": self._unit,
            "every": self.every,
            "start": self.steps_before(epoch),
            "drawn": self._drawn,
            "pass": [index + 1, 0] if done == self.loader.size else [index, done],
        }

    def rewind(self, state: dict[str, Any], epoch: int, batch: int) -> None:
        super().rewind(state, epoch, batch)
        drawn, (index, done), pass_start = self._step_start
        state["progress"]["interval"] |= {"drawn": drawn, "pass": [index, done]}
        state["data"]["train"]["begun"] = self.loader.engine.all_gather(pass_start)

    def check_progress(self, progress: Mapping[str, Any]) -> None:
        saved = progress.get("interval")
        if saved is None or saved["by"] != self._unit:
            raise RunError(
                f"fit: the length must be given in {'epochs' if saved is None else saved['by']}, as for the "
                f"checkpoint, got {self._unit} with evaluations every n steps."
            )
        done = self._steps_until(self._drawn)
        if done > self.total_steps:
            raise RunError(f"fit: steps must be at least those of the checkpoint, {done}, got {self.total_steps}.")

    def check_position(self, progress: Mapping[str, Any]) -> None:
        batch, saved = progress["position"][1], progress["interval"]
        expected = self._batches_before(saved["start"]) + batch
        if saved["drawn"] > expected or (batch and saved["drawn"] < expected):
            raise SchemaError(f"progress.interval.drawn must be {expected}, got {saved['drawn']}")
        (index, done), size = saved["pass"], self.loader.size
        if size is not None and done and size * index + done != saved["drawn"]:
            raise SchemaError(
                f"progress.interval.pass must be {list(divmod(saved['drawn'], size))}, got {[index, done]}"
            )

    @property
    def _unit(self) -> str:
        return "epochs" if self._steps is None else "steps"


def make_plan(
    loader: ResumableLoader,
    epochs: int | None,
    steps: int | None,
    every: int | None,
    *,
    resume: Mapping[str, Any] | None = None,
    train: bool = True,
) -> FitPlan:
    """Return the plan of a fit with the given arguments of `Learner.fit`.

    Raises:
        ArgumentError: If an argument is out of range, or not exactly one of `epochs` and `steps` is given.
    """
    for name, value in (("epochs", epochs), ("steps", steps), ("evaluate_every", every)):
        if value is not None:
            check("fit", name, value, COUNT)
    if (epochs is None) == (steps is None):
        got = "neither" if steps is None else f"epochs={epochs} and steps={steps}"
        raise ArgumentError(f"fit: exactly one of epochs and steps must be given, got {got}.")
    if not train and (steps is not None or every is not None):
        raise ArgumentError("fit: steps and evaluate_every must be None with train=False; pass epochs.")
    if steps is None and every is None:
        assert epochs is not None
        return FitPlan(loader, epochs)
    progress = None if resume is None else resume["progress"]
    return Intervals(loader, steps=steps, epochs=epochs, every=every, resume=progress)
