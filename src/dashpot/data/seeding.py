"""Random numbers that are pure functions of a key and leave torch's global generators as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dashpot.constraints import Interval, check

__all__ = ["SEED", "generator", "seeded"]

SEED = Interval(0, 2**32 - 1, "both", integer=True)
"""The seeds there are: torch's CPU generator reads 32 bits of a seed, so a larger one would repeat a smaller one."""


def generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator whose numbers depend on `key` and on nothing else.

    Keys that differ anywhere give unrelated streams; (1, 2) and (12,) differ.

    >>> a, b, c = (torch.rand((), generator=generator("noise", 0, epoch)) for epoch in (3, 3, 4))
    >>> bool(a == b), bool(a == c)
    (True, False)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block as if `torch.manual_seed(seed)` stood before it, and put the generator back afterwards.

    For code that draws from the global CPU generator, such as the initialisation of `torch.nn` layers. The generators
    of other devices are not touched: build on the CPU, then move.

    Raises:
        ArgumentError: `seed` is not an integer in [0, 2**32 - 1].

    >>> before = torch.get_rng_state()
    >>> with seeded(7):
    ...     first = torch.rand(2)
    >>> with seeded(7):
    ...     again = torch.rand(2)
    >>> bool((first == again).all()), bool((before == torch.get_rng_state()).all())
    (True, True)
    """
    check("seeded", "seed", seed, SEED)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
