"""Plan of a fit: its epochs, and the batches of each optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from dashpot.errors import ArgumentError, RunError
from dashpot.training.loader import ResumableLoader
from dashpot.training.loop_state import Batch

DATA_SETTINGS = ("batches", "batch size", "number of examples", "data")
"""Settings on which the position within a pass depends."""


class FitPlan:
    """Plan of a fit whose epochs are passes over the training data.

    The last step of an epoch may have fewer micro-batches than the others.

    Args:
        loader: Training data.
        epochs: Number of epochs.

    Attributes:
        accumulate: Number of micro-batches per optimizer step.
    """

    noun: ClassVar[str] = "epoch"

    def __init__(self, loader: ResumableLoader, epochs: int) -> None:
        self.loader, self._epochs, self.accumulate = loader, epochs, 1

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return self._epochs

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps in the whole fit, including skipped steps.

        Raises:
            ArgumentError: If the number is unknown, because the data have no length.
        """
        if self.loader.size is None:
            raise ArgumentError(
                "fit: the number of steps is unknown, because train has no length; pass steps=N instead of epochs."
            )
        return self._epochs * self._steps_of_pass(self.loader.size)

    def size(self, epoch: int) -> int | None:
        """Return the number of training batches of an epoch, or None if it is unknown."""
        return self.loader.size

    def batches_before(self, epoch: int) -> int | None:
        """Return the number of batches before an epoch, or None if it is unknown."""
        return None if self.loader.size is None else epoch * self.loader.size

    def batches_left(self, epoch: int, done: int) -> int | None:
        """Return the number of batches left after `done` batches of an epoch, or None if it is unknown."""
        return None if self.loader.size is None else (self.epochs - epoch) * self.loader.size - done

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Return the training batches of an epoch from index `start`, with their places in the optimizer steps."""
        return self._placed(self.loader.batches(epoch, start), start, self.size(epoch))

    def side_pass(self, loader: ResumableLoader, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an additional pass over the data during an epoch."""
        return loader.batches(epoch)

    def cut(self, epoch: int) -> None:
        """End an epoch after the last batch that was used; the next epoch begins there."""

    def close(self) -> None:
        """Release the iterator over the data, with its worker processes."""

    # ---- optimizer steps --------------------------------------------------------------------------------------------

    def _steps_of_pass(self, batches: int) -> int:
        return -(-batches // self.accumulate)

    def _window(self, index: int, size: int) -> range:
        """Return the indices of the micro-batches of the step of batch `index`, in an epoch of `size` batches."""
        first = index - index % self.accumulate
        return range(first, min(first + self.accumulate, size))

    def _placed(self, items: Iterator[Batch], start: int, size: int | None) -> Iterator[Batch]:
        """Yield the batches of an epoch with the fields that depend on their index."""
        if self.loader.size is None and self.accumulate > 1:
            yield from self._drawn_steps(items, start)
            return
        for index, batch in enumerate(items, start):
            batch.index = batch.first_microbatch = index
            if self.accumulate > 1:
                assert size is not None
                window = self._window(index, size)
                batch.first_microbatch, batch.microbatches = window[0], len(window)
                batch.is_last_microbatch = index == window[-1]
            yield batch

    def _drawn_steps(self, items: Iterator[Batch], start: int) -> Iterator[Batch]:
        """Yield `items`, drawn one step at a time: without a length, only their iterator ends the last step."""
        index = start
        while window := list(islice(items, self.accumulate - index % self.accumulate)):
            first, last = index - index % self.accumulate, index + len(window)
            for batch in window:
                batch.index, batch.first_microbatch, batch.microbatches = index, first, last - first
                batch.is_last_microbatch = batch is window[-1]
                yield batch
                index += 1

    # ---- state ------------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Return the settings of the plan that are compared on resume."""
        return {}

    def fixed_settings(self, progress: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the settings that must not change at a saved position, even with `override`."""
        return (*DATA_SETTINGS, "accumulate", "metrics") if progress["position"][1] else ()

    def state_dict(self, position: tuple[int, int]) -> dict[str, Any] | None:
        """Return the state at a position; None for epochs that are passes, whose state is the position."""
        return None

    def rewind(self, state: dict[str, Any], epoch: int, batch: int) -> None:
        """Change a state that was taken within an optimizer step to the state before the step, at (epoch, batch)."""
        state["progress"]["position"] = [epoch, batch]

    def check_position(self, progress: Mapping[str, Any]) -> None:
        """Check that the parts of a saved position agree.

        Raises:
            SchemaError: If they do not.
        """

    def check_progress(self, progress: Mapping[str, Any]) -> None:
        """Check that the fit can continue from the saved progress.

        Raises:
            RunError: If the epochs of the checkpoint have a different unit, or exceed those of this fit.
        """
        if progress.get("interval") is not None:
            raise RunError(
                f"fit: {progress['interval']['by']} and evaluate_every must be those of the checkpoint, whose fit is "
                f"evaluated every {progress['interval']['every']} steps; got only epochs."
            )
        epoch, batch = progress["position"]
        if epoch + bool(batch) > self.epochs:
            within = f" and {batch} batches of the next" if batch else ""
            raise RunError(
                f"fit: epochs must be at least those of the checkpoint, {epoch} finished epochs{within}, got "
                f"{self.epochs}."
            )
