"""Models, data, training and comparison for the distributed curvature checks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import dashpot as dp
from dashpot.engine import dtensor

SAME = 1e-10
"""Tolerance in float64 over LONG_RUN steps: the order of sums differs, which small denominators amplify."""
STEPS, EVERY, WARMUP = 5, 3, 2
PRODUCTS = 3
"""Products are computed at the steps 0, 1, 4."""
LONG_RUN = 8
"""Steps with one product more, at step 7."""
BATCH = 4
"""Number of examples per process and step."""
WORKER: dict[Any, Any] = {}
SMALL_NOISE: dict[str, Any] = {"relative_step": 1e-3}
"""Of differences: the noise u/e of a product is 1e-13, and what is truncated is the same in both runs. Measured over 11
steps: 2e-13 at most; with the default step, 5e-6, it is 5e-11."""

METHODS: dict[str, Callable[..., Any]] = {
    "ESGD-1": lambda params, **options: dp.ESGD(params, lr=0.1, lr_warmup=0.5, eps=0.1, weight_decay=0.01, **options),
    "ESGD-2": lambda params, **options: dp.ESGD(
        params, lr=0.1, betas=(0.9, 0.99), lr_warmup=0.5, eps=0.1, version=2, **options
    ),
    "AdaHessian": lambda params, **options: dp.AdaHessian(params, lr=0.05, eps=0.1, **options),
    "Sophia": lambda params, **options: dp.Sophia(params, lr=0.01, gamma=1.0, eps=0.01, **options),
}
ROUTES = ("backward", "step", "curvature_step", "forward", "differences")


# ---- models and data -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Model for two ranks with uneven rows (3, 5, 3), a single row and empty shards; it is smooth, so that H exists."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(1, 3, 2), nn.Linear(12, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.tanh(self.conv(x)).flatten(1))))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def batch(step: int, whole: bool) -> tuple[Tensor, Tensor]:
    """Return the examples of all ranks if `whole`, otherwise those of this rank; all ranks have equal shares."""
    generator = torch.Generator().manual_seed(1000 + step)
    count = BATCH * dist.get_world_size()
    x = torch.randn(count, 1, 3, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(count, generator=generator, dtype=torch.float64)
    here = slice(None) if whole else slice(BATCH * dist.get_rank(), BATCH * (dist.get_rank() + 1))
    return x[here], y[here]


def loss_of(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return (model(x)[:, 0] - y).square().mean()


def alone() -> Any:
    """Return a process group that contains only this rank, for optimizers without communication."""
    groups = WORKER.setdefault("alone", [dist.new_group([r]) for r in range(dist.get_world_size())])
    return groups[dist.get_rank()]


def line() -> Any:
    return WORKER.setdefault("mesh", init_device_mesh("cpu", (dist.get_world_size(),)))


# ---- training --------------------------------------------------------------------------------------------------------


def parts(data: tuple[Tensor, Tensor], micro: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data[0].chunk(micro), data[1].chunk(micro), strict=True))


def passes(model: nn.Module, data: tuple[Tensor, Tensor], micro: int, backward: Callable[[Tensor], None]) -> Tensor:
    """Run all micro-batches, with DDP communication only in the last one, and return the mean loss."""
    total = torch.zeros((), dtype=torch.float64)
    for number, part in enumerate(parts(data, micro)):
        ddp = isinstance(model, DistributedDataParallel) and number < micro - 1
        with model.no_sync() if ddp else contextlib.nullcontext():  # pyright: ignore[reportCallIssue]
            loss = loss_of(model, part) / micro
            backward(loss)
        total += loss.detach()
    return total


def plainly(loss: Tensor) -> None:
    loss.backward()


def train(
    model: nn.Module,
    opt: Any,
    way: str,
    *,
    whole: bool,
    micro: int = 1,
    first: int = 0,
    steps: int = STEPS,
    loss_of_batch: Callable[..., Tensor] = passes,
) -> None:
    for step in range(first, first + steps):
        data = batch(step, whole)

        def closure(data: Any = data) -> Tensor:
            opt.zero_grad()
            return loss_of_batch(model, data, micro, plainly)

        if way in ("step", "forward", "differences"):
            opt.step(closure)
            continue
        due = opt.should_create_graph()
        if way == "backward":
            loss_of_batch(model, data, micro, opt.backward)
        else:  # the product is computed before the gradients, or between the gradients and the step
            others = batch(500 + step, whole)
            if due and step % 2:
                opt.curvature_step(lambda others=others: loss_of(model, others))
            loss_of_batch(model, data, micro, plainly)
            if due and step % 2 == 0:
                opt.curvature_step(lambda others=others: loss_of_batch(model, others, micro, plainly))
        opt.step()
        opt.zero_grad()


def probe_of(way: str) -> str:
    return way if way in ("forward", "differences") else "auto"


def make(name: str, params: Any, **options: Any) -> Any:
    return METHODS[name](params, **{"update_d_every": EVERY, "d_warmup": WARMUP, **options})


def reference(name: str, way: str = "step", steps: int = STEPS, **options: Any) -> tuple[Net, Any]:
    """Return (model, optimizer) of a single-process run on the global batches."""
    key = ("reference", name, way, steps, *sorted(options.items()))
    if key not in WORKER:
        model = net()
        opt = make(name, model.parameters(), process_group=alone(), **{"probe": probe_of(way), **options})
        train(model, opt, way, whole=True, steps=steps)
        WORKER[key] = model, opt
    return WORKER[key]


# ---- comparing -------------------------------------------------------------------------------------------------------


def full(x: Any) -> Tensor:
    return x.detach().full_tensor() if dtensor.is_dtensor(x) else x.detach()


def assert_equal_everywhere(x: Tensor) -> None:
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    assert all(torch.equal(other, x) for other in found), found


def everything(model: nn.Module, opt: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield weights and state by name."""
    for name, p in model.named_parameters():
        yield name, full(p)
        for key, value in opt.state[p].items():
            yield f"{name}.{key}", full(value)


def furthest(model: nn.Module, opt: Any, other: nn.Module, expected: Any) -> float:
    """Return the largest |difference|/(1 + |value|) of weights and state; check equality on all ranks."""
    mine, theirs = dict(everything(model, opt)), dict(everything(other, expected))
    largest = 0.0
    for (name, a), (same, b) in zip(mine.items(), theirs.items(), strict=True):
        assert name.removeprefix("module.") == same.removeprefix("module.")
        assert a.shape == b.shape, name
        assert_equal_everywhere(a)
        largest = max([largest, *((a - b).abs() / (1 + b.abs())).flatten().tolist()])
    assert opt.curvature_stats[2:4] == expected.curvature_stats[2:4], (opt.curvature_stats, expected.curvature_stats)
    assert opt.steps_done() == expected.steps_done()
    return largest


def assert_same(model: nn.Module, opt: Any, other: nn.Module, expected: Any, tolerance: float = SAME) -> None:
    largest = furthest(model, opt, other, expected)
    assert largest <= tolerance, largest


def assert_unmoved(model: nn.Module) -> None:
    for p, q in zip(model.parameters(), net().parameters(), strict=True):
        assert torch.equal(full(p), q)


def moved(model: nn.Module) -> None:
    """Check that the run changed the weights."""
    for p, q in zip(model.parameters(), net().parameters(), strict=True):
        assert (full(p) - q).abs().max() > 1e-6


def refused(kind: type[BaseException], text: str, act: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        act()
