"""Random numbers as pure functions of a key, independent of torch's global generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dashpot.constraints import SEED, check


def generator(*key: int | str) -> torch.Generator:
    """Return a new CPU generator, seeded by `key`.

    Different keys, such as (1, 2) and (12,), give independent streams.

    >>> a, b, c = (torch.rand((), generator=generator("noise", 0, epoch)) for epoch in (3, 3, 4))
    >>> bool(a == b), bool(a == c)
    (True, False)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for the duration of a `with` block, and restore its state afterwards.

    Use this context manager for code that draws from the global generator, such as the initialization of `torch.nn`
    layers. Generators of other devices are not affected: initialize modules on the CPU, then move them to the device.

    Args:
        seed: An integer in [0, 2**32 - 1].

    Raises:
        ArgumentError: If `seed` is out of range.

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
