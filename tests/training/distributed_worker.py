"""What each of two processes does in test_distributed.py: checks in turn, the outcomes into a JSON file.

Run as a script: `distributed_worker.py RANK WORLD FOLDER PATTERN`, the pattern a regular expression for the names of
the checks. A process goes on after a check that failed in every process; after one that failed in some, all end.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import random
import re
import sys
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from registry import KINDS, SUBJECTS
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

import dashpot as dp
from dashpot.data import Batches
from dashpot.tasks import Problem, accuracy
from dashpot.training import Callback, CancelFit, Engine, Learner

SAME = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Means over examples are taken in another order, once a step."""
EXAMPLES, BATCH = 11, 5
"""Batches of 5, 5 and 1: shares of 3 and 2, and at the end nothing for the second process."""
WORKER: dict[Any, Any] = {}
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


# ---- learners -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_itself():
    """As if no launcher had started this process."""
    kept = {name: os.environ.pop(name) for name in LAUNCHER}
    try:
        yield
    finally:
        os.environ.update(kept)


def engine(strategy: str | None, **options: Any) -> Engine:
    """Of all processes; for strategy None of this one alone."""
    with contextlib.nullcontext() if strategy else by_itself():
        return Engine("cpu", strategy=strategy or "auto", **options)


def alone() -> Any:
    groups = WORKER.setdefault("alone", [dist.new_group([r]) for r in range(dist.get_world_size())])
    return groups[dist.get_rank()]


def network(dtype: torch.dtype, noisy: bool = False, seed: int = 0) -> nn.Module:
    """Over two processes: uneven rows, and with `noisy` what the processes do not share."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        between = [nn.BatchNorm1d(7), nn.Dropout(0.3)] if noisy else []
        return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), *between, nn.Linear(7, 3)).to(dtype)


def data(dtype: torch.dtype, examples: int = EXAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 4, generator=draw, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (examples,), generator=draw)


def problem(
    dtype: torch.dtype = torch.float32, noisy: bool = False, seed: int = 0, examples: int = EXAMPLES
) -> Problem:
    x, y = data(dtype, examples)
    return Problem(
        model=network(dtype, noisy, seed),
        train=Batches(x, y, BATCH, shuffle=True, seed=0),
        evaluation=Batches(x, y, BATCH - 1),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
    )


class Windows(Callback):
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def before_fit(self, learner):
        learner.loop.accumulate = self.batches


class StopAt(Callback):
    """Keeps the learner's state after that many batches of training, and ends the fit there."""

    order = 1000

    def __init__(self, batches: int) -> None:
        self.batches, self.state = batches, None

    def after_batch(self, learner):
        epoch, batch = learner.loop.position
        if learner.training and epoch * len(learner.train) + batch == self.batches:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["callbacks"].pop("StopAt", None)
            raise CancelFit


def learner(make: Any, strategy: str | None, accumulate: int = 1, its: Problem | None = None, **shape: Any) -> Learner:
    precision = shape.pop("precision", "fp32")
    callbacks = [Windows(accumulate)] if accumulate > 1 else []
    its = problem(**shape) if its is None else its
    return Learner.of(its, make, callbacks=callbacks, engine=engine(strategy, precision=precision))


def whole(x: Any) -> torch.Tensor:
    return x.detach().full_tensor() if hasattr(x, "full_tensor") else x.detach()


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: whole(value).clone() for name, value in learner.model.state_dict().items()}


def numbers(history: list[Any]) -> list[float]:
    return [value for epoch in history for phase in sorted(epoch) for value in epoch[phase].values()]


def assert_same(mine: Learner, other: Learner, tolerance: float) -> None:
    """Weights, optimizer state and history."""
    exactly = {"rtol": tolerance, "atol": tolerance}
    assert_alike_everywhere(mine)
    torch.testing.assert_close(weights(mine), weights(other), **exactly)
    for p, q in zip(mine.model.parameters(), other.model.parameters(), strict=True):
        assert mine.opt.state[p].keys() == other.opt.state[q].keys()
        for key, value in mine.opt.state[p].items():
            expected = whole(other.opt.state[q][key])
            size = max(1.0, float(expected.abs().max()))  # a momentum of g/sqrt(v) is ten times as large as g
            torch.testing.assert_close(
                whole(value) / size, expected / size, **exactly, msg=partial("{}: {}".format, key)
            )
    assert mine.steps == other.steps
    torch.testing.assert_close(numbers(mine.history), numbers(other.history), rtol=tolerance, atol=tolerance)
    assert numbers(mine.history)


