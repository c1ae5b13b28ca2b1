"""Checks of the noise scale in every process of a distributed run."""

import torch
from distributed_checks import run_checks
from torch import nn
from torch.distributed import get_rank, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import dashpot as dp
from dashpot import tasks
from dashpot.training import Engine, Learner, Watch
from dashpot.watching import NoiseSample, watch
from dashpot.watching.noise import NoiseProbe

SIZE = 16  # examples of a step, over both ranks


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def data(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(SIZE, 6, generator=generator)
    return x, 3 * x[:, :2] + torch.randn(SIZE, 2, generator=generator)


def ranges(rank, pieces):
    """Return the ranges of the examples of the micro-batches of a rank."""
    length = SIZE // 2 // pieces
    return [(rank * SIZE // 2 + k * length, rank * SIZE // 2 + (k + 1) * length) for k in range(pieces)]


def train(model, *, watched=True, pieces=1, limit=None, steps=8, lr=0.01):
    """Train on half of each batch, and return the rows of the noise scale."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    watcher = watch(optimizer, model, budget=1.0)
    watcher.probes = [NoiseProbe(1)]
    if not watched:
        watcher.close()
    for step in range(steps):
        x, y = data(step)
        optimizer.zero_grad()
        for k, (first, last) in enumerate(ranges(get_rank(), pieces)):
            if isinstance(model, DistributedDataParallel):
                model.require_backward_grad_sync = k == pieces - 1
            (((model(x[first:last]) - y[first:last]) ** 2).mean() / pieces).backward()
        if limit is not None:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        start = get_rank() * SIZE // 2
        watcher.observe(
            sliced=lambda a, b, x=x[start:], y=y[start:]: ((model(x[a:b]) - y[a:b]) ** 2).mean(),
            size=SIZE,
            examples=SIZE // 2,
        )
        optimizer.step()
    return list(watcher.record.rows("noise"))


def expected(parts, step):
    """Return the measurement of the initial weights, from the gradients of ranges of a batch."""
    model, (x, y) = network(), data(step)
    found = []
    for indices in parts:
        loss = ((model(x[indices]) - y[indices]) ** 2).mean()
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]).numpy())
    return NoiseSample.of_pieces(found, [len(indices) for indices in parts])


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_sample(row, sample):
    for key, value in sample._asdict().items():
        torch.testing.assert_close(row["sample"][key], value, rtol=1e-4, atol=0)  # float32 gradients


def check_ranks(pieces, limit):
    parts = [list(range(*part)) for rank in (0, 1) for part in ranges(rank, pieces)]
    rows = train(DistributedDataParallel(network()), pieces=pieces, limit=limit, steps=2, lr=0.0)
    assert rows[-1]["source"] == "ranks", rows
    assert_sample(rows[-1], expected(parts, 1))


def ranks_equal_local_gradients():
    check_ranks(1, None)


def ranks_equal_local_gradients_with_accumulation():
    check_ranks(2, None)


def ranks_equal_local_gradients_with_clipping():
    check_ranks(1, 0.1)


def watching_changes_no_bit(wrap):
    models = [wrap(network()) for _ in range(2)]
    rows = [train(model, watched=watched) for model, watched in zip(models, (True, False), strict=True)]
    for watched, plain in zip(*map(weights, models), strict=True):
        assert torch.equal(local(watched), local(plain))
    assert rows[0][-1]["scale"] is not None, rows[0][-1]
    assert rows[1] == []
    return rows[0]


def local(x):
    return x.to_local() if hasattr(x, "to_local") else x


def sharded(model):
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def ddp_weights_are_unchanged():
    watching_changes_no_bit(DistributedDataParallel)


def fsdp_weights_are_unchanged():
    rows = watching_changes_no_bit(sharded)
    assert rows[-1]["source"] == "halves"
    assert "sharded" in rows[-1]["preconditioned"]["reason"]


def fsdp_halves_equal_gradients_of_half_of_all_examples():
    rows = train(sharded(network()), steps=2, lr=0.0)
    quarter = SIZE // 4
    parts = [[*range(k, k + quarter), *range(k + SIZE // 2, k + SIZE // 2 + quarter)] for k in (0, quarter)]
    assert_sample(rows[-1], expected(parts, 1))


def unknown_ranks_use_local_halves():
    model = network()
    rows = train(model, steps=2, lr=0.0)
    assert rows[-1]["source"] == "halves"
    start, quarter = get_rank() * SIZE // 2, SIZE // 4
    parts = [range(start, start + quarter), range(start + quarter, start + 2 * quarter)]
    assert_sample(rows[-1], expected([list(part) for part in parts], 1))


def callback_counts_the_examples_of_all_ranks():
    learner = Learner.of(tasks.get("digits").build(0), dp.AdamW, lr=0.01, engine=Engine("cpu", strategy="ddp"))
    watcher = Watch(budget=1.0)
    learner.fit(1, callbacks=[watcher])
    rows = watcher.watcher.record.rows("noise")
    assert [(row["source"], row["sample"]["batch"]) for row in rows] == [("ranks", 50)] * 2, list(rows)


CHECKS = {
    check.__name__: check
    for check in (
        ranks_equal_local_gradients,
        ranks_equal_local_gradients_with_accumulation,
        ranks_equal_local_gradients_with_clipping,
        ddp_weights_are_unchanged,
        fsdp_weights_are_unchanged,
        fsdp_halves_equal_gradients_of_half_of_all_examples,
        unknown_ranks_use_local_halves,
        callback_counts_the_examples_of_all_ranks,
    )
}

if __name__ == "__main__":
    run_checks(CHECKS)
