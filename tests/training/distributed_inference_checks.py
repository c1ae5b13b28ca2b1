"""Distributed checks of metric objects, and of evaluation and prediction outside the phases of a fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from distributed_support import (
    StopAt,
    assert_equal_on_all_ranks,
    assert_raises,
    data,
    engine,
    history_values,
    learner,
    problem,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader

import dashpot as dp
from dashpot.data import Batches
from dashpot.tasks import Problem, WholeEpoch, accuracy
from dashpot.training import EMA, Callback, Learner

make = partial(dp.AdamW, lr=0.05)


class Share(nn.Module):
    """Accuracy as an object with the methods of torchmetrics for several processes, without the import of 5 seconds."""

    sync_on_compute = True
    dist_sync_fn: Any = None
    counts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(2))
        self.distributed_available_fn = lambda: False

    def update(self, output: torch.Tensor, y: torch.Tensor) -> None:
        self.counts += torch.tensor([float((output.argmax(1) == y).sum()), len(y)])

    def compute(self) -> torch.Tensor:
        if self.distributed_available_fn():
            self.sync(self.dist_sync_fn)
        hits, examples = self.counts
        if self.distributed_available_fn():
            self.unsync()
        return hits / examples

    def reset(self) -> None:
        self.counts = torch.zeros(2)

    def sync(self, dist_sync_fn: Any, distributed_available: Any = None) -> None:
        self.own = self.counts
        self.counts = torch.stack(dist_sync_fn(self.counts, None)).sum(0)

    def unsync(self) -> None:
        self.counts = self.own

    def persistent(self, mode: bool) -> None: ...


def metric_objects(objects: str) -> dict[str, Any]:
    if objects == "own":
        return {"micro": Share()}
    from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

    return {"micro": MulticlassAccuracy(3, average="micro"), "auroc": MulticlassAUROC(3)}


def scored(strategy: str | None, objects: str) -> Learner:
    """Return a learner with metric objects; rank 1 has no example of the last batch."""
    given = problem(torch.float64)
    given.metrics = {
        "accuracy": accuracy,
        **metric_objects(objects),
        "norm": WholeEpoch(lambda output, y: (output * (1 + y[:, None])).norm()),
    }
    return learner(make, strategy, custom=given)


def metric_objects_agree(objects: str, strategy: str) -> None:
    actual, expected = scored(strategy, objects), scored(None, objects)
    actual.fit(2)
    expected.fit(2)
    assert_equal_on_all_ranks(actual)
    for found, wanted in zip(actual.history, expected.history, strict=True):
        for phase, means in wanted.items():
            assert list(found[phase]) == list(means)
            # the objects accumulate in float32
            torch.testing.assert_close(list(found[phase].values()), list(means.values()), rtol=1e-6, atol=1e-6)
            assert abs(found[phase]["micro"] - found[phase]["accuracy"]) < 1e-6


def metric_objects_resume(objects: str, strategy: str) -> None:
    expected, stop, actual = scored(strategy, objects), StopAt(4), scored(strategy, objects)
    expected.fit(2)
    scored(strategy, objects).fit(2, callbacks=[stop])
    actual.fit(2, resume=stop.state)
    assert actual.history == expected.history
    alone = scored(None, objects)
    message = "saved within an epoch by 2 processes must be resumed with the same number, got 1"
    assert_raises(dp.RunError, message, lambda: alone.fit(2, resume=stop.state))


def regression(strategy: str | None, batch_size: int) -> Learner:
    from torchmetrics import MeanSquaredError, PearsonCorrCoef

    x, _ = data(torch.float64)
    y = x.sum(1) + 0.1 * x[:, 0] ** 2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).double()
    metrics = {"pearson": PearsonCorrCoef(), "mse": MeanSquaredError()}
    given = Problem(model, Batches(x, y, 4), nn.functional.mse_loss, Batches(x, y, batch_size), metrics)
    return Learner.of(given, make, engine=engine(strategy))


def objects_with_merged_statistics_agree() -> None:
    actual, expected = regression("ddp", 4).evaluate(), regression(None, 4).evaluate()
    assert abs(actual["pearson"] - expected["pearson"]) < 1e-6
    assert abs(actual["mse"] - expected["mse"]) < 1e-6
    assert expected["mse"] > 0


class Totals:
    """Object that cannot be computed over several processes."""

    def update(self, output: Any, y: Any) -> None: ...
    def compute(self) -> float: ...
    def reset(self) -> None: ...


def assert_not_synchronized(metric: Any) -> None:
    given, name = problem(), type(metric).__name__
    given.metrics = {"total": metric}
    message = f"metric 'total' must be a torchmetrics object with sync_on_compute=True, or a WholeEpoch, got {name}"
    assert_raises(dp.ArgumentError, message, lambda: Learner.of(given, make, engine=engine("ddp")))
    Learner.of(given, make, engine=engine(None))


def objects_that_cannot_be_synchronized_raise() -> None:
    assert_not_synchronized(Totals())


def objects_that_are_not_synchronized_raise() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    assert_not_synchronized(MulticlassAccuracy(3, sync_on_compute=False))


class Probe(Callback):
    """Evaluate and predict within a fit."""

    order = 30

    def __init__(self) -> None:
        self.found: list[Any] = []

    def after_step(self, learner: Any) -> None:
        inputs = data(torch.float64)[0]
        self.found.append((learner.evaluate(), learner.predict([inputs[:5], inputs[5:]])))


def evaluation_within_a_fit_changes_nothing(strategy: str) -> None:
    def fitted(*callbacks: Callback) -> Learner:
        torch.manual_seed(3)
        made = learner(make, strategy, dtype=torch.float64, noisy=True, examples=15)
        made.fit(2, callbacks=[EMA(0.5), *callbacks])
        return made

    probe = Probe()
    actual, expected = fitted(probe), fitted()
    found, wanted = weights(actual), weights(expected)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert history_values(actual.history) == history_values(expected.history)
    assert_equal_on_all_ranks(actual)
    assert len(probe.found) == actual.steps
    means, outputs = probe.found[-1]
    assert means == actual.history[-1]["eval"] == actual.evaluate()
    ranks = actual.engine.all_gather(outputs)
    assert all(torch.equal(ranks[0], other) for other in ranks)


def predictions_are_in_order(strategy: str) -> None:
    x, y = data(torch.float64)
    actual, expected = (learner(make, where, dtype=torch.float64) for where in (strategy, None))
    examples = list(zip(x, y, strict=True))
    for source in (Batches(x, y, 5), [x[:5], x[5:10], x[10:]], DataLoader(examples, 5), DataLoader(list(x), 5)):
        found, wanted = actual.predict(source), expected.predict(source)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(actual.engine.all_gather(found)[1], found, rtol=0, atol=0)