def assert_alike_everywhere(learner: Learner) -> None:
    """The same bits in every process."""
    for name, value in weights(learner).items():
        found = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(found, value.contiguous())
        assert all(torch.equal(other, value) for other in found), name
    histories = learner.engine.all_gather(numbers(learner.history)) if learner.engine.world_size > 1 else [1]
    assert all(other == histories[0] for other in histories)


def moved(learner: Learner) -> None:
    """No comparison of two runs that stand still."""
    for name, value in network(torch.float64).state_dict().items():
        assert not torch.equal(weights(learner)[name].double(), value), name


def refused(kind: type[BaseException], text: str, act: Any) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        act()


# ---- the numbers of one process -------------------------------------------------------------------------------------


def every_method(name: str, strategy: str, accumulate: int, dtype: torch.dtype, epochs: int) -> None:
    subject = next(s for s in SUBJECTS if s.name == name)

    def make(params):
        return subject.make(list(params))

    mine, other = (learner(make, where, accumulate, dtype=dtype) for where in (strategy, None))
    mine.fit(epochs)
    other.fit(epochs)
    moved(mine)
    assert_same(mine, other, SAME[dtype])


PRODUCTS: dict[str, Any] = {
    "ESGD-1": partial(dp.ESGD, lr=0.1, lr_warmup=0.5, eps=0.1, update_d_every=2, d_warmup=1),
    "ESGD-2": partial(dp.ESGD, lr=0.1, betas=(0.9, 0.99), lr_warmup=0.5, eps=0.1, version=2, d_warmup=2),
    "AdaHessian": partial(dp.AdaHessian, lr=0.05, eps=0.1, update_d_every=2),
    "Sophia": partial(dp.Sophia, lr=0.01, gamma=1.0, eps=0.01, update_d_every=2),
}


def products(name: str, strategy: str, accumulate: int, probe: str = "auto") -> None:
    """Hessian-vector products of the learner's own loss; differences go by 1e-3, so that their noise is small."""
    options = {"probe": "differences" if strategy == "fsdp" else probe, "relative_step": 1e-3}
    make = PRODUCTS[name]
    mine = learner(partial(make, **{**options, "probe": probe}), strategy, accumulate, dtype=torch.float64)
    other = learner(partial(make, process_group=alone(), **options), None, accumulate, dtype=torch.float64)
    mine.fit(3)
    other.fit(3)
    moved(mine)
    assert mine.opt.curvature_stats[2:4] == other.opt.curvature_stats[2:4]
    assert mine.opt.curvature_stats.products >= 2
    assert_same(mine, other, 1e-9)


def differences_take_the_whole_step() -> None:
    """A product by differences is that of all batches of a step, as one by double backward is."""
    make = partial(PRODUCTS["AdaHessian"], process_group=alone())
    by = [learner(partial(make, **how), None, 2, dtype=torch.float64) for how in ({}, {"probe": "differences"})]
    for its in by:
        its.fit(3)
    assert [its.opt.curvature_stats.route for its in by] == ["closure", "differences"]
    a, b = (weights(its) for its in by)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # e^2 = 1e-11 times third derivatives, over small curvatures


# ---- what processes share, and what not -----------------------------------------------------------------------------


def weights_of_the_first(strategy: str) -> None:
    mine = learner(dp.AdamW, strategy, seed=dist.get_rank())
    other = learner(dp.AdamW, None, seed=0)
    mine.fit(1)
    other.fit(1)
    assert_same(mine, other, SAME[torch.float32])


