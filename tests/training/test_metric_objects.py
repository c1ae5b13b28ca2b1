"""Metric objects like those of torchmetrics, collections of them, and metrics of a whole epoch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from learner_support import At, StopAt, X, Y, linear_learner, pairs
from slow_values import others_slow
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_auroc, multiclass_f1_score
from torchmetrics.wrappers import ClasswiseWrapper

from dashpot import AdamW, tasks
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Problem, WholeEpoch, accuracy
from dashpot.tasks.running_means import RunningMeans
from dashpot.training import Engine, Learner

MACRO = {"num_classes": 2, "average": "macro"}
MICRO = {"num_classes": 2, "average": "micro"}


def objects() -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "micro": MulticlassAccuracy(**MICRO),
        "f1": MulticlassF1Score(**MACRO),
        "auroc": MulticlassAUROC(num_classes=2),
        "recall": WholeEpoch(lambda output, y: (output.argmax(1) == y)[y == 1].float().mean()),
    }


def metric_learner(metrics=None, batch=4, **options):
    return linear_learner(pairs(batch), evaluation=pairs(batch), metrics=metrics or objects(), **options)


def test_torchmetrics_accuracy_equals_the_sum_of_correct_predictions():
    given = tasks.get("digits").build(seed=0)
    given.metrics |= {"micro": MulticlassAccuracy(num_classes=10, average="micro")}
    subject = Learner.of(given, AdamW, lr=0.01, engine=Engine("cpu"))
    subject.fit(2)
    for epoch in subject.history:
        for means in epoch.values():
            assert list(means) == ["loss", "accuracy", "micro"]
            assert means["micro"] == pytest.approx(means["accuracy"], rel=1e-6)  # torchmetrics computes in float32
    assert subject.history[-1]["eval"]["micro"] > 0.7
    assert tasks.evaluate(given) == subject.history[-1]["eval"]


@pytest.mark.parametrize("batch", [4, 5, 12])
def test_values_of_objects_are_those_of_the_whole_epoch(batch):
    subject = metric_learner(batch=batch)
    subject.fit(2)
    output = subject.model(X).detach()
    found = subject.history[-1]["eval"]
    expected = {
        "accuracy": accuracy(output, Y) / 12,
        "micro": multiclass_accuracy(output, Y, **MICRO),
        "f1": multiclass_f1_score(output, Y, **MACRO),
        "auroc": multiclass_auroc(output, Y, num_classes=2),
        "recall": (output.argmax(1) == Y)[Y == 1].float().mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-6), name
    assert list(found) == ["loss", *expected]


def test_training_phase_uses_detached_outputs_and_copies_of_the_objects():
    class Stored(MeanMetric):
        def update(self, output, y):
            requires_grad.append(output["logits"].requires_grad)
            super().update(output["logits"])

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            return {"logits": self.inner(x)}

    requires_grad: list[bool] = []
    given = Stored()
    subject = metric_learner(
        {"mean": given}, model=Logits(), loss=lambda output, y: nn.functional.cross_entropy(output["logits"], y)
    )
    subject.fit(1)
    assert requires_grad == [False] * 6
    assert not given.update_called


def test_collection_gives_a_column_for_each_member():
    made = {"f1": MulticlassF1Score(**MACRO), "micro": MulticlassAccuracy(**MICRO)}
    collection = MetricCollection(copy.deepcopy(made), prefix="all_")
    subject = metric_learner({"accuracy": accuracy, "scores": collection})
    assert list(subject.metrics) == ["accuracy", "all_f1", "all_micro"]
    subject.fit(1)
    alone = metric_learner(MetricCollection(made))
    alone.fit(1)
    found, expected = subject.history[0]["eval"], alone.history[0]["eval"]
    assert (found["all_f1"], found["all_micro"]) == (expected["f1"], expected["micro"])


def test_dict_values_become_columns_without_items_that_are_not_numbers():
    labels = ClasswiseWrapper(MulticlassAccuracy(num_classes=2, average=None), labels=["no", "yes"])
    both = WholeEpoch(lambda output, y: {"count": len(y), "each": torch.ones(3)})
    subject = metric_learner({"by": labels, "all": both})
    subject.fit(1)
    means = subject.history[0]["eval"]
    assert list(means) == ["loss", "by_multiclassaccuracy_no", "by_multiclassaccuracy_yes", "all_count"]
    correct = subject.model(X).argmax(1) == Y
    assert means["by_multiclassaccuracy_yes"] == pytest.approx(correct[Y == 1].float().mean().item())
    assert means["all_count"] == 12


def test_vector_value_raises():
    subject = metric_learner({"each": MulticlassAccuracy(num_classes=2, average=None)})
    with pytest.raises(ArgumentError, match=r"Metric 'each' must compute a number or a dict of numbers, got shape \(2"):
        subject.evaluate()


class Counter:
    """Object with only the three methods."""

    def __init__(self):
        self.count = 99

    def reset(self):
        self.count = 0

    def update(self, output, y):
        self.count += len(y)

    def compute(self):
        return self.count


def test_object_with_only_update_compute_and_reset_is_reset_for_every_phase():
    subject = metric_learner({"count": Counter()})
    subject.fit(2)
    assert [means["count"] for epoch in subject.history for means in epoch.values()] == [12.0] * 4


def test_phase_without_batches_has_no_values():
    assert RunningMeans({"f1": MulticlassF1Score(**MACRO)}).values() == {}


@pytest.mark.parametrize(
    "metrics", [objects(), {"pearson": PearsonCorrCoef(num_outputs=2)}], ids=["objects", "pearson"]
)
def test_evaluate_within_a_fit_does_not_affect_metric_objects(metrics):
    if "pearson" in metrics:
        metrics = {"pearson": WholeEpoch(lambda output, y: output.std())}
    actual, expected = metric_learner(metrics), metric_learner(metrics)
    actual.fit(2, callbacks=[At("after_step", lambda learner: learner.evaluate())])
    expected.fit(2)
    assert actual.history == expected.history


def regression(metrics):
    torch.manual_seed(3)
    batches = [(x, x.sum(1)) for x, _ in pairs()]
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    problem = Problem(model, StreamOf(batches), nn.functional.mse_loss, StreamOf(batches), metrics)
    return Learner.of(problem, torch.optim.SGD, lr=0.1, engine=Engine("cpu"))


class StreamOf:
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, index):
        return iter(self.batches)


@pytest.mark.parametrize("batches", others_slow([1, 2, 5], 2))
def test_resume_within_an_epoch_restores_metric_objects(batches):
    def make():
        return regression({"pearson": PearsonCorrCoef(), "mae": MeanAbsoluteError(), "all": WholeEpoch(ratio)})

    def ratio(output, y):
        return output.norm() / y.norm()

    stop, expected, actual = StopAt(batches), make(), make()
    expected.fit(2)
    make().fit(2, callbacks=[stop])
    assert stop.state is not None
    before = copy.deepcopy(stop.state["progress"])
    actual.fit(2, resume=stop.state)
    assert actual.history == expected.history
    torch.testing.assert_close(stop.state["progress"], before, rtol=0, atol=0)


def test_classification_objects_resume_within_an_epoch():
    stop, expected, actual = StopAt(4), metric_learner(), metric_learner()
    expected.fit(2)
    metric_learner().fit(2, callbacks=[stop])
    actual.fit(2, resume=stop.state)
    assert actual.history == expected.history


def test_attributes_of_an_object_without_state_dict_are_saved_within_an_epoch():
    class Ratio(Counter):
        def update(self, output, y):
            super().update(output, y)
            self.correct = getattr(self, "correct", torch.zeros(())) + (output.argmax(1) == y).sum()

        def compute(self):
            return self.correct / self.count

    def make():
        return metric_learner({"ratio": Ratio()})

    stop, expected, actual = StopAt(2), make(), make()
    expected.fit(2)
    make().fit(2, callbacks=[stop])
    actual.fit(2, resume=stop.state)
    assert actual.history == expected.history
    assert 0 < actual.history[0]["train"]["ratio"] < 1


class Opaque(Counter):
    def reset(self):
        super().reset()
        self.file = object()


class Slots:
    __slots__ = ()

    def update(self, output, y): ...
    def reset(self): ...
    def compute(self):
        return 0


@pytest.mark.parametrize("metric", [Opaque(), Slots()])
def test_other_attributes_of_an_object_without_state_dict_raise_within_an_epoch(metric):
    stop, kind = StopAt(1), type(metric).__name__
    with pytest.raises(RunError, match=rf"Metric 'own' must define state_dict and load_state_dict .* got {kind}"):
        metric_learner({"own": metric}).fit(1, callbacks=[stop])
    metric_learner({"own": metric}).fit(1, callbacks=[At("cleanup_epoch", saved)])


def saved(learner):
    return None if learner.training else learner.state_dict()


def test_resume_without_the_state_of_an_object_or_by_more_processes_raises():
    stop = StopAt(1)
    metric_learner().fit(1, callbacks=[stop])
    missing = copy.deepcopy(stop.state)
    assert missing is not None
    del missing["progress"]["means"][0]["objects"]["f1"]
    with pytest.raises(RunError, match="has no state of the metric object 'f1'"):
        metric_learner().fit(1, resume=missing)
    missing["progress"]["means"] *= 2
    with pytest.raises(RunError, match="by 2 processes must be resumed with the same number, got 1"):
        metric_learner().fit(1, resume=missing)


# ---- functions of a whole epoch -------------------------------------------------------------------------------------


def test_whole_epoch_calls_functions_of_sklearn_with_arrays_and_targets_first():
    def precision(y_true, y_score, *, positive=1):
        assert type(y_true) is type(y_score)
        assert type(y_true).__module__ == "numpy"
        predicted = y_score.argmax(1) == positive
        return (y_true[predicted] == positive).mean()

    subject = metric_learner({"precision": WholeEpoch(precision)})
    subject.model.to(torch.bfloat16)
    data = [(x.bfloat16(), y) for x, y in pairs()]
    predicted = subject.model(X.bfloat16()).argmax(1) == 1
    assert subject.evaluate(data)["precision"] == pytest.approx((Y[predicted] == 1).double().mean().item())


def test_whole_epoch_accepts_functions_without_signature():
    metric = WholeEpoch(torch.dot)
    metric.update(torch.ones(2), torch.tensor([1.0, 2.0]))
    assert metric.compute() == 3.0


@pytest.mark.parametrize(
    ("output", "y", "message"),
    [
        ({"a": X}, Y, "WholeEpoch: output must be a tensor with a row per example, got dict"),
        (X, torch.tensor(1), "WholeEpoch: y must be a tensor with a row per example, got a 0-d tensor"),
    ],
)
def test_whole_epoch_of_other_values_raises(output, y, message):
    with pytest.raises(ArgumentError, match=message):
        WholeEpoch(lambda output, y: 0).update(output, y)


# ---- rejected metrics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"a": MulticlassAccuracy}, "metric 'a' must be an instance, got the class MulticlassAccuracy"),
        ({"a": 3}, "metric 'a' must be a function of .*, or an object with update, compute and reset, got int"),
        (
            {"a": multiclass_accuracy},
            "must return a sum .*, but torchmetrics's multiclass_accuracy returns",
        ),
        ({"a": accuracy, "b": MetricCollection({"a": MeanMetric()})}, "must have distinct names, got 'a' twice"),
        ({"b": MetricCollection({"loss": MeanMetric()})}, "must have names other than 'loss', got 'loss'"),
        ([accuracy], "must be a mapping of names to functions of .* or metric objects, got list"),
    ],
)
def test_invalid_metrics_raise(metrics, message):
    with pytest.raises(ArgumentError, match=f"^Learner: .*{message}"):
        metric_learner(metrics)


def test_whole_epoch_of_a_value_that_is_not_callable_raises():
    bad: Any = "f1"
    with pytest.raises(ArgumentError, match="WholeEpoch: function must be a function of"):
        WholeEpoch(bad)
