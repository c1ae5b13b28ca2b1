"""Checks of FSDP2 and DTensor parameters, run by curvature_worker.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from curvature_distributed_support import (
    PRODUCTS,
    SAME,
    SMALL_NOISE,
    Net,
    alone,
    assert_same,
    assert_unmoved,
    batch,
    full,
    line,
    loss_of,
    make,
    moved,
    net,
    parts,
    reference,
    refused,
    train,
)
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

import dashpot as dp
from dashpot.curvature.probes import draw_probes
from dashpot.engine import dtensor

# ---- FSDP2 -----------------------------------------------------------------------------------------------------------


def sharded_net() -> Net:
    """FSDP2 model; `conv` and `first` are sharded separately, `last` with the root."""
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
    # With the default step, the relative noise of a product is about 2e-11; measured: 2e-12 to 5e-11 after 11 steps.
    assert_same(model, opt, other, expected, 1e-9 if relative_step is None else SAME)


def late_sums(way: str, lazy: bool) -> None:
    """Check micro-batches; with `lazy`, gradients are reduced only in the last micro-batch."""

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
    """A forward pass without backward leaves root weights gathered; products must not use these outdated weights."""
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
            rows = -(-p.shape[0] // dist.get_world_size())  # the first shards are the larger ones
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
    """Check that errors are raised before any change and that the suggested alternative works."""
    model = sharded_net()
    params = list(model.parameters())  # after a forward pass alone, the model contains gathered weights

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


# ---- other kinds of DTensors -----------------------------------------------------------------------------------------


def repeated_parameters(divide_batch: bool) -> None:
    """Check replicated weights; with a sharded batch, their gradients are `Partial`."""
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
    """Return a kernel, sharded as in `where`, and a function that takes a step of AdaHessian with a known product."""
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
    """Check that unsharded windows are averaged correctly and that sharded ones raise an error before any change."""
    expected = window(None)[1]()
    for kind in (Shard(0), Shard(1), Replicate()):
        torch.testing.assert_close(window([kind])[1](), expected, rtol=1e-14, atol=0)
    for kind in (Shard(2), Shard(3)):
        p, step = window([kind])
        before = full(p).clone()
        refused(dp.CurvatureError, "spatial_averaging", step)
        assert torch.equal(full(p), before)


def dropped_where_one_piece_is_not_finite() -> None:
    """Check a user-defined product with a nan in the shard of rank 1."""
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
