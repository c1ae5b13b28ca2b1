"""Learners for the distributed checks, and comparisons of their results."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.tasks import Problem, accuracy
from dashpot.training import Callback, CancelFit, Engine, Learner

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Tolerance per step for means whose examples are summed in a different order."""
EXAMPLES, BATCH_SIZE = 11, 5
"""Examples and batch size. Rank 0 gets 3, 3 and 1 examples of the batches of 5, 5 and 1; rank 1 gets 2, 2 and 0."""
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
PRODUCTS: dict[str, Any] = {
    "ESGD-1": partial(dp.ESGD, lr=0.1, lr_warmup=0.5, eps=0.1, update_d_every=2, d_warmup=1),
    "ESGD-2": partial(dp.ESGD, lr=0.1, betas=(0.9, 0.99), lr_warmup=0.5, eps=0.1, version=2, d_warmup=2),
    "AdaHessian": partial(dp.AdaHessian, lr=0.05, eps=0.1, update_d_every=2),
    "Sophia": partial(dp.Sophia, lr=0.01, gamma=1.0, eps=0.01, update_d_every=2),
}
"""Second-order methods, by name."""
_GROUPS: list[Any] = []


@contextlib.contextmanager
def without_launcher():
    """Remove the environment variables of the launcher inside the block."""
    saved = {name: os.environ.pop(name) for name in LAUNCHER}
    try:
        yield
    finally:
        os.environ.update(saved)


def engine(strategy: str | None, **options: Any) -> Engine:
    """Create an engine over all processes, or over this process only if the strategy is None."""
    with contextlib.nullcontext() if strategy else without_launcher():
        return Engine("cpu", strategy=strategy or "auto", **options)


def own_group() -> Any:
    """Return a process group that contains only this rank."""
    if not _GROUPS:
        _GROUPS.extend(dist.new_group([rank]) for rank in range(dist.get_world_size()))
    return _GROUPS[dist.get_rank()]


def network(dtype: torch.dtype, noisy: bool = False, seed: int = 0) -> nn.Module:
    """Return a network whose rows cannot be sharded evenly; `noisy` adds batch norm and dropout, which vary by rank."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.BatchNorm1d(7), nn.Dropout(0.3)] if noisy else []
        return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), *layers, nn.Linear(7, 3)).to(dtype)


def data(dtype: torch.dtype, examples: int = EXAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (examples,), generator=generator)


def problem(
    dtype: torch.dtype = torch.float32, noisy: bool = False, seed: int = 0, examples: int = EXAMPLES
) -> Problem:
    x, y = data(dtype, examples)
    return Problem(
        model=network(dtype, noisy, seed),
        train=Batches(x, y, BATCH_SIZE, shuffle=True, seed=0),
        evaluation=Batches(x, y, BATCH_SIZE - 1),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
    )


class AccumulateBatches(Callback):
    """Accumulate the gradients of `batches` micro-batches per step."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def before_fit(self, learner):
        learner.loop.accumulate = self.batches


class StopAt(Callback):
    """Copy the state after `batches` training batches, and cancel the fit."""

    order = 1000

    def __init__(self, batches: int) -> None:
        self.batches, self.state = batches, None

    def after_batch(self, learner):
        epoch, batch = learner.loop.position
        if learner.training and epoch * len(learner.train) + batch == self.batches:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["callbacks"].pop("StopAt", None)
            raise CancelFit


def learner(
    make: Any, strategy: str | None, accumulate: int = 1, custom: Problem | None = None, **options: Any
) -> Learner:
    precision = options.pop("precision", "fp32")
    callbacks = [AccumulateBatches(accumulate)] if accumulate > 1 else []
    made = problem(**options) if custom is None else custom
    return Learner.of(made, make, callbacks=callbacks, engine=engine(strategy, precision=precision))


def state_of_rank_zero(state: Any) -> Any:
    """Return the state that rank 0 would read from its file."""
    return engine("ddp").broadcast(state)


def full_tensor(x: Any) -> torch.Tensor:
    return x.detach().full_tensor() if hasattr(x, "full_tensor") else x.detach()


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: full_tensor(value).clone() for name, value in learner.model.state_dict().items()}


def history_values(history: list[Any]) -> list[float]:
    return [value for epoch in history for phase in sorted(epoch) for value in epoch[phase].values()]


def assert_same(actual: Learner, expected: Learner, tolerance: float) -> None:
    """Check that weights, optimizer state and history agree."""
    limits = {"rtol": tolerance, "atol": tolerance}
    assert_equal_on_all_ranks(actual)
    torch.testing.assert_close(weights(actual), weights(expected), **limits)
    assert actual.opt is not None
    assert expected.opt is not None
    for p, q in zip(actual.model.parameters(), expected.model.parameters(), strict=True):
        assert actual.opt.state[p].keys() == expected.opt.state[q].keys()
        for key, value in actual.opt.state[p].items():
            wanted = full_tensor(expected.opt.state[q][key])
            scale = max(1.0, float(wanted.abs().max()))  # a momentum of g/sqrt(v) is ten times as large as g
            torch.testing.assert_close(
                full_tensor(value) / scale, wanted / scale, **limits, msg=partial("{}: {}".format, key)
            )
    assert actual.steps == expected.steps
    torch.testing.assert_close(history_values(actual.history), history_values(expected.history), **limits)
    assert history_values(actual.history)


def assert_equal_on_all_ranks(learner: Learner) -> None:
    """Check that weights and history are bit-identical on all ranks."""
    for name, value in weights(learner).items():
        gathered = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, value.contiguous())
        assert all(torch.equal(other, value) for other in gathered), name
    if learner.engine.world_size > 1:
        histories = learner.engine.all_gather(history_values(learner.history))
        assert all(other == histories[0] for other in histories)


def assert_trained(learner: Learner) -> None:
    """Check that every weight has changed, so that a comparison is not vacuous."""
    for name, value in network(torch.float64).state_dict().items():
        assert not torch.equal(weights(learner)[name].double(), value), name


def assert_raises(kind: type[BaseException], text: str, function: Any) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        function()
