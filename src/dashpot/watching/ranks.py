"""The ranks of a distributed run, which must measure at the same steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dashpot._torch_private import default_store

_PATIENCE = timedelta(seconds=10)
_counter = itertools.count()


class Ranks:
    """The ranks that watch the same run.

    Each rank registers in the store of the default process group. At the first step, which follows a synchronization of
    the gradients, all registrations must exist; otherwise only some ranks watch, and none of them may communicate.

    Attributes:
        world: Number of ranks of the run.
        reason: Reason why the ranks cannot measure together, or None.
    """

    def __init__(self) -> None:
        self.world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.reason: str | None = None
        self._joined = self.world == 1
        self._keys: list[str] = []
        self._store: Any = None
        if self.world > 1:
            number, self._store = next(_counter), default_store()
            self._keys = [f"dashpot.watch/{number}/{rank}" for rank in range(self.world)]
            self._store.set(self._keys[dist.get_rank()], "1")

    @property
    def together(self) -> bool:
        """Whether there are several ranks and all of them watch."""
        return self.world > 1 and self._joined and self.reason is None

    def join(self) -> None:
        """Check once that all ranks have registered."""
        if self._joined:
            return
        self._joined = True
        try:
            self._store.wait(self._keys, _PATIENCE)
        except Exception:  # the class depends on the store
            self.reason = f"Not all of the {self.world} ranks watch the run; call watch on all of them."
        self._store = None

    def least(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the elementwise minimum over all ranks that watch together."""
        if not self.together or not values:
            return list(values)
        kept = device if dist.get_backend() == "nccl" else torch.device("cpu")
        x = torch.tensor(values, dtype=torch.float64, device=kept)
        dist.all_reduce(x, dist.ReduceOp.MIN)
        return x.tolist()
