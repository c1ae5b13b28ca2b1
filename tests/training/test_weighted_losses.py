"""Losses that are means over tokens, class weights or masks: gradients, evaluation and records are exact."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from learner_support import At, KeepGradients, call_if, fp16, linear_learner, on_batch, pairs, same, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from weighted_support import EXAMPLES, IGNORED, LOSSES, counted, data, learner, mean, model, sum_and_count, values

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.tasks.running_means import RunningMeans
from dashpot.training import Accumulate, Callback, CancelBatch, Engine, Learner, Recorder, find_lr, train

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Relative tolerances for sums in a different order."""
# With eps=0.1, the update of ESGD does not divide by small curvatures, which would amplify rounding errors.
ESGD = partial(dp.ESGD, update_d_every=2, d_warmup=1, eps=0.1)
METHODS = {
    "SGD": torch.optim.SGD,
    "AdamW": dp.AdamW,
    "ESGD": ESGD,
    "ESGD-differences": partial(ESGD, probe="differences", relative_step=1e-3),
}


def distance(a: Learner, b: Learner) -> float:
    """Return the distance of the weights relative to their norm."""
    one, two = (torch.cat([p.detach().flatten() for p in x.model.parameters()]) for x in (a, b))
    return float((one - two).norm() / one.norm())


CASES = [(loss, method, dtype) for loss in LOSSES for method in METHODS for dtype in TOLERANCE]
FAST = [
    *((loss, "SGD", torch.float64) for loss in LOSSES),
    ("sum and count", "AdamW", torch.float32),
    ("sum and count", "ESGD", torch.float64),
]


@pytest.mark.parametrize(
    ("loss", "method", "dtype"), [pytest.param(*c, marks=[] if c in FAST else pytest.mark.slow) for c in CASES]
)
def test_accumulated_fit_equals_large_batches(loss, method, dtype):
    """In batches of 8 and steps of 4 and 4 or 2, 2, 2 and 2, the last step has 3 examples."""
    whole, parts = Recorder("grad_norm"), Recorder("grad_norm")
    large = learner(METHODS[method], loss, dtype=dtype, callbacks=[whole])
    small = learner(METHODS[method], loss, 2, 4, dtype=dtype, callbacks=[parts])
    large.fit(3)
    small.fit(3)
    # Differences of gradients at a distance of 1e-3 amplify rounding errors by a factor of 1000.
    tolerance = TOLERANCE[dtype] * (1000 if method == "ESGD-differences" else 1)
    assert small.steps == large.steps == 9
    assert distance(small, large) < tolerance
    assert values(small) == pytest.approx(values(large), rel=tolerance)
    for name in ("loss", "grad_norm"):
        assert parts.values[name] == pytest.approx(whole.values[name], rel=tolerance)


@pytest.mark.parametrize("loss", LOSSES)
def test_evaluation_does_not_depend_on_batch_size(loss):
    """Weighted by examples, the loss with class weights was .5074, .5176 and .5509 for batches of 64, 8 and 5."""
    x, y = data(torch.float64)
    one = learner(torch.optim.SGD, loss)
    means = [one.evaluate(Batches(x, y, size)) for size in (EXAMPLES, 8, 5, 1)]
    direct = LOSSES[loss]["loss"](one.model(x), y)
    direct = direct[0] / direct[1] if isinstance(direct, tuple) else direct
    assert means[0]["loss"] == pytest.approx(direct.item(), rel=1e-12)
    for other in means[1:]:
        assert other == pytest.approx(means[0], rel=1e-12)


def test_step_records_are_means_over_counts():
    """`train` and its records use the counts, as `Recorder` does."""
    x, y = data(torch.float64)
    problem = dp.tasks.Problem(model(torch.float64), Batches(x, y, 5), sum_and_count)
    [epoch] = train(problem, torch.optim.SGD(problem.model.parameters(), lr=0.0), 1)
    total, count = sum_and_count(problem.model(x), y)
    assert epoch.train["loss"] == pytest.approx((total / count).item(), rel=1e-12)


def test_find_lr_with_accumulation_equals_large_batches():
    x, y = (part[:16] for part in data(torch.float64))  # the steps of the test continue over the ends of passes
    curves = []
    for size, accumulate in ((8, 1), (4, 2)):
        options = {"loss": sum_and_count, "optimizer": torch.optim.SGD, "engine": Engine("cpu")}
        one = Learner(model(torch.float64), Batches(x, y, size), **options)
        curves.append(find_lr(one, end=0.1, callbacks=[Accumulate(accumulate)]))
    assert curves[0].lrs == curves[1].lrs
    assert len(curves[0].losses) > 30
    assert curves[0].losses == pytest.approx(curves[1].losses, rel=1e-12)


