"""Sharded and plain copies of parameters for the checks that mesh_worker.py runs."""

import copy
import re

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from dashpot.engine import dtensor

SAME = 1e-12  # for up to ten steps in float64; only the order of summation over elements differs
SHAPES = ((5, 3), (1, 4), (7,), (2, 2), (3,), ())
"""Kinds on two ranks: uneven, empty on the second rank, uneven, replicated, plain, and replicated 0-d."""
WORKER: dict = {}


def rank():
    return dist.get_rank()


def default_mesh():
    return WORKER.setdefault("mesh", init_device_mesh("cpu", (dist.get_world_size(),)))


def placements(index, ndim=1):
    """Return the placements of the tensor with shape SHAPES[index], or None for a plain tensor."""
    kinds = {0: Shard(0), 1: Shard(0), 2: Shard(0), 3: Replicate(), 4: None, 5: Replicate()}
    return None if kinds[index] is None else [*[Replicate()] * (ndim - 1), kinds[index]]


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def sharded(tensors, where=None):
    where = default_mesh() if where is None else where
    kinds = [placements(i, where.ndim) for i in range(len(tensors))]
    return [
        t.clone() if kind is None else distribute_tensor(t, where, kind, src_data_rank=None)
        for t, kind in zip(tensors, kinds, strict=True)
    ]


def parameters(values):
    return [nn.Parameter(v) for v in values]


def whole(x):
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()


def train(optimizer, params, steps, shard=lambda x: x, first=0):
    for step in range(first, first + steps):
        for p, g in zip(params, shard(draw(100 + step)), strict=True):
            p.grad = g
        optimizer.step()


def assert_same(mine, expected, tolerance=SAME):
    torch.testing.assert_close([whole(x) for x in mine], [whole(x) for x in expected], rtol=tolerance, atol=tolerance)


def assert_equal_on_all_ranks(x):
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    assert all(torch.equal(other, x) for other in found), found


def pair(make, steps=5, where=None, **options):
    """Return (optimizer, parameters) after the same steps, for sharded parameters and for a single process."""
    distributed, plain = parameters(sharded(draw(0), where)), parameters(draw(0))
    mine, alone = make(distributed, **options), make(plain, **{**options, "engine": "eager"})
    train(mine, distributed, steps, lambda x: sharded(x, where))
    train(alone, plain, steps)
    return mine, distributed, alone, plain


def assert_matches_single_process(make, where=None, **options):
    mine, distributed, alone, plain = pair(make, where=where, **options)
    assert_same(distributed, plain)
    for p, q in zip(distributed, plain, strict=True):
        assert mine.state[p].keys() == alone.state[q].keys()
        for key, value in mine.state[p].items():
            assert_same([value], [alone.state[q][key]])
            if isinstance(p, DTensor) and key != "step" and value.shape == p.shape and p.dim():
                assert isinstance(value, DTensor), key
                assert value.placements == p.placements
            elif not isinstance(value, DTensor):
                assert_equal_on_all_ranks(value)
    return mine, distributed, alone


def assert_raises(kind, text, act):
    with pytest.raises(kind, match=re.escape(text)):
        act()


def nan_on_one_rank(x, owner=1):
    """Return a copy with a nan in the local shard of the rank `owner`."""
    x = copy.deepcopy(x)
    shard = dtensor.local(x)
    if rank() == owner:
        shard[0] = float("nan")
    return x
