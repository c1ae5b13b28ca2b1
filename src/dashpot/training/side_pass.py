"""Work on the training data besides the fit, of which the fit notices nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parameter import is_lazy

from dashpot.errors import ArgumentError
from dashpot.training.loader import ResumableLoader
from dashpot.utils.rng_state import preserve_rng_state

__all__ = ["check_initialized", "reshard", "side_pass"]


@contextmanager
def side_pass(loader: ResumableLoader) -> Iterator[None]:
    """Whatever the block reads of `loader` and draws, the fit goes on with the batches and the noise that it would have
    had; every process has to enter."""
    place = loader.state_dict()
    with preserve_rng_state():
        try:
            yield
        finally:
            loader.load_state_dict(place)


def check_initialized(model: nn.Module, owner: str) -> None:
    """Refuse a model whose lazy layers have no weights yet: there is nothing to copy.

    Raises:
        ArgumentError: it is one.
    """
    lazy = next((name for name, value in [*model.named_parameters(), *model.named_buffers()] if is_lazy(value)), None)
    if lazy is not None:
        raise ArgumentError(f"{owner}: {lazy} of the model has no shape yet; put a batch through the model first.")


def reshard(model: nn.Module) -> None:
    """Make FSDP2 drop whole weights, which it keeps after an evaluation or an interrupted step and would go on with."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # pyright: ignore[reportCallIssue]