# ---- edge cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_without_counted_label_changes_nothing(accumulate):
    x, y = data(torch.float64)
    y[4:8] = IGNORED
    options = {"loss": sum_and_count, "optimizer": torch.optim.SGD, "lr": 0.1, "engine": Engine("cpu")}
    learners = []
    for rows in (torch.arange(12), torch.cat([torch.arange(4), torch.arange(8, 12)])):
        one = Learner(model(torch.float64), Batches(x[rows], y[rows], 4), Batches(x[rows], y[rows], 4), **options)
        one.fit(2, callbacks=[Accumulate(accumulate if len(rows) == 12 else 1)])
        learners.append(one)
    if accumulate == 1:
        assert distance(*learners) < 1e-12
        assert values(learners[0]) == pytest.approx(values(learners[1]), rel=1e-12)
    assert all(value.isfinite().all() for value in weights(learners[0]))


def test_mean_over_no_label_is_nan_and_step_is_zero():
    x, y = data(torch.float64)
    one = Learner(
        model(torch.float64),
        Batches(x, torch.full_like(y, IGNORED), 4),
        loss=sum_and_count,
        optimizer=torch.optim.SGD,
        lr=0.1,
        engine=Engine("cpu"),
    )
    before = weights(one)
    one.fit(1, callbacks=[Accumulate(2)])
    assert same(before, weights(one))
    assert one.history[0]["train"] == pytest.approx({"loss": float("nan")}, nan_ok=True)


def test_evaluation_excludes_undefined_mean_of_weight_zero():
    x, y = data(torch.float64)
    y[4:8] = IGNORED
    one = Learner(model(torch.float64), pairs(), loss=mean, weight=counted, optimizer=dp.SGD, engine=Engine("cpu"))
    kept = torch.cat([torch.arange(4), torch.arange(8, EXAMPLES)])
    assert one.evaluate(Batches(x, y, 4))["loss"] == pytest.approx(mean(one.model(x[kept]), y[kept]).item(), rel=1e-12)


@pytest.mark.parametrize("loss", ["sum and count", "examples"])
def test_cancelled_microbatch_leaves_its_count_out(loss):
    x, y = data(torch.float64)
    cancel = At("after_loss", call_if(lambda _: (_ for _ in ()).throw(CancelBatch), on_batch(1)))
    options = {"loss": LOSSES[loss]["loss"], "optimizer": torch.optim.SGD, "lr": 0.1, "engine": Engine("cpu")}
    three = [(x[part], y[part]) for part in (slice(4), slice(4, 8), slice(8, 11))]
    cancelled = Learner(model(torch.float64), three, **options)
    cancelled.fit(1, callbacks=[Accumulate(3), cancel])
    kept = torch.cat([torch.arange(4), torch.arange(8, 11)])
    expected = Learner(model(torch.float64), [(x[kept], y[kept])], **options)
    expected.fit(1)
    assert distance(cancelled, expected) < 1e-12


def test_kept_gradients_are_not_scaled():
    """Heavy ball by a callback that keeps 0.85 of the gradient, with steps of 4 + 4 and 4 + 2 examples."""
    x, y = data(torch.float64)
    parts = [(x[part], y[part]) for part in (slice(4), slice(4, 8), slice(8, 12), slice(12, 14))]
    wholes = [(x[part], y[part]) for part in (slice(8), slice(8, 14))]
    options = {"loss": sum_and_count, "optimizer": torch.optim.SGD, "lr": 0.1, "engine": Engine("cpu")}
    small, large = (Learner(model(torch.float64), batches, **options) for batches in (parts, wholes))
    small.fit(2, callbacks=[Accumulate(2), KeepGradients()])
    large.fit(2, callbacks=[KeepGradients()])
    assert distance(small, large) < 1e-12


def test_sparse_gradients_are_scaled():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.table = nn.Embedding(3, 2, sparse=True)

        def forward(self, x):
            return self.table(x)

    indices, labels = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 1, 0, 1])
    learned = []
    for parts in ([slice(3), slice(3, 5)], [slice(5)]):
        one = linear_learner([(indices[part], labels[part]) for part in parts], model=Bag())
        one.fit(1, callbacks=[Accumulate(2)])
        learned.append(weights(one)[0])
    torch.testing.assert_close(*learned, rtol=1e-6, atol=1e-7)


def test_gradients_are_scaled_only_after_unequal_batches(monkeypatch):
    factors = []
    monkeypatch.setattr("dashpot.training.learner.multiply_gradients", lambda grads, factor: factors.append(factor))
    for size in (3, 4, 5):  # 3 + 3, 3 + 3; 4 + 4, 4; 5 + 5, 2 examples per step
        linear_learner(pairs(size)).fit(1, callbacks=[Accumulate(2)])
    assert factors == []
    linear_learner(pairs(5)).fit(1, callbacks=[Accumulate(3)])
    assert factors == [15 / 12]


# ---- precision and cost ---------------------------------------------------------------------------------------------