def noise_of_its_own(strategy: str) -> None:
    """The first process goes on with its random state; the others start anew from it."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 2))
    before = torch.get_rng_state()
    its = engine(strategy)
    module = its.setup(model)
    assert (dist.get_rank() == 0) == torch.equal(torch.get_rng_state(), before)
    drawn = its.all_gather([torch.rand(1).item(), random.random(), float(np.random.rand())])
    assert all(a != b for a, b in zip(*drawn, strict=True))
    masks = its.all_gather(module.get_submodule("module.0" if strategy == "ddp" else "0")(torch.ones(64)).tolist())
    assert masks[0] != masks[1]


def buffers_of_the_first(strategy: str) -> None:
    """Batch norm takes each process's own mean; the running ones are the first process's, in DDP and FSDP2 alike."""
    mine = learner(dp.SGD, strategy, noisy=True, examples=10)
    mine.fit(1)
    mean = whole(mine.model.get_submodule("2").running_mean)
    assert torch.equal(mean, torch.tensor(mine.engine.broadcast(mean.tolist())))
    assert torch.allclose(mean, WORKER.setdefault("running mean", mean), rtol=1e-6)  # of DDP, when FSDP2's comes
    assert mean.abs().max() > 0


def sends_once_a_step() -> None:
    """Micro-batches but the last of a step keep their gradients to themselves."""
    mine, sent = learner(dp.SGD, "ddp", 2), []
    mine.fit(1)

    def count(state, bucket):
        del state
        sent.append(1)
        future = torch.futures.Future()
        total = bucket.buffer()
        dist.all_reduce(total)
        future.set_result(total / dist.get_world_size())
        return future

    mine._module.register_comm_hook(None, count)
    mine.fit(1)
    assert len(sent) == 2  # three batches in two steps


def parameters_stay(strategy: str) -> None:
    """After an evaluation the model holds the tensors that the optimizer has."""
    mine = learner(dp.AdamW, strategy, its=dataclasses.replace(problem(), model=Containers()))
    mine.fit(1)
    held = {id(p) for group in mine.opt.param_groups for p in group["params"]}
    assert {id(p) for p in mine.model.parameters()} == held
    saved = mine.state_dict()
    assert len(saved["optimizer"]["state"]) == len(held)
    assert all(name in str(list(saved["optimizer"]["state"])) for name in ("shift", "out.weight", "layers.1.bias"))


class Containers(nn.Module):
    """A list of layers, one matrix used twice, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tied, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.head.weight = self.tied.weight
        self.shift, self.out = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + self.shift
        return self.out(self.head(self.tied(x)))


def containers(strategy: str) -> None:
    learners = []
    for where in (strategy, None):
        its = problem()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            learners.append(learner(dp.AdamW, where, its=dataclasses.replace(its, model=Containers())))
    for its in learners:
        its.fit(2)
    assert_same(*learners, SAME[torch.float32])


def overflow_is_agreed(strategy: str) -> None:
    """A step that the scaler skips in one process is skipped in all: an infinity that only the second one computes."""

    class Spoil(Callback):
        def after_loss(self, learner):
            if learner.training and learner.batch.index == 1 and learner.engine.global_rank == 1:
                learner.batch.loss = learner.batch.loss * float("inf")

    for make in (dp.AdamW, torch.optim.AdamW):
        mine = learner(partial(make, lr=0.01), strategy, precision="fp16")
        mine._callbacks.append(Spoil())
        mine.fit(2)
        assert mine.steps == 4, mine.steps
        assert_alike_everywhere(mine)
        assert all(value.isfinite().all() for value in weights(mine).values())


def sums_and_wishes() -> None:
    its, rank = engine("ddp"), dist.get_rank()
    assert (its.global_rank, its.world_size, its.is_rank_zero, its.sharded) == (rank, 2, rank == 0, False)
    assert its.all_reduce_sum([1.0, rank]) == [2.0, 1.0]
    assert its.all_gather({"a": rank}) == [{"a": 0}, {"a": 1}]
    assert its.broadcast(f"from {rank}") == "from 0"
    assert [its.any(wish) for wish in (False, rank == 1, True)] == [False, True, True]
    assert engine("fsdp", devices=2).sharded
    refused(dp.ArgumentError, "devices=3, but the launcher started 2 processes", lambda: engine("ddp", devices=3))


# ---- loaders --------------------------------------------------------------------------------------------------------


class Noted(Dataset):
    """Tells which examples were read, and with `noise` changes them by the generators of the process that reads."""

    def __init__(self, dtype: torch.dtype, noise: bool = False) -> None:
        self.x, self.y = data(dtype)
        self.noise, self.read = noise, []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        self.read.append(index)
        shift = 0.1 * (torch.rand(()) + random.random() + np.random.rand()) if self.noise else 0.0
        return self.x[index] + shift, self.y[index]


def of_loader(strategy: str | None, workers: int, dtype: torch.dtype = torch.float64, noise: bool = False) -> Learner:
    its, examples = problem(dtype), Noted(dtype, noise)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    train = DataLoader(examples, BATCH, shuffle=True, num_workers=workers)
    shape = {
        "loss": its.loss,
        "optimizer": partial(dp.AdamW, lr=0.05),
        "metrics": its.metrics,
        "engine": engine(strategy),
    }
    return Learner(its.model, train, DataLoader(examples, 4), **shape)


