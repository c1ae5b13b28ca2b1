"""Worker of test_watching_distributed.py for one rank; `watch_worker.py RANK WORLD FOLDER PATTERN` runs the checks."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from distributed_checks import run_checks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import dashpot as dp
from dashpot.watching import Watcher, ranks, watch
from dashpot.watching.probe import Probe

STEPS = 12
CHEAP = ("pulse", "norms")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def sharded() -> nn.Module:
    model = network()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def batch(step: int, whole: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch of a step: all examples, or those of this rank."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 5, generator=generator).double(), torch.randn(8, 3, generator=generator).double()
    own = slice(None) if whole else slice(dist.get_rank(), None, dist.get_world_size())
    return x[own], y[own]


def train(model: nn.Module, watcher: Watcher | None, optimizer: Any, whole: bool = False) -> None:
    for step in range(STEPS):
        x, y = batch(step, whole)

        def loss_of(first: int = 0, last: int | None = None, x: Any = x, y: Any = y) -> torch.Tensor:
            return (model(x[first:last]) - y[first:last]).square().mean()

        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if watcher is not None:
            watcher.observe(loss, closure=loss_of, sliced=loss_of, size=8, examples=len(x))
        optimizer.step()


def watched(model: nn.Module, kinds: tuple[str, ...] | None, **options: Any) -> tuple[Watcher, Any]:
    optimizer = dp.AdamW(model.parameters(), lr=0.05)
    watcher = watch(optimizer, model, budget=options.get("budget", 1.0))
    watcher.probes[:] = [probe for probe in watcher.probes if kinds is None or probe.kind in kinds]
    for probe in watcher.probes:
        probe.every = min(probe.every, 2)
    return watcher, optimizer


def full(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]


def rows_of_one_process() -> list[dict[str, Any]]:
    """Return the rows of norms of a run on all examples in this process alone, without communication."""
    model = network()
    watcher, optimizer = watched(model, CHEAP)
    watcher.ranks.world = 1
    train(model, watcher, optimizer, whole=True)
    return watcher.record.rows("norms").rows


def gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def assert_close(a: Any, b: Any) -> None:
    """Compare nested rows, without the losses of the batches; sums over shards have a different order."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"loss"}:
            assert_close(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
    else:
        assert a == b or math.isclose(a, b, rel_tol=1e-6), (a, b)


def norms_are_those_of_one_process(kind: str) -> None:
    model = sharded() if kind == "fsdp" else DistributedDataParallel(network())
    watcher, optimizer = watched(model, CHEAP)
    train(model, watcher, optimizer)
    rows = watcher.record.rows("norms").rows
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1, 2))
    assert_close(rows, rows_of_one_process())
    [own, other] = gathered([{**row, "loss": None} for row in rows])
    assert own == other
    pulses = watcher.record.rows("pulse").rows
    assert [row["step"] for row in pulses] == list(range(1, STEPS + 1))
    assert list(pulses[-1]["tensors"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def all_measurements_change_nothing(kind: str) -> None:
    make = sharded if kind == "fsdp" else lambda: DistributedDataParallel(network())
    model, other = make(), make()
    watcher, optimizer = watched(model, None)
    train(model, watcher, optimizer)
    train(other, None, dp.AdamW(other.parameters(), lr=0.05))
    for a, b in zip(full(model), full(other), strict=True):
        assert torch.equal(a, b)
    assert len(watcher.record.rows("norms")) == STEPS // 2
    kinds = {name: [row["step"] for row in rows] for name, rows in watcher.record.series.items()}
    [first, second] = gathered(kinds)
    assert first == second
    failed = [row["reason"] for rows in watcher.record.series.values() for row in rows if row.get("reason")]
    assert not [reason for reason in failed if "Error" in reason], failed


def time_decides_alike_on_all_ranks() -> None:
    """Each rank affords measurements at other steps; all measure at the steps that all afford."""

    class Summing(Probe):
        kind = "summing"
        every = 1

        def before_step(self, watcher: Watcher, moment: Any) -> None:
            total = torch.ones(1)
            dist.all_reduce(total)
            watcher.record.add(self.kind, {"step": moment.step, "total": total.item()})

    model = DistributedDataParallel(network())
    watcher, optimizer = watched(model, (), budget=0.5)
    watcher.probes.append(Summing())
    offset = dist.get_rank()
    watcher.budget.affords = lambda kind, prior=0.0: (watcher.step + offset) % 3 != 0  # pyright: ignore
    train(model, watcher, optimizer)
    [first, second] = gathered([row["step"] for row in watcher.record.rows("summing")])
    assert first == second == [step for step in range(1, STEPS + 1) if step % 3 and (step + 1) % 3]


def one_watching_rank_does_not_wait_for_others(kind: str) -> None:
    patience, ranks._PATIENCE = ranks._PATIENCE, timedelta(seconds=0.2)
    try:
        model = sharded() if kind == "fsdp" else DistributedDataParallel(network())
        if dist.get_rank() == 0:
            watcher, optimizer = watched(model, None)
            train(model, watcher, optimizer)
            reason = "Not all of the 2 ranks watch the run; call watch on all of them."
            assert watcher.status()["notes"][0] == reason
            row = watcher.record.rows("norms").last
            assert row is not None
            for communicating in ("noise", "curvature", "temperature"):
                assert [row["reason"] for row in watcher.record.rows(communicating)] == [reason]
            if kind == "fsdp":
                assert row["reason"] == f"The parameters are sharded. {reason}"
            else:
                assert row["grad"] > 0
        else:
            next(ranks._counter)  # keep the numbers of later watchers equal on all ranks
            train(model, None, dp.AdamW(model.parameters(), lr=0.05))
    finally:
        ranks._PATIENCE = patience


def main() -> None:
    checks: dict[str, Any] = {"time_decides_alike_on_all_ranks": time_decides_alike_on_all_ranks}
    for check in (
        norms_are_those_of_one_process,
        all_measurements_change_nothing,
        one_watching_rank_does_not_wait_for_others,
    ):
        for kind in ("ddp", "fsdp"):
            checks[f"{check.__name__}[{kind}]"] = lambda check=check, kind=kind: check(kind)
    run_checks(checks)


if __name__ == "__main__":
    main()