def test_sums_do_not_overflow_in_fp16():
    """The loss of 4 examples is a sum over 4096 pixels; the scaled gradient of this sum would overflow in float16."""

    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1024)

        def forward(self, x):
            return self.layer(x)

    def loss(output, y):
        return (output.float() - 1).square().sum(), torch.tensor(output.numel())

    skipped = []

    class Skips(Callback):
        def after_batch(self, learner):
            skipped.append(learner.training and learner.batch.is_last_microbatch and not learner.batch.stepped)

    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    learned = []
    for size, accumulate in ((8, 1), (4, 2)):
        torch.manual_seed(1)
        engine = fp16(scale=2.0**16)
        one = Learner(Pixels(), Batches(x, x, size), loss=loss, optimizer=torch.optim.SGD, lr=1.0, engine=engine)
        one.fit(1, callbacks=[Accumulate(accumulate), Skips()])
        learned.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    assert not any(skipped)
    # float16 has 11 bits of precision, and the update is about as large as the weights.
    torch.testing.assert_close(*learned, rtol=2e-3, atol=2e-3)


class Reads(TorchDispatchMode):
    """Number of values read into Python."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", ["sum and count", "class weights"])
def test_counts_are_not_read_per_batch(loss):
    with Reads() as reads:
        learner(torch.optim.SGD, loss, 2, 4, metrics={}).fit(2, evaluate=False)
    with Reads() as plain:
        learner(torch.optim.SGD, "examples", 2, 4, metrics={}).fit(2, evaluate=False)
    assert reads.count <= plain.count + 2  # with a constant number per fit


# ---- state and messages ---------------------------------------------------------------------------------------------


def test_running_means_restore_counts_and_read_states_without_counts():
    def share(output, y):
        return output.sum(), torch.tensor(2)

    means = RunningMeans({"share": share, "rows": lambda output, y: len(output)})
    means.add(torch.ones(3), None, torch.tensor(0.5), 3, torch.tensor(6))
    means.add(torch.ones(1), None, torch.tensor(2.0), 1, torch.tensor(2))
    expected = {"loss": (0.5 * 6 + 2.0 * 2) / 8, "share": 1.0, "rows": 1.0}
    assert means.values() == expected
    restored = RunningMeans(means.metrics)
    restored.load_state_dict(means.state_dict())
    assert restored.values() == expected
    merged = RunningMeans(means.metrics)
    merged.load_state_dict(RunningMeans.merged([means.state_dict(), means.state_dict()]))
    assert merged.values() == expected
    old = RunningMeans(means.metrics)
    old.load_state_dict({"count": 4, "sums": [2.0, 4.0, 4.0]})
    assert old.values() == {"loss": 0.5, "share": 1.0, "rows": 1.0}
    plain = RunningMeans({})
    plain.add(None, None, torch.tensor(1.0), 2)
    assert plain.state_dict() == {"count": 2, "sums": [2.0]}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"weight": lambda output, y: y.float()},
            r"Learner: weight\(output, y\) must be a tensor with one element, got",
        ),
        ({"weight": lambda output, y: "4"}, r"weight\(output, y\) must be a tensor with one element, got str\.$"),
        (
            {"loss": lambda output, y: (output, 4)},
            r"must be a tensor with one element, got shape \(4, 2\)",
        ),
        (
            {"loss": lambda output, y: (output.sum(), None)},
            r"count of a loss \(sum, count\) must be .* NoneType",
        ),
        (
            {"loss": lambda output, y: (output.sum(), 4, 4)},
            r"loss of a batch must be .* got \(a 0-d tensor, 4, 4\)\.$",
        ),
        ({"size": 4}, r"Learner: size must be a function of \(x, y\) or None, got 4"),
        ({"weight": 4}, r"Learner: weight must be a function of \(output, y\) or None, got 4"),
    ],
)
def test_invalid_counts_raise(options, text):
    with pytest.raises(ArgumentError, match=text):
        linear_learner(pairs(), **options).fit(1)


def test_number_as_count_is_accepted():
    by_number = linear_learner(pairs(), loss=lambda output, y: (output.square().sum(), output.numel()))
    by_mean = linear_learner(pairs(), loss=lambda output, y: output.square().mean())
    by_number.fit(1)
    by_mean.fit(1)
    torch.testing.assert_close(weights(by_number), weights(by_mean), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "count"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), "loss.weight[y].sum()."),
        (nn.NLLLoss(ignore_index=255), "(y != 255).sum()."),
        (nn.CrossEntropyLoss(torch.ones(2), ignore_index=0), "loss.weight[y].sum(), without ignored labels."),
    ],
    ids=["class weights", "ignored labels", "both"],
)
def test_learner_with_weighted_mean_of_torch_warns(loss, count):
    data = [(torch.zeros(2, 2), torch.tensor([0, 1]))]
    options = {"optimizer": torch.optim.SGD, "lr": 0.1, "engine": Engine("cpu")}
    with pytest.warns(UserWarning, match="is not over examples, so results depend on the batch size") as caught:
        Learner(nn.Linear(2, 2), data, loss=loss, **options)
    assert str(caught[0].message).endswith(f"Pass weight=lambda output, y: {count}")
    Learner(nn.Linear(2, 2), data, loss=loss, weight=lambda output, y: len(y), **options)  # warnings are errors
    for exact in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(torch.ones(2), reduction="sum")):
        Learner(nn.Linear(2, 2), data, loss=exact, **options)
