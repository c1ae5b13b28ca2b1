"""Checks of single steps on DTensors, which mesh_worker.py runs."""

import torch
import torch.distributed as dist
from mesh_support import (
    assert_equal_on_all_ranks,
    assert_matches_single_process,
    assert_raises,
    assert_same,
    default_mesh,
    draw,
    nan_on_one_rank,
    pair,
    parameters,
    rank,
    sharded,
    train,
    whole,
)
from registry import SUBJECTS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import dashpot as dp
from dashpot.engine import dtensor


def every_method(name):
    subject = next(s for s in SUBJECTS if s.name == name)
    assert_matches_single_process(subject.make, engine="eager")


def compiled(name):
    subject = next(s for s in SUBJECTS if s.name == name)
    optimizer, *_ = assert_matches_single_process(subject.make, engine="compiled", max_norm=1.0)
    text = repr(dp.explain_engine(optimizer))
    reducing = name.startswith("autosgm")
    assert "compiled, " in text, text
    assert ("reduced over ranks" in text) == reducing, text


def hybrid_mesh(replicas):
    """Return a mesh for sharded replicas (HSDP)."""
    return init_device_mesh("cpu", (replicas, dist.get_world_size() // replicas), mesh_dim_names=("replicas", "shards"))


def hybrid_sharding(replicas, name):
    subject = next(s for s in SUBJECTS if s.name == name)
    assert_matches_single_process(subject.make, hybrid_mesh(replicas), engine="eager", max_norm=0.5)


def sharding_over_two_dimensions():
    world = dist.get_world_size()
    where = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b"))
    start, steps = draw(0)[0], [draw(k)[0] for k in range(5)]
    shard, plain = nn.Parameter(distribute_tensor(start, where, [Shard(0), Shard(1)])), nn.Parameter(start.clone())
    mine, alone = (dp.AutoSGM([p], numerator=4, max_norm=1.0, engine="eager") for p in (shard, plain))
    for g in steps:
        shard.grad, plain.grad = distribute_tensor(g, where, [Shard(0), Shard(1)]), g
        mine.step()
        alone.step()
    assert_same([shard], [plain])
    assert_same([mine.last_grad_norm], [alone.last_grad_norm])


def global_norm_matches_single_process(engine):
    def make(params, **options):
        return dp.AdamW(params, lr=0.02, weight_decay=0.1, **options)

    mine, _, alone = assert_matches_single_process(make, engine=engine, max_norm=0.7, clip_value=0.2)
    assert_same([mine.last_grad_norm], [alone.last_grad_norm])
    assert_equal_on_all_ranks(mine.last_grad_norm)
    assert mine.last_step == "clipped"


def nonfinite_decision_is_shared(engine, index, mode, replicas=1):
    """Only the gradient on the second rank contains a nan."""
    where = hybrid_mesh(replicas)
    distributed = parameters(sharded(draw(0), where))
    optimizer = dp.AdamW(distributed, engine=engine, nonfinite=mode, max_norm=None if mode == "raise" else 1.0)
    train(optimizer, distributed, 1, lambda x: sharded(x, where))
    before, steps = [whole(p).clone() for p in distributed], [optimizer.state[p]["step"].clone() for p in distributed]
    for i, (p, g) in enumerate(zip(distributed, sharded(draw(7), where), strict=True)):
        p.grad = nan_on_one_rank(g) if i == index else g
    if mode == "raise":
        text = "parameter " if rank() == 1 else "on another rank"
        assert_raises(dp.NonFiniteError, text, optimizer.step)
    else:
        optimizer.step()
        assert optimizer.last_step == "skipped"
    assert_same(distributed, before, 0.0)
    assert [optimizer.state[p]["step"] for p in distributed] == steps
    train(optimizer, distributed, 1, lambda x: sharded(x, where))
    assert optimizer.last_step != "skipped"


def grad_scaler_skips_on_all_ranks():
    distributed, plain = parameters(sharded(draw(0))[:4]), parameters(draw(0)[:4])
    for params, give in ((distributed, sharded), (plain, lambda x: x)):
        optimizer = dp.AdamW(params, lr=0.1, engine="eager")
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for step in range(3):
            grads = draw(step)
            grads[0][-1] *= float("inf") if step == 1 else 1.0  # the last row is on the second rank
            scaler.scale(torch.zeros(()))
            for p, g in zip(params, give([8.0 * g for g in grads]), strict=False):
                p.grad = g
            scaler.step(optimizer)
            scaler.update(8.0)
        assert optimizer.steps_done() == 2
    assert_same(distributed, plain)


def differently_sharded_gradient_raises():
    where, value = default_mesh(), draw(0)[0]
    p = nn.Parameter(distribute_tensor(value, where, [Shard(0)]))
    optimizer = dp.AdamW([p], lr=0.1)
    for wrong in (
        distribute_tensor(value, where, [Shard(1)]),
        distribute_tensor(value, where, [Replicate()]),
        distribute_tensor(value, init_device_mesh("cpu", (1, dist.get_world_size())), [Replicate(), Shard(0)]),
    ):
        p.grad = None
        p.grad = wrong
        assert_raises(dp.ArgumentError, "a gradient must be sharded like its parameter of shape (5, 3)", optimizer.step)
    plain = nn.Parameter(value.clone())
    optimizer = dp.AdamW([plain], lr=0.1)
    plain.grad = value
    optimizer.step()
    before = plain.detach().clone()
    plain.grad = None
    plain.grad = distribute_tensor(value, where, [Replicate()])
    assert_raises(dp.ArgumentError, "a plain tensor, got (Replicate(),)", optimizer.step)
    p.grad = None
    p.grad = value
    assert_raises(dp.ArgumentError, "got a plain tensor", dp.AdamW([p], lr=0.1).step)
    assert_same([p, plain], [value, before], 0.0)


def partial_gradients_are_reduced():
    """Check the reduction for replicated and for sharded parameters."""
    where, (value, *_), (g, *_) = default_mesh(), draw(0), draw(1)
    world = dist.get_world_size()
    for kind in (Replicate(), Shard(0)):
        p, alone = nn.Parameter(distribute_tensor(value, where, [kind])), nn.Parameter(value.clone())
        mine, other = dp.AdamW([p], lr=0.1, max_norm=1.0), dp.AdamW([alone], lr=0.1, max_norm=1.0)
        for _ in range(3):
            p.grad = DTensor.from_local(g / world, where, [Partial()])
            alone.grad = g.clone()
            mine.step()
            other.step()
        assert_same([p], [alone])


def unsupported_options_raise():
    where, value = default_mesh(), draw(0)[0]
    p = nn.Parameter(distribute_tensor(value, where, [Shard(0)]))
    p.grad = distribute_tensor(value, where, [Shard(0)])
    optimizer = dp.AdamW([p], capturable=True)
    assert_raises(dp.ArgumentError, "capturable=True requires plain tensors", optimizer.step)
    optimizer = dp.AdamW([p], differentiable=True)
    assert_raises(dp.ArgumentError, "differentiable=True requires plain tensors", optimizer.step)
    q = nn.Parameter(DTensor.from_local(value, where, [Partial()]))
    q.grad = DTensor.from_local(value, where, [Partial()])
    assert_raises(dp.ArgumentError, "parameters must be sharded or replicated", dp.SGD([q]).step)
    optimizer = dp.AdamW([p])
    optimizer.step()
    before = whole(p).clone()
    optimizer.state[p]["exp_avg"] = whole(optimizer.state[p]["exp_avg"])
    assert_raises(dp.ArgumentError, "state 'exp_avg' must be sharded like its parameter", optimizer.step)
    assert_same([p], [before], 0.0)


def replaced_state_and_shards_are_detected():
    mine, distributed, alone, plain = pair(dp.AdamW, steps=3, engine="eager")
    state, other = mine.state[distributed[0]], alone.state[plain[0]]
    state["exp_avg"], other["exp_avg"] = state["exp_avg"] * 2, other["exp_avg"] * 2
    distributed[0]._local_tensor = distributed[0]._local_tensor.clone() + 1
    plain[0].data += 1
    train(mine, distributed, 3, sharded, 3)
    train(alone, plain, 3, first=3)
    assert_same(distributed, plain)


def step_increments_version_counters():
    p = parameters(sharded(draw(0)))[0]
    p.grad = sharded(draw(1))[0]
    kept = (p * p).sum()
    dp.SGD([p], lr=0.1).step()
    assert_raises(RuntimeError, "modified by an inplace operation", kept.backward)


def shards_round_independently():
    where, world = default_mesh(), dist.get_world_size()
    for kind, size in ((Shard(0), 4096 * world), (Replicate(), 4096)):
        p = nn.Parameter(distribute_tensor(torch.ones(size, dtype=torch.bfloat16), where, [kind]))
        optimizer = dp.SGD([p], lr=1e-3, rounding="stochastic")
        p.grad = distribute_tensor(torch.ones(size, dtype=torch.bfloat16), where, [kind])
        optimizer.step()
        shards = [torch.empty(4096) for _ in range(world)]
        dist.all_gather(shards, dtensor.local(p).detach().float())
        if isinstance(kind, Replicate):
            assert all(torch.equal(shard, shards[0]) for shard in shards)
        else:
            assert not any(torch.equal(shard, shards[0]) for shard in shards[1:])
        # One element in four moves by 2^-8, so the mean of n elements has standard deviation 2^-8 sqrt(3/16/n).
        mean = torch.stack(shards).double().mean()
        assert abs(mean - 0.999) < 5 * 2**-8 * (3 / 16 / 4096) ** 0.5 + 1e-6, mean


def replicas_round_equally():
    where, value = hybrid_mesh(2), torch.ones(4096, dtype=torch.bfloat16)
    p = nn.Parameter(distribute_tensor(value, where, [Replicate(), Shard(0)]))
    optimizer = dp.SGD([p], lr=1e-3, rounding="stochastic")
    p.grad = distribute_tensor(value, where, [Replicate(), Shard(0)])
    optimizer.step()
    shard = dtensor.local(p).detach().float()
    assert len(shard.unique()) == 2
    replicas = [torch.empty_like(shard) for _ in range(2)]
    dist.all_gather(replicas, shard, group=where.get_group("replicas"))
    assert torch.equal(*replicas)


def low_precision_state():
    """Take twenty steps of 1e-3, each smaller than half the spacing of bfloat16 at 1."""
    for options in ({"rounding": "kahan"}, {"rounding": "stochastic", "state_dtype": torch.bfloat16}):
        value = torch.ones(65, 8, dtype=torch.bfloat16)
        p = nn.Parameter(distribute_tensor(value, default_mesh(), [Shard(0)]))
        optimizer = dp.AdamW([p], lr=1e-3, weight_decay=0.0, engine="eager", **options)
        for _ in range(20):
            p.grad = distribute_tensor(value, default_mesh(), [Shard(0)])
            optimizer.step()
        assert all(isinstance(v, DTensor) for k, v in optimizer.state[p].items() if k != "step")
        mean = float(whole(p).double().mean())  # stochastic: standard deviation 2^-8 sqrt(20 * 3/16/520) < 0.09 2^-8
        assert abs(mean - 0.98) < (2**-9 if options["rounding"] == "kahan" else 0.5 * 2**-8), mean


def complex_parameters():
    value = torch.complex(draw(0)[0], draw(1)[0])
    p, alone = nn.Parameter(distribute_tensor(value, default_mesh(), [Shard(0)])), nn.Parameter(value.clone())
    mine, other = (dp.AutoSGM([x], numerator=1, max_norm=1.0, engine="eager") for x in (p, alone))
    for k in range(5):
        g = torch.complex(draw(2 * k)[0], draw(2 * k + 1)[0])
        p.grad, alone.grad = distribute_tensor(g, default_mesh(), [Shard(0)]), g
        mine.step()
        other.step()
    assert_same([p], [alone])


def engine_choice_is_equal_on_all_ranks():
    """Kernels are used from the first step for shards of any size."""
    p = nn.Parameter(sharded(draw(0))[0])
    optimizer = dp.AdamW([p], engine="auto")
    p.grad = sharded(draw(1))[0]
    optimizer.step()
    fate = "compiled, " if dtensor.local(p).numel() else "its shard is empty"
    assert fate in repr(dp.explain_engine(optimizer)), dp.explain_engine(optimizer)
