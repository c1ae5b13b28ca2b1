"""What each of two processes does in test_curvature_distributed.py: checks in turn, the outcomes into a JSON file.

Run as a script: `curvature_worker.py RANK WORLD FOLDER fast|slow [CHECK ...]`. A process goes on after a check that
failed in every process alike; where they differ, nobody can tell who waits for whom, and all end.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import dashpot as dp
from dashpot.curvature.draws import draws
from dashpot.engine import mesh

SAME = 1e-10
"""float64 over STEPS steps: means are taken in another order, and a small denominator makes more of it."""
STEPS, EVERY, WARMUP = 12, 3, 2
PRODUCTS = 5
"""Taken at the steps 0, 1, 4, 7, 10."""
BATCH = 4
"""Examples of one process in one step."""
WORKER: dict[str, Any] = {}

METHODS: dict[str, Callable[..., Any]] = {
    "ESGD-1": lambda params, **options: dp.ESGD(params, lr=0.1, lr_warmup=0.5, eps=0.1, weight_decay=0.01, **options),
    "ESGD-2": lambda params, **options: dp.ESGD(
        params, lr=0.1, betas=(0.9, 0.99), lr_warmup=0.5, eps=0.1, version=2, **options
    ),
    "AdaHessian": lambda params, **options: dp.AdaHessian(params, lr=0.05, eps=0.1, **options),
    "Sophia": lambda params, **options: dp.Sophia(params, lr=0.01, gamma=1.0, eps=0.01, **options),
}
ROUTES = ("backward", "step", "curvature_step", "forward", "differences")


# ---- models and data ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Over two processes: uneven rows (3, 5, 3), one row, and the empty pieces beside it. Smooth, so that H exists."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(1, 3, 2), nn.Linear(12, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.tanh(self.conv(x)).flatten(1))))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def batch(step: int, whole: bool) -> tuple[Tensor, Tensor]:
    """The examples of all processes, or those of this one: an equal share, so that the mean is the mean of means."""
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
    """The group of this process only: an optimizer with it does not talk to the others."""
    groups = WORKER.setdefault("alone", [dist.new_group([r]) for r in range(dist.get_world_size())])
    return groups[dist.get_rank()]


def line() -> Any:
    return WORKER.setdefault("mesh", init_device_mesh("cpu", (dist.get_world_size(),)))


# ---- training -------------------------------------------------------------------------------------------------------


def parts(data: tuple[Tensor, Tensor], micro: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data[0].chunk(micro), data[1].chunk(micro), strict=True))


def passes(model: nn.Module, data: tuple[Tensor, Tensor], micro: int, backward: Callable[[Tensor], None]) -> Tensor:
    """Micro-batches, of which DDP communicates at the last only. Returns the mean loss."""
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
        else:  # a product before the gradients, or between them and the step
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
    """(model, optimizer) of a run in this process alone, on the batches of all."""
    key = ("reference", name, way, steps, *sorted(options.items()))
    if key not in WORKER:
        model = net()
        opt = make(name, model.parameters(), process_group=alone(), **{"probe": probe_of(way), **options})
        train(model, opt, way, whole=True, steps=steps)
        WORKER[key] = model, opt
    return WORKER[key]


# ---- comparing ------------------------------------------------------------------------------------------------------


def full(x: Any) -> Tensor:
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()


def assert_equal_everywhere(x: Tensor) -> None:
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    assert all(torch.equal(other, x) for other in found), found


def everything(model: nn.Module, opt: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights and state, by name."""
    for name, p in model.named_parameters():
        yield name, full(p)
        for key, value in opt.state[p].items():
            yield f"{name}.{key}", full(value)


def furthest(model: nn.Module, opt: Any, other: nn.Module, expected: Any) -> float:
    """The largest |difference|/(1 + |value|) in weights and state; all bit-identical between the processes."""
    mine, theirs = dict(everything(model, opt)), dict(everything(other, expected))
    assert mine.keys() == {f"{'module.' if isinstance(model, DistributedDataParallel) else ''}{k}" for k in theirs}
    largest = 0.0
    for (name, a), b in zip(mine.items(), theirs.values(), strict=True):
        assert a.shape == b.shape, name
        assert_equal_everywhere(a)
        largest = max([largest, *((a - b).abs() / (1 + b.abs())).flatten().tolist()])
    assert opt.curvature_stats[2:4] == expected.curvature_stats[2:4], (opt.curvature_stats, expected.curvature_stats)
    assert opt.steps_done() == expected.steps_done()
    return largest


