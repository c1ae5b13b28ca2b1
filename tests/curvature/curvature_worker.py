"""What each of two processes does in test_curvature_distributed.py: checks in turn, the outcomes into a JSON file.

Run as a script: `curvature_worker.py RANK WORLD FOLDER PATTERN`, the pattern a regular expression for the names of
the checks. A process goes on after a check that failed in every process; after one that failed in some, nobody can tell
who waits for whom, and all end.
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
from processes import PEER_LIMIT
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import dashpot as dp
from dashpot.curvature.probes import draw_probes
from dashpot.engine import dtensor

SAME = 1e-10
"""float64 over STEPS steps: means are taken in another order, and a small denominator makes more of it."""
STEPS, EVERY, WARMUP = 11, 3, 2
PRODUCTS = 5
"""Taken at the steps 0, 1, 4, 7, 10."""
BATCH = 4
"""Examples of one process in one step."""
WORKER: dict[Any, Any] = {}
SMALL_NOISE: dict[str, Any] = {"relative_step": 1e-3}
"""Of differences: the noise u/e of a product is 1e-13, and what is truncated is the same in both runs. Measured: 2e-13
at most; with the default step, 5e-6, it is 5e-11."""

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
    return x.detach().full_tensor() if dtensor.is_dtensor(x) else x.detach()


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
    """The run under test did something: no comparison of two runs that stand still."""
    for p, q in zip(model.parameters(), net().parameters(), strict=True):
        assert (full(p) - q).abs().max() > 1e-6


def refused(kind: type[BaseException], text: str, act: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        act()


# ---- DistributedDataParallel ----------------------------------------------------------------------------------------


def ddp_net(**options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(net(), **options)


def the_numbers_of_one_process(name: str, way: str, micro: int = 1, **options: Any) -> None:
    model = ddp_net(**options)
    settings: dict[str, Any] = SMALL_NOISE if way == "differences" else {}
    opt = make(name, model.parameters(), probe=probe_of(way), **settings)
    train(model, opt, way, whole=False, micro=micro)
    other, expected = reference(name, "step" if way in ("backward", "forward") else way, **settings)
    moved(model)
    assert opt.curvature_stats.products == PRODUCTS
    assert opt.curvature_stats.route == {"forward": way, "differences": way}.get(way, "closure")
    assert_same(model, opt, other, expected)


def gradients_stay(way: str, view: bool) -> None:
    """`p.grad` after a product is what it was, in the same memory: DDP writes to it in every backward pass."""
    model, other = ddp_net(gradient_as_bucket_view=view), ddp_net(gradient_as_bucket_view=view)
    opt = make("ESGD-1", model.parameters(), probe="differences" if way == "differences" else "auto")
    for step in (3, 4, 0):  # DDP makes its buckets anew after the first pass, and then keeps them
        for its in (model, other):
            its.zero_grad()
            loss_of(its, batch(step, False)).backward()
    places: list[Any] = [p.grad for p in model.parameters()]
    opt.curvature_step(lambda: loss_of(model, batch(1, False)))
    for p, q, place in zip(model.parameters(), other.parameters(), places, strict=True):
        assert p.grad is place
        assert q.grad is not None
        assert torch.equal(place, q.grad)
    loss_of(model, batch(2, False)).backward()  # and adding to it goes on
    loss_of(other, batch(2, False)).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-14, atol=1e-14)


def no_forward_mode(**options: Any) -> None:
    """With these options DDP puts an operation of its own behind the model, which has no forward mode."""
    model = ddp_net(**options)
    opt = make("ESGD-1", model.parameters(), probe="forward")
    text = "has no forward-mode derivative; use probe='differences'"
    refused(dp.CurvatureError, text, lambda: opt.step(lambda: loss_of(model, batch(0, False)).backward()))
    assert not opt.state
    assert_unmoved(model)


def falls_back_everywhere(view: bool) -> None:
    """A model without double backward: "auto" finds out at the first product, and no gradient is counted twice."""

    def attending(model: nn.Module, data: Any, micro: int, backward: Callable[[Tensor], None]) -> Tensor:
        del micro
        word = model(data[0])[:, :, None, None]
        out = nn.functional.scaled_dot_product_attention(word, word, word)  # to itself alone, so examples do not mix
        loss = (out[:, 0, 0, 0] - data[1]).square().mean()
        backward(loss)
        return loss

    model, other = ddp_net(gradient_as_bucket_view=view), net()
    opt = make("ESGD-1", model.parameters(), **SMALL_NOISE)
    expected = make("ESGD-1", other.parameters(), process_group=alone(), probe="differences", **SMALL_NOISE)
    train(model, opt, "step", whole=False, loss_of_batch=attending)
    train(other, expected, "step", whole=True, loss_of_batch=attending)
    route, reason, *_ = opt.curvature_stats
    assert route == "differences"
    assert "has no double backward" in str(reason)
    assert_same(model, opt, other, expected)


def a_graph_of_one_process() -> None:
    """`loss.backward(create_graph=True)`: torch refuses it where DDP communicates; where it does not, we do."""
    model = ddp_net()
    opt = make("ESGD-1", model.parameters())
    text = "use opt.backward(loss), or pass a closure to step."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward", UserWarning)
        with model.no_sync():
            loss_of(model, batch(0, False)).backward(create_graph=True)
    refused(dp.CurvatureError, f"local to one rank; {text}", opt.step)
    opt.zero_grad()
    loss_of(model, batch(0, False)).backward()
    with pytest.raises(dp.CurvatureError, match=re.escape(text)) as found:
        opt.step()
    assert "create_graph" not in str(found.value)  # that way is closed here
    assert not opt.state
    assert_unmoved(model)
    opt.zero_grad()
    train(model, opt, "backward", whole=False)
    assert_same(model, opt, *reference("ESGD-1"))


def not_finite_in_one_process(way: str) -> None:
    """The product of the step 4, of the second process alone; the gradients are finite everywhere."""

    def spoiled(model: nn.Module, data: Any, micro: int, backward: Callable[[Tensor], None]) -> Tensor:
        del micro
        loss, ddp = loss_of(model, data), isinstance(model, DistributedDataParallel)
        its = any(torch.equal(data[0], batch(k, not ddp)[0]) for k in (4, 504))
        if its and (dist.get_rank() == 1 or not ddp):
            w: Any = model.get_parameter("module.last.bias" if ddp else "last.bias")
            loss = loss + ((w - w.detach()).abs() ** 1.5).sum()  # at 0 the slope is 0 and the curvature infinite
        backward(loss)
        return loss

    model, other = ddp_net(), net()
    opt = make("ESGD-1", model.parameters())
    expected = make("ESGD-1", other.parameters(), process_group=alone())
    train(model, opt, way, whole=False, loss_of_batch=spoiled)
    train(other, expected, way, whole=True, loss_of_batch=spoiled)
    assert opt.curvature_stats[2:4] == (PRODUCTS - 1, 1)
    assert_same(model, opt, other, expected)


def resumed(name: str, sharded: bool) -> None:
    """Saved after 6 of 11 steps, two after the last product, into new objects."""
    fresh, way = (sharded_net, "step") if sharded else (ddp_net, "backward")
    through, first, second = fresh(), fresh(), fresh()
    straight, saving, going_on = (make(name, model.parameters()) for model in (through, first, second))
    train(through, straight, way, whole=False)
    train(first, saving, way, whole=False, steps=6)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    going_on.load_state_dict(copy.deepcopy(saving.state_dict()))
    train(second, going_on, way, whole=False, first=6, steps=STEPS - 6)
    assert_same(second, going_on, through, straight, 0.0)


# ---- FSDP2 ----------------------------------------------------------------------------------------------------------


def sharded_net() -> Net:
    """`conv` and `first` gather their weights for themselves, `last` with the whole model."""
    model = net()
    for module in (model.conv, model.first, model):
        fully_shard(module, mesh=line())
    return model


def sharded_numbers_of_one_process(name: str, way: str, relative_step: float | None) -> None:
    model = sharded_net()
    sizes = [dtensor.local(p).shape[0] for p in model.parameters()]
    assert sizes == ([2, 2, 3, 3, 1, 1] if dist.get_rank() == 0 else [1, 1, 2, 2, 0, 0])
    opt = make(name, model.parameters(), relative_step=relative_step)
    train(model, opt, way, whole=False)
    moved(model)
    assert opt.curvature_stats.products == PRODUCTS
    assert opt.curvature_stats.route == "differences"
    other, expected = reference(name, way, probe="differences", relative_step=relative_step)
    # The noise of the default step is some 2e-11 of a product; measured are 2e-12 to 5e-11 after all steps.
    assert_same(model, opt, other, expected, 1e-9 if relative_step is None else SAME)


def late_sums(way: str, lazy: bool) -> None:
    """Micro-batches, `lazy` ones with gradients that are reduced at the last only."""

    def sums(model: Any, data: Any, micro: int, backward: Callable[[Tensor], None]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for number, part in enumerate(parts(data, micro)):
            if lazy:
                model.set_requires_gradient_sync(number == micro - 1)
            loss = loss_of(model, part) / micro
            backward(loss)
            total += loss.detach()
        return total

    model = sharded_net()
    opt = make("ESGD-1", model.parameters(), **SMALL_NOISE)
    train(model, opt, way, whole=False, micro=2, loss_of_batch=sums)
    assert_same(model, opt, *reference("ESGD-1", way, probe="differences", **SMALL_NOISE))


def after_an_evaluation() -> None:
    """A forward pass without a backward pass leaves the root's weights gathered; products need those that moved."""
    model, other = sharded_net(), net()
    opt = make("ESGD-1", model.parameters(), **SMALL_NOISE)
    expected = make("ESGD-1", other.parameters(), process_group=alone(), probe="differences", **SMALL_NOISE)
    for step in range(4):
        for net_, its, whole in ((model, opt, False), (other, expected, True)):
            with torch.no_grad():
                loss_of(net_, batch(step, whole))
            its.curvature_step(lambda net_=net_, whole=whole, step=step: loss_of(net_, batch(step, whole)))
            loss_of(net_, batch(step, whole)).backward()
            its.step()
            its.zero_grad()
    assert_same(model, opt, other, expected)