def loader(strategy: str, workers: int) -> None:
    """The order of one process; every example is read once, by one of them."""
    mine = of_loader(strategy, workers)
    mine.fit(2)
    other = of_loader(None, workers)
    other.fit(2)
    assert_same(mine, other, SAME[torch.float64])
    mine.train.source.dataset.read.clear()
    read = [y.tolist() for batch in mine.evaluation.batches(0) for y in [batch.y] if batch.size]
    every = sorted(label for part in mine.engine.all_gather(read) for labels in part for label in labels)
    assert every == sorted(data(torch.float64)[1].tolist())
    if workers == 0:
        assert len(mine.train.source.dataset.read) == (6 if dist.get_rank() == 0 else 5)


def loader_resumed(strategy: str, workers: int) -> None:
    through, stop = of_loader(strategy, workers, noise=True), StopAt(5)
    through.fit(3)
    of_loader(strategy, workers, noise=True).fit(3, callbacks=[stop])
    going_on = of_loader(strategy, workers, noise=True)
    torch.manual_seed(99)
    going_on.fit(3, resume=stop.state)
    assert_same(going_on, through, 0.0)


def loader_reshaped(there: str | None, here: str | None) -> None:
    """Saved in the middle of an epoch by one or two processes, resumed by the other number: the same order goes on."""
    stop, expected = StopAt(4), of_loader(None, 0)
    expected.fit(3)
    of_loader(there, 0).fit(3, callbacks=[stop])
    going_on = of_loader(here, 0)
    torch.manual_seed(99)
    going_on.fit(3, resume=state_of_the_first(stop.state))
    assert_same(going_on, expected, SAME[torch.float64])


def unshardable_reason() -> None:
    class Endless(IterableDataset):
        def __len__(self) -> int:
            return 4

        def __iter__(self):
            return iter([])

    class Own:
        def __len__(self) -> int:
            return 1

        def __iter__(self):
            return iter([])

    examples, its = Noted(torch.float32), problem()
    for source, text in (
        (
            DataLoader(Endless(), 2),
            "train must be .* to be sharded over 2 processes, got a DataLoader of an IterableDataset",
        ),
        (DataLoader(examples, batch_size=None), "got a DataLoader with batch_size=None"),
        (DataLoader(examples, 2, sampler=DistributedSampler(examples)), "with a DistributedSampler; remove it"),
        (Own(), "got Own, which cannot guarantee"),
    ):
        with pytest.raises(dp.ArgumentError, match=text):
            Learner(its.model, source, loss=its.loss, optimizer=dp.AdamW, engine=engine("ddp"))
    pairs = [(its.train.x, its.train.y)]
    by = [
        Learner(network(torch.float32), pairs, loss=its.loss, optimizer=dp.AdamW, engine=engine(w))
        for w in ("ddp", None)
    ]
    for one in by:
        one.fit(2)
    assert_same(*by, SAME[torch.float32])


# ---- states ---------------------------------------------------------------------------------------------------------


def state_of_the_first(state: Any) -> Any:
    """As from a file that the first process wrote."""
    return engine("ddp").broadcast(state)


METHODS: dict[str, Any] = {
    "AdamW": partial(dp.AdamW, lr=0.05, schedule=dp.schedules.Cosine(9)),
    "AutoSGM": partial(dp.AutoSGM, lr=0.02, numerator=4, beta_n=0.99),
    "NAdam": partial(dp.NAdam, lr=0.02),
    "torch-Adam": partial(torch.optim.Adam, lr=0.02),
    "torch-SGD": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    "ESGD": partial(PRODUCTS["ESGD-1"], relative_step=1e-3),
}


def resumed(name: str, strategy: str) -> None:
    """The same number of processes: the same bits, dropout and batch norm included."""
    shape = {"noisy": True, "examples": 10, "dtype": torch.float32}
    torch.manual_seed(1)
    through = learner(METHODS[name], strategy, **shape)
    through.fit(3)
    torch.manual_seed(1)
    stop = StopAt(3)
    learner(METHODS[name], strategy, **shape).fit(3, callbacks=[stop])
    torch.manual_seed(98 + dist.get_rank())
    going_on = learner(METHODS[name], strategy, seed=4, **shape)
    going_on.fit(3, resume=state_of_the_first(stop.state))
    assert_same(going_on, through, 0.0)