def moved(model: nn.Module) -> None:
    """The run under test did something: no comparison of two runs that stand still."""
    for p, q in zip(model.parameters(), net().parameters(), strict=True):
        assert (full(p) - q).abs().max() > 1e-6


def refused(kind: type[BaseException], text: str, act: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        act()


# ---- DistributedDataParallel ----------------------------------------------------------------------------------------


def ddp_gives_the_numbers_of_one_process(name: str, way: str, micro: int, view: bool, **options: Any) -> float:
    model = DistributedDataParallel(net(), gradient_as_bucket_view=view, **options)
    settings = {"relative_step": 1e-3} if way == "differences" else {}
    opt = make(name, model.parameters(), probe=probe_of(way), **settings)
    train(model, opt, way, whole=False, micro=micro)
    other, expected = reference(name, "step" if way in ("backward", "forward") else way, **settings)
    moved(model)
    assert opt.curvature_stats.products == PRODUCTS
    assert opt.curvature_stats.route == ({"forward": "forward", "differences": "differences"}.get(way, "closure"))
    largest = furthest(model, opt, other, expected)
    assert largest < SAME, largest
    return largest


CHECKS: dict[str, tuple[Any, ...]] = {}
for _name in METHODS:
    for _way in ROUTES:
        for _micro in (1, 2):
            for _view in (False, True):
                CHECKS[f"ddp[{_name}-{_way}-{_micro}-{_view}]"] = (
                    ddp_gives_the_numbers_of_one_process, _name, _way, _micro, _view)
for _way in ROUTES:
    CHECKS[f"ddp_unused[{_way}]"] = (lambda way: ddp_gives_the_numbers_of_one_process("ESGD-1", way, 1, False, find_unused_parameters=True), _way)
    CHECKS[f"ddp_static[{_way}]"] = (lambda way: ddp_gives_the_numbers_of_one_process("ESGD-1", way, 1, False, static_graph=True), _way)


# ---- FSDP2 ----------------------------------------------------------------------------------------------------------


def sharded_net() -> Net:
    model = net()
    for module in (model.conv, model.first, model):
        fully_shard(module, mesh=line())
    return model


def fsdp(name, way, relative):
    model = sharded_net()
    settings = {} if relative is None else {"relative_step": relative}
    opt = make(name, model.parameters(), **settings)
    train(model, opt, way, whole=False)
    other, expected = reference(name, "curvature_step" if way == "curvature_step" else "step", probe="differences", **settings)
    moved(model)
    assert opt.curvature_stats.route == "differences"
    largest = furthest(model, opt, other, expected)
    return largest


for _name in METHODS:
    for _way in ("step", "curvature_step"):
        for _rel in (None, 1e-4, 1e-3, 1e-2):
            CHECKS[f"fsdp[{_name}-{_way}-{_rel}]"] = (fsdp, _name, _way, _rel)


def x_create_graph(view):
    model = DistributedDataParallel(net(), gradient_as_bucket_view=view)
    opt = make("ESGD-1", model.parameters())
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        loss_of(model, batch(0, False)).backward(create_graph=True)
    print([str(x.message)[:300] for x in w], [p.grad.requires_grad for p in model.parameters()])
    opt.step()

def x_stale():
    model = sharded_net()
    opt = make("ESGD-1", model.parameters(), relative_step=1e-3)
    other = net(); expected = make("ESGD-1", other.parameters(), process_group=alone(), probe="differences", relative_step=1e-3)
    x = batch(0, False); y = batch(0, True)
    with torch.no_grad(): loss_of(model, x)
    opt.curvature_step(lambda: loss_of(model, x))
    expected.curvature_step(lambda: loss_of(other, y))
    for (n, p), q in zip(model.named_parameters(), other.parameters()):
        a, b = opt._settled.held[p], expected._settled.held[q]
        b = b[:a.shape[0]] if dist.get_rank() == 0 else b[-a.shape[0]:] if a.shape[0] else b[:0]
        print(dist.get_rank(), n, (a.norm() / b.norm()).item(), (a - b).abs().max().item() if a.numel() else None)

def x_micro(lazy):
    model = sharded_net()
    opt = make("ESGD-1", model.parameters(), relative_step=1e-3)
    def sums(model, data, micro, backward):
        total = torch.zeros((), dtype=torch.float64)
        for number, part in enumerate(parts(data, micro)):
            if lazy: model.set_requires_gradient_sync(number == micro - 1)
            loss = loss_of(model, part) / micro
            backward(loss)
            total += loss.detach()
        return total
    for way in ("step", "curvature_step"):
        model = sharded_net()
        opt = make("ESGD-1", model.parameters(), relative_step=1e-3)
        train(model, opt, way, whole=False, micro=2, loss_of_batch=sums)
        other, expected = reference("ESGD-1", way, probe="differences", relative_step=1e-3)
        r = furthest(model, opt, other, expected)
        print(way, r)

def x_replicate(kinds, inputs):
    other = net()
    model = net()
    def part(name, module, mesh_):
        for n, p in list(module.named_parameters(recurse=False)):
            module.register_parameter(n, nn.Parameter(distribute_tensor(p.detach(), line(), [Replicate() if kinds == "replicate" else Shard(0)])))
    first = nn.Linear(12, 5).double(); last = nn.Linear(5, 1).double()
    a, b = nn.Sequential(copy.deepcopy(first), nn.Tanh(), copy.deepcopy(last)), nn.Sequential(first, nn.Tanh(), last)
    for m in a: part("", m, line())
    opt = make("ESGD-1", a.parameters(), relative_step=1e-3)
    expected = make("ESGD-1", b.parameters(), process_group=alone(), probe="differences", relative_step=1e-3)
    def data(k):
        g = torch.Generator().manual_seed(k)
        return torch.randn(8, 12, generator=g, dtype=torch.float64)
    def dloss(k):
        x = distribute_tensor(data(k), line(), [Shard(0) if inputs == "shard" else Replicate()])
        return (a(x) * a(x)).mean()
    for k in range(6):
        def ca():
            opt.zero_grad(); l = dloss(k); l.backward(); return l
        def cb():
            expected.zero_grad(); l = b(data(k)).square().mean(); l.backward(); return l
        opt.step(ca); expected.step(cb)
        if k == 0: print([p.grad.placements for p in a.parameters()])
    print(max((full(p) - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters())))

def x_window():
    q = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    out = []
    for where in (None, [Shard(0)], [Shard(1)], [Shard(2)], [Replicate()]):
        p = nn.Parameter(q.clone() if where is None else distribute_tensor(q.clone(), line(), where))
        opt = dp.AdaHessian([p], process_group=alone() , probe=lambda params, probes: [v * (1 + torch.arange(v.numel(), dtype=v.dtype).view_as(v)) if where is None else v * 
             distribute_tensor(1 + torch.arange(q.numel(), dtype=v.dtype).view_as(q), line(), where, src_data_rank=None).to_local() for v in probes])
        p.grad = torch.ones_like(p)
        opt.step()
        out.append(full(opt.state[p]["hess_sq"]))
        print(where, (out[-1] - out[0]).abs().max().item())

for _v in (False, True): CHECKS[f"x_cg{_v}"] = (x_create_graph, _v)
CHECKS["x_stale"] = (x_stale,)
for _l in (True, False): CHECKS[f"x_micro{_l}"] = (x_micro, _l)
for _k in ("replicate", "shard"):
  for _i in ("shard", "replicate"): CHECKS[f"x_rep-{_k}-{_i}"] = (x_replicate, _k, _i)
CHECKS["x_window"] = (x_window,)

def agreed(store: Any, name: str, rank: int, world: int, passed: bool) -> bool:
    """True where the check passed in every process, or failed in every one."""
    store.set(f"{name}-{rank}", str(passed))
    return len({store.get(f"{name}-{r}") for r in range(world)}) == 1


def main(rank: int, world: int, folder: Path, wanted: list[str]) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    warnings.simplefilter("error")
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    outcomes: dict[str, str] = {}
    import time
    for name, (check, *arguments) in CHECKS.items():
        if not any(re.search(w, name) for w in wanted): continue
        t = time.time()
        try:
            measured = check(*arguments)
            outcomes[name] = "passed"
            if rank == 0: print("ok", name, measured, round(time.time() - t, 2), flush=True)
        except BaseException as e:
            outcomes[name] = traceback.format_exc()
            print("FAIL", rank, name, repr(e)[:700], round(time.time() - t, 2), flush=True)
            if "-v" in wanted: traceback.print_exc()
        if not agreed(store, name, rank, world, outcomes[name] == "passed"):
            break
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    if all(outcome == "passed" for outcome in outcomes.values()):
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