def pieces_of_the_probes() -> None:
    plain = list(net().parameters())
    ordinals, where, rank = list(range(len(plain))), line(), dist.get_rank()
    for distribution in ("rademacher", "gaussian"):
        whole = draw_probes(distribution, 7, 3, plain, ordinals)
        for found, v, p in zip(
            draw_probes(distribution, 7, 3, list(sharded_net().parameters()), ordinals), whole, plain, strict=True
        ):
            rows = -(-p.shape[0] // dist.get_world_size())  # the first pieces are the larger ones
            assert torch.equal(found, v[rows * rank : rows * (rank + 1)])
        for kind in (Shard(0), Shard(1), Replicate()):
            for p in plain:
                if p.dim() == 1 and kind == Shard(1):
                    continue
                piece = nn.Parameter(distribute_tensor(p.detach(), where, [kind]))
                found = draw_probes(distribution, 7, 3, [piece], [0])
                expected = distribute_tensor(draw_probes(distribution, 7, 3, [p], [0])[0], where, [kind])
                assert torch.equal(found[0], expected.to_local())


def what_is_refused() -> None:
    """Before anything changes; afterwards the way that is named works."""
    model = sharded_net()
    params = list(model.parameters())  # after a forward pass alone the model shows gathered weights in their place

    def loss() -> Tensor:
        return loss_of(model, batch(0, False))

    def closure() -> Tensor:
        value = loss()
        value.backward()
        return value

    for probe in ("closure", "forward", "graph"):
        opt = make("ESGD-1", params, probe=probe)
        text = f"probe={probe!r} does not support sharded parameters"
        refused(dp.CurvatureError, text, lambda opt=opt: opt.curvature_step(closure))
        text = "differences" if probe == "graph" else text
        refused(dp.CurvatureError, text, lambda opt=opt: opt.step(closure))
        text = "closure" if probe == "forward" else "differences"
        refused(dp.CurvatureError, text, lambda opt=opt: opt.backward(loss()))
        assert not opt.state
        opt.zero_grad()
    opt = make("ESGD-1", params)
    refused(dp.CurvatureError, "curvature_step with a closure, which uses differences", lambda: opt.backward(loss()))
    closure()
    refused(dp.CurvatureError, "curvature_step with a closure before the step, which uses differences", opt.step)
    assert not opt.state
    assert_unmoved(model)
    opt.zero_grad()
    train(model, opt, "curvature_step", whole=False)
    assert_same(model, opt, *reference("ESGD-1", "curvature_step", probe="differences"), 1e-9)


# ---- DTensors of other kinds ----------------------------------------------------------------------------------------


def repeated_parameters(divide_batch: bool) -> None:
    """Repeated weights. Where the batch is divided, their gradients come as terms of a sum (`Partial`)."""
    plain = nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    model = copy.deepcopy(plain)
    for module in model:
        for name, p in list(module.named_parameters(recurse=False)):
            whole = [p.detach().clone()]
            dist.broadcast(whole[0], src=0)
            module.register_parameter(name, nn.Parameter(distribute_tensor(whole[0], line(), [Replicate()])))
            getattr(plain[list(model).index(module)], name).data.copy_(whole[0])
    opt = make("ESGD-1", model.parameters(), **SMALL_NOISE)
    expected = make("ESGD-1", plain.parameters(), process_group=alone(), probe="differences", **SMALL_NOISE)

    def closure(its: Any, net_: nn.Module, x: Tensor) -> Tensor:
        its.zero_grad()
        loss = net_(x).square().mean()
        loss.backward()
        return loss

    for step in range(6):
        x = batch(step, True)[0].flatten(1)
        divided = distribute_tensor(x, line(), [Shard(0) if divide_batch else Replicate()])
        opt.step(lambda divided=divided: closure(opt, model, divided))
        grads: list[Any] = [p.grad for p in model.parameters()]
        partial = [g.placements == (Partial(),) for g in grads]
        assert all(partial) if divide_batch else not any(partial)
        expected.step(lambda x=x: closure(expected, plain, x))
    assert_same(model, opt, plain, expected)


def window(where: list[Any] | None) -> tuple[Any, Callable[[], Any]]:
    """(parameter, first step) of AdaHessian on a kernel with a known product, divided in some way."""
    w, hv = (torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
    p = nn.Parameter(w if where is None else distribute_tensor(w, line(), where))
    piece = hv if where is None else distribute_tensor(hv, line(), where).to_local()
    opt = dp.AdaHessian([p], lr=0.1, probe=lambda params, probes: [v * piece for v in probes])
    p.grad = torch.ones_like(p)

    def step() -> Tensor:
        opt.step()
        return full(opt.state[p]["hess_sq"])

    return p, step


def averages_over_the_window() -> None:
    """Right where whole windows are here; divided ones are refused before anything changes."""
    expected = window(None)[1]()
    for kind in (Shard(0), Shard(1), Replicate()):
        torch.testing.assert_close(window([kind])[1](), expected, rtol=1e-14, atol=0)
    for kind in (Shard(2), Shard(3)):
        p, step = window([kind])
        before = full(p).clone()
        refused(dp.CurvatureError, "spatial_averaging", step)
        assert torch.equal(full(p), before)


def dropped_where_one_piece_is_not_finite() -> None:
    """A product that a user gives, with a nan in the second process's piece."""
    w = torch.arange(1.0, 6.0, dtype=torch.float64)
    p = nn.Parameter(distribute_tensor(w, line(), [Shard(0)]))
    spoil = False

    def product(params: Any, probes: Any) -> list[Tensor]:
        del params
        return [v * float("nan") if spoil and dist.get_rank() == 1 else v for v in probes]

    opt = make("ESGD-1", [p], probe=product, d_warmup=3)
    for step in range(3):
        spoil = step == 1
        p.grad = torch.ones_like(p)
        opt.step()
        assert opt.curvature_stats[2:4] == ((1, 0), (1, 1), (2, 1))[step]
        assert full(opt.state[p]["hess_sq"]).isfinite().all()


# ---- the table ------------------------------------------------------------------------------------------------------


FAST = ("ESGD-1-step-None", "ESGD-1-curvature_step-0.001", "AdaHessian-step-0.001", "Sophia-step-0.001")
"""Of the comparisons with FSDP2."""


def table() -> dict[str, tuple[Callable[..., None], dict[str, Any]]]:
    """{name: (check, arguments)}; names that start with "slow" are left out of the fast set."""
    found: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {}
    for i, name in enumerate(METHODS):
        for j, way in enumerate(ROUTES):
            for k, (micro, view) in enumerate(((1, False), (2, True), (2, False), (1, True))):
                slow = "" if (i + j) % 4 == k else "slow "
                arguments = {"name": name, "way": way, "micro": micro, "gradient_as_bucket_view": view}
                found[f"{slow}ddp[{name}-{way}-{micro}-{view}]"] = the_numbers_of_one_process, arguments
        for way in ("step", "curvature_step"):
            for relative_step in (None, 1e-3):
                slow = "" if f"{name}-{way}-{relative_step}" in FAST else "slow "
                arguments = {"name": name, "way": way, "relative_step": relative_step}
                found[f"{slow}fsdp[{name}-{way}-{relative_step}]"] = sharded_numbers_of_one_process, arguments
        for sharded in (False, True):
            slow = "" if name == "ESGD-2" else "slow "
            found[f"{slow}resumed[{name}-{sharded}]"] = resumed, {"name": name, "sharded": sharded}
    for option in ("find_unused_parameters", "static_graph"):
        found[f"no_forward_mode[{option}]"] = no_forward_mode, {option: True}
        for way in ("backward", "step", "curvature_step", "differences"):
            arguments = {"name": "ESGD-1", "way": way, option: True}
            slow = "" if way == "backward" else "slow "
            found[f"{slow}ddp[{option}-{way}]"] = the_numbers_of_one_process, arguments
    for view in (False, True):
        found[f"falls_back_everywhere[{view}]"] = falls_back_everywhere, {"view": view}
        for way in ("closure", "differences"):
            found[f"gradients_stay[{way}-{view}]"] = gradients_stay, {"way": way, "view": view}
        found[f"repeated_parameters[{view}]"] = repeated_parameters, {"divide_batch": view}
    for way in ("backward", "step", "curvature_step"):
        found[f"not_finite_in_one_process[{way}]"] = not_finite_in_one_process, {"way": way}
    for way in ("step", "curvature_step"):
        for lazy in (False, True):
            slow = "" if lazy == (way == "step") else "slow "
            found[f"{slow}late_sums[{way}-{lazy}]"] = late_sums, {"way": way, "lazy": lazy}
    for check in (
        a_graph_of_one_process,
        after_an_evaluation,
        pieces_of_the_probes,
        what_is_refused,
        averages_over_the_window,
        dropped_where_one_piece_is_not_finite,
    ):
        found[check.__name__] = check, {}
    return found


CHECKS = table()


def alike(store: Any, name: str, passed: bool) -> bool:
    """True where the check ended in every process as it did here."""
    store.set(f"{name} {dist.get_rank()}", str(passed))
    return len({store.get(f"{name} {rank}") for rank in range(dist.get_world_size())}) == 1


def main(rank: int, world: int, folder: Path, pattern: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    warnings.simplefilter("error")
    store: Any = dist.FileStore(str(folder / "store"), world)  # pyright: ignore[reportPrivateImportUsage]
    store.set_timeout(timedelta(seconds=PEER_LIMIT))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=PEER_LIMIT))
    outcomes: dict[str, str] = {}
    for name, (check, arguments) in CHECKS.items():
        if not re.search(pattern, name):
            continue
        try:
            check(**arguments)
            outcomes[name] = "passed"
        except BaseException:
            outcomes[name] = traceback.format_exc()
        if not alike(store, name, outcomes[name] == "passed"):
            break
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    if all(outcome == "passed" for outcome in outcomes.values()):
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
