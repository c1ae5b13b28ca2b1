"""Replay of data up to a saved position, with a comparison of the last batch before the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from dashpot.errors import RunError
from dashpot.utils.fingerprint import fingerprint, write_counts
from dashpot.utils.rng_state import seed_all

if TYPE_CHECKING:
    from dashpot.training.distributed.engine import Engine

Restart = Callable[[], Iterator[Any]]

CURE = (
    "define state_dict and load_state_dict on the source, use dashpot.data.Batches or another Stream, or pass "
    "override=True to continue with other batches"
)


class ReplayCheck:
    """Replay of a source from the start of an epoch; after a resume, the batches are compared with the saved ones.

    Args:
        owner: Name of the source in error messages, such as "train".
        engine: Processes; a difference on any rank raises an error on all ranks.
        same_on_all_ranks: Whether every rank reads the whole batches; otherwise, parts of batches can be compared only
            with the same number of ranks.
    """

    def __init__(self, owner: str, engine: Engine, same_on_all_ranks: bool) -> None:
        self.owner, self.engine, self.same_on_all_ranks = owner, engine, same_on_all_ranks
        self._last: tuple[int, int, Any, list[int] | None] | None = None  # epoch, index, item and its write counts
        self._expected: tuple[int, int, str] | None = None
        self._saved: dict[str, Any] = {}  # the state of `expect`, until items are read again
        self._resumed = False

    def replay(self, restart: Restart, epoch: int, start: int, source: Any) -> Iterator[Any]:
        """Return the items of an epoch from index `start`.

        In the first call after `expect`, the items must repeat those before the checkpoint: the last one if `start` is
        not 0; otherwise, two iterations must begin with the same item.

        Args:
            restart: Function that restores the state of the start of the epoch, and returns the items of the epoch.
            epoch: Index of the epoch.
            start: Index of the first returned item.
            source: Source of the items.

        Raises:
            RunError: If other items follow than without the interruption.
        """
        resumed, self._resumed = self._resumed, False
        expected, self._expected, self._saved = self._expected, None, {}
        if resumed and not start:
            self._check_restart(restart, source)
        items = restart()
        last = next(islice(items, start - 1, start), None) if start else None
        known = expected is not None and expected[:2] == (epoch, start - 1)
        if expected is not None and known and self.engine.any(fingerprint(last) != expected[2]):
            self._check_dependence_on_generators(restart, epoch, start)
            items = restart()
            next(islice(items, start - 1, start), None)
        return self._watch(items, epoch, start)

    def _watch(self, items: Iterator[Any], epoch: int, start: int) -> Iterator[Any]:
        self._last = None
        for index, item in enumerate(items, start):
            self._last = (epoch, index, item, write_counts(item))
            yield item
        self._last = None

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the fingerprints of the last item, or {} if it does not exist or was changed.

        After `expect`, until items are read, the last item is that of the checkpoint.
        """
        own = None
        if self._last is not None:
            _, _, item, counts = self._last
            own = fingerprint(item) if counts is not None and counts == write_counts(item) else None
        every = self.engine.all_gather(own)[: 1 if self.same_on_all_ranks else None]
        if self._last is None:
            return dict(self._saved)
        if None in every:
            return {}
        return {"last": {"epoch": self._last[0], "batch": self._last[1], "fingerprints": every}}

    def expect(self, state: Mapping[str, Any]) -> None:
        """Compare the next items with `state`, the saved state of the loader."""
        rank, last = self.engine.global_rank, state.get("last")
        self._resumed, self._expected = any(start is not None for start in state["begun"]), None
        self._saved = {}
        if last is not None and len(last["fingerprints"]) == (1 if self.same_on_all_ranks else self.engine.world_size):
            mine = last["fingerprints"][0 if self.same_on_all_ranks else rank]
            self._expected, self._saved = (last["epoch"], last["batch"], mine), {"last": last}

    # ---- comparison -------------------------------------------------------------------------------------------------

    def _check_restart(self, restart: Restart, source: Any) -> None:
        """Check that two iterations from the same state begin with the same item."""
        if isinstance(source, (list, tuple)) or getattr(source, "num_workers", 0):
            return  # workers iterate over copies of the data set
        self._compare(_item(restart, 0), _item(restart, 0))

    def _check_dependence_on_generators(self, restart: Restart, epoch: int, start: int) -> None:
        """Raise an error for an item that differs, unless items depend on the global generators.

        The model draws from these generators too, but it does not draw during the replay.
        """
        if start > 1:
            item = _item(restart, 1)
            self._compare(item, _item(restart, 1))
            if self.engine.any(item != _item(restart, 1, seed=start)):
                return
        raise RunError(
            f"Learner: {self.owner} must repeat the batches before the checkpoint, but batch {start} of epoch "
            f"{epoch + 1} differs: the data have changed, or have state that is not saved; {CURE}."
        )

    def _compare(self, first: str, second: str) -> None:
        if self.engine.any(first != second):
            raise RunError(
                f"Learner: {self.owner} cannot be resumed, because two iterations from the same random states yield "
                f"different batches: the source has state that is not saved; {CURE}."
            )


def _item(restart: Restart, index: int, seed: int | None = None) -> str:
    """Return the fingerprint of an item after a restart; `seed` sets the global generators after the first item."""
    items = restart()
    for _ in range(index):
        next(items, None)
        if seed is not None:
            seed_all(seed)
    return fingerprint(next(items, None))
