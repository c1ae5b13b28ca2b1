"""States of all global random number generators, represented as plain data and tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the current generator states of torch (all devices), Python and NumPy.

    >>> before = random_state()
    >>> drawn = torch.rand(1), random.random(), np.random.rand()
    >>> set_random_state(before)
    >>> drawn == (torch.rand(1), random.random(), np.random.rand())
    True
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state(legacy=True))
    return {
        "torch": torch.get_rng_state(),
        "devices": _device_states(),
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the generator states returned by `random_state`."""
    torch.set_rng_state(state["torch"])
    _set_device_states(state["devices"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def seed_all(seed: int) -> None:
    """Seed the generators of torch, Python and NumPy with `seed`, an integer in [0, 2**32 - 1]."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # faster: torch.manual_seed formats the stack per accelerator type
    random.seed(seed)
    np.random.seed(seed)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore all generator states on exit.

    >>> with preserve_rng_state():
    ...     seed_all(3)
    ...     first = torch.rand(1), random.random()
    >>> with preserve_rng_state():
    ...     seed_all(3)
    ...     first == (torch.rand(1), random.random())
    True
    """
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


class OwnGenerators:
    """States of the CPU generators of torch, Python and NumPy that apply only within `with` statements.

    Args:
        seed: Seed of the states, an integer in [0, 2**32 - 1].

    >>> own = OwnGenerators(3)
    >>> with own:
    ...     first = random.random()
    >>> drawn = random.random()
    >>> with own:
    ...     second = random.random()
    >>> random.seed(3)
    >>> (first, second) == (random.random(), random.random())
    True
    """

    def __init__(self, seed: int) -> None:
        with _preserve_cpu_generators():
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            self._own = _cpu_states()

    def __enter__(self) -> None:
        self._outer = _cpu_states()
        _set_cpu_states(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = _cpu_states()
        _set_cpu_states(self._outer)


@contextmanager
def _preserve_cpu_generators() -> Iterator[None]:
    """Restore the states of the CPU generators on exit, without a host sync."""
    before = _cpu_states()
    try:
        yield
    finally:
        _set_cpu_states(before)


def _cpu_states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)


def _set_cpu_states(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


def _device_states() -> dict[str, list[torch.Tensor]]:
    """Return the generator states of the available accelerators, by device type."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return {}
    module = torch.get_device_module(kind)
    every = getattr(module, "get_rng_state_all", None)
    return {kind.type: [module.get_rng_state()] if every is None else every()}


def _set_device_states(states: Mapping[str, list[torch.Tensor]]) -> None:
    """Restore the generator states of accelerators; ignore devices that are not available on this machine."""
    for kind, words in states.items():
        there = torch.accelerator.current_accelerator(check_available=True)
        if there is None or there.type != kind:
            continue
        module = torch.get_device_module(kind)
        if not hasattr(module, "set_rng_state_all"):
            module.set_rng_state(words[0])
            continue
        for device, state in enumerate(words[: module.device_count()]):
            module.set_rng_state(state, device)