def reshaped(name: str, there: str | None, here: str | None, accumulate: int) -> None:
    """Saved by some processes, resumed by others: the numbers of one process that was never interrupted."""
    make, shape = METHODS[name], {"accumulate": accumulate, "dtype": torch.float64}
    if name == "ESGD":
        sharded = "fsdp" in (there, here)
        make = partial(make, **({"probe": "differences"} if sharded else {}))

    def its(where, **more):
        options = {} if where or name != "ESGD" else {"process_group": alone()}
        return learner(partial(make, **options), where, **shape, **more)

    through, stop = its(None), StopAt(5 if accumulate == 2 else 4)
    through.fit(3)
    its(there).fit(3, callbacks=[stop])
    assert stop.state is not None
    going_on = its(here, seed=4)
    going_on.fit(3, resume=state_of_the_first(stop.state))
    assert_same(going_on, through, 1e-9 if name == "ESGD" else SAME[torch.float64])


# ---- the table ------------------------------------------------------------------------------------------------------


def table() -> dict[str, Any]:
    """{name: check}; names that start with "slow" are left out of the fast set."""
    found: dict[str, Any] = {}
    for i, subject in enumerate(SUBJECTS):
        for j, strategy in enumerate(("ddp", "fsdp")):
            for accumulate in (1, 2):
                for dtype in SAME:
                    fast = (i + j) % 2 == accumulate - 1 and dtype == torch.float32 and subject.name in KINDS
                    name = f"every_method[{subject}-{strategy}-{accumulate}-{str(dtype)[6:]}]"
                    found[("" if fast else "slow ") + name] = partial(
                        every_method, subject.name, strategy, accumulate, dtype, 1 if fast else 3
                    )
    for name in PRODUCTS:
        for strategy in ("ddp", "fsdp"):
            for accumulate in (1, 2):
                slow = "" if name == "ESGD-1" or accumulate == 2 else "slow "
                found[f"{slow}products[{name}-{strategy}-{accumulate}]"] = partial(products, name, strategy, accumulate)
    for name in METHODS:
        for strategy in ("ddp", "fsdp"):
            slow = "" if name in ("AdamW", "ESGD") else "slow "
            found[f"{slow}resumed[{name}-{strategy}]"] = partial(resumed, name, strategy)
            for accumulate in (1, 2):
                slow = "" if (name, accumulate) in (("AdamW", 1), ("AutoSGM", 2), ("ESGD", 2)) else "slow "
                out, back = (strategy, None), (None, strategy)
                for there, here in (out, back):
                    title = f"reshaped[{name}-{there or 'one'}-{here or 'one'}-{accumulate}]"
                    found[slow + title] = partial(reshaped, name, there, here, accumulate)
    for strategy in ("ddp", "fsdp"):
        for check in (weights_of_the_first, noise_of_its_own, buffers_of_the_first, parameters_stay, containers):
            found[f"{check.__name__}[{strategy}]"] = partial(check, strategy)
        found[f"overflow_is_agreed[{strategy}]"] = partial(overflow_is_agreed, strategy)
        for workers in (0, 2):
            slow = "" if workers == 0 or strategy == "ddp" else "slow "
            found[f"{slow}loader[{strategy}-{workers}]"] = partial(loader, strategy, workers)
            found[f"{slow}loader_resumed[{strategy}-{workers}]"] = partial(loader_resumed, strategy, workers)
        found[f"loader_reshaped[{strategy}-one]"] = partial(loader_reshaped, strategy, None)
        found[f"loader_reshaped[one-{strategy}]"] = partial(loader_reshaped, None, strategy)
    for check in (differences_take_the_whole_step, sends_once_a_step, sums_and_wishes, unshardable_reason):
        found[check.__name__] = check
    return found


def alike(store: Any, name: str, passed: bool) -> bool:
    """True where the check ended in every process as it did here."""
    store.set(f"{name} {dist.get_rank()}", str(passed))
    return len({store.get(f"{name} {rank}") for rank in range(dist.get_world_size())}) == 1


def main(rank: int, world: int, folder: Path, pattern: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    store: Any = dist.FileStore(str(folder / "store"), world)  # pyright: ignore[reportPrivateImportUsage]
    store.set_timeout(timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    outcomes: dict[str, str] = {}
    for name, check in table().items():
        if not re.search(pattern, name):
            continue
        try:
            check()
            outcomes[name] = "passed"
        except BaseException:
            outcomes[name] = traceback.format_exc()
        if not alike(store, name, outcomes[name] == "passed"):
            break
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    if all(outcome == "passed" for outcome in outcomes.values()):
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.modules["torchmetrics"] = None  # type: ignore[assignment] - lightning asks for its version: 3 s with transformers
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
