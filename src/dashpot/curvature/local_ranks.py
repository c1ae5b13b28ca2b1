"""Additional evaluations of a model on one rank: without collectives, and without side effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dashpot.curvature.accumulated import is_multiprocess
from dashpot.curvature.state_guards import RngSnapshot, module_pre_hook, preserve_buffers, without_compilation

_FLAGS = ("require_backward_grad_sync", "require_forward_param_sync")


@contextmanager
def without_reductions() -> Iterator[None]:
    """Disable the synchronization of gradients and buffers of DDP modules that are called inside, as `no_sync` does."""
    if not is_multiprocess(None):
        yield
        return
    kept: dict[Any, dict[str, bool]] = {}

    def before(module: nn.Module, _: Any) -> None:
        if isinstance(module, DistributedDataParallel):
            kept.setdefault(module, {name: getattr(module, name) for name in _FLAGS})
            for name in _FLAGS:
                setattr(module, name, False)

    try:
        with module_pre_hook(before):
            yield
    finally:
        for module, flags in kept.items():
            for name, value in flags.items():
                setattr(module, name, value)


@contextmanager
def side_evaluation(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Restore buffers and random states on exit, and run models eagerly and without reductions between ranks.

    Args:
        tensors: Tensors on the devices whose random states are restored.
    """
    random = RngSnapshot(tensors)
    try:
        with without_compilation(), preserve_buffers(), without_reductions():
            yield
    finally:
        random.restore()
