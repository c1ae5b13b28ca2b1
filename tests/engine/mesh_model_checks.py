"""Checks of sharded models, checkpoints and state initialization, which mesh_worker.py runs."""

import copy

import torch
import torch.distributed as dist
from mesh_support import assert_raises, assert_same, default_mesh, draw, parameters, rank, sharded, train, whole
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import dashpot as dp
from dashpot.engine import dtensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 7), nn.LayerNorm(7), nn.Linear(7, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


def net(sharded):
    torch.manual_seed(0)
    model = Net().double()
    if sharded:
        for module in (model.first, model.norm, model):
            fully_shard(module, mesh=default_mesh())
    return model


def learn(model, optimizer, steps, *, sharded, first=0):
    world = dist.get_world_size()
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4 * world, 3, generator=generator, dtype=torch.float64)
        mine = x[4 * rank() : 4 * rank() + 4] if sharded else x
        loss = (model(mine) - mine.prod(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


METHODS = {
    "AdamW": lambda params: dp.AdamW(params, lr=0.02, weight_decay=0.1, max_norm=0.3, engine="eager"),
    "AutoSGM": lambda params: dp.AutoSGM(params, lr=0.01, numerator=1, decay="change", weight_decay=0.1),
    "NAdam": lambda params: dp.NAdam(params, lr=0.01, nonfinite="skip", schedule=dp.schedules.Cosine(20)),
}


def fully_sharded_model(name):
    ours, alone = net(True), net(False)
    mine, other = METHODS[name](ours.parameters()), METHODS[name](alone.parameters())
    learn(ours, mine, 1, sharded=True)
    tables = mine._backend.tensor_table.kernel_args
    learn(ours, mine, 5, sharded=True, first=1)
    assert mine._backend.tensor_table.kernel_args is tables, "kernel arguments were rebuilt"
    learn(alone, other, 6, sharded=False)
    assert any(isinstance(p, DTensor) and dtensor.local(p).shape[0] != whole(p).shape[0] for p in ours.parameters())
    assert_same(ours.parameters(), alone.parameters())


def distributed_checkpoint(name, full):
    """Check that state saved after 2 of 4 steps and loaded into new objects continues the run bit for bit."""
    through, first = net(True), net(True)
    straight, saving = METHODS[name](through.parameters()), METHODS[name](first.parameters())
    learn(through, straight, 4, sharded=True)
    learn(first, saving, 2, sharded=True)
    options = StateDictOptions(full_state_dict=full)
    saved = get_optimizer_state_dict(first, saving, options=options)
    if full:
        box = [saved]
        dist.broadcast_object_list(box, src=0)  # only rank 0 has the full state
        saved = box[0]
    second = net(True)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = METHODS[name](second.parameters())
    set_optimizer_state_dict(second, resumed, saved, options=options)
    assert resumed.steps_done() == 2
    learn(second, resumed, 2, sharded=True, first=2)
    assert_same(second.parameters(), through.parameters(), 0.0)


def torch_state_dict_round_trip():
    """Check that torch's own `state_dict` contains DTensors, and can be loaded if the sharding is equal."""
    distributed = parameters(sharded(draw(0)))
    saving = dp.AdamW(distributed, lr=0.1)
    train(saving, distributed, 3, sharded)
    others = parameters(p.detach().clone() for p in distributed)
    loaded = dp.AdamW(others, lr=0.1)
    loaded.load_state_dict(copy.deepcopy(saving.state_dict()))
    train(saving, distributed, 3, sharded, 3)
    train(loaded, others, 3, sharded, 3)
    assert_same(others, distributed, 0.0)
    whole = copy.deepcopy(saving.state_dict())
    whole["state"][0]["exp_avg"] = torch.zeros(others[0].shape)
    before = loaded.state[others[0]]
    assert_raises(dp.ArgumentError, "must be sharded like its parameter", lambda: loaded.load_state_dict(whole))
    assert loaded.state[others[0]] is before


def state_initialization_step():
    """Check that zero gradients and rates only create the state, unless one rank has a nonzero gradient."""
    for make in (dp.AdamW, dp.ESGD, dp.AutoSGM):
        distributed = parameters(sharded(draw(0)))
        before = [whole(p).clone() for p in distributed]
        optimizer = make(distributed, lr=0.0)
        for p in distributed:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert_same(distributed, before, 0.0)
        assert optimizer.steps_done() == 0
        assert all(
            dtensor.is_dtensor(p) == dtensor.is_dtensor(x)
            for p in distributed
            for x in optimizer.state[p].values()
            if x.dim()
        )
    distributed = parameters(sharded(draw(0)))
    optimizer = dp.AdamW(distributed, lr=0.0)
    for p in distributed:
        p.grad = torch.zeros_like(p)
    if rank() == 1:
        dtensor.local(distributed[0].grad)[0].fill_(1.0)
    optimizer.step()
    assert optimizer.steps_done() == 1
