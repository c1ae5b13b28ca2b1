"""Additional passes over the data, after which the learner and the RNG and loader states are restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parameter import is_lazy

from dashpot.errors import ArgumentError
from dashpot.training.loader import ResumableLoader
from dashpot.training.state.replay_check import ReplayCheck
from dashpot.utils.rng_state import preserve_rng_state

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


def release_output(learner: Learner) -> None:
    """Free the output and the loss of the current batch, if any, so that they do not occupy memory in other passes."""
    batch = getattr(learner, "batch", None)
    if batch is not None:
        batch.output = batch.loss = None


@contextmanager
def restored_attributes(learner: Learner, *, unwrapped: bool = False) -> Iterator[None]:
    """Restore the attributes of the learner on exit.

    With `unwrapped`, the learner calls the model without the wrapper of the engine inside the block, so that ranks do
    not communicate.
    """
    saved = dict(vars(learner))
    if unwrapped:
        learner._module = learner.model
    try:
        yield
    finally:
        vars(learner).clear()
        vars(learner).update(saved)


@contextmanager
def side_pass(loader: ResumableLoader) -> Iterator[None]:
    """Restore the loader and all random generators on exit, so that the fit is unaffected. All ranks must call it."""
    state, check = loader.state_dict(), loader.replay_check
    loader.replay_check = ReplayCheck(check.owner, check.engine, check.same_on_all_ranks)
    with preserve_rng_state():
        try:
            yield
        finally:
            loader.load_state_dict(state)
            loader.replay_check = check


def check_initialized(model: nn.Module, owner: str) -> None:
    """Check that a model has no uninitialized lazy parameters or buffers.

    Raises:
        ArgumentError: If the model has uninitialized lazy parameters or buffers.
    """
    lazy = next((name for name, value in [*model.named_parameters(), *model.named_buffers()] if is_lazy(value)), None)
    if lazy is not None:
        raise ArgumentError(f"{owner}: {lazy} of the model must be initialized; run a batch through the model first.")


def reshard(model: nn.Module) -> None:
    """Free the unsharded parameters that FSDP2 keeps, and would reuse, after an evaluation or an interrupted step."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # pyright: ignore[reportCallIssue]
