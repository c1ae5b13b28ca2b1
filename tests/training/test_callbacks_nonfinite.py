"""Non-finite gradients and losses: diagnosis, actions and files."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from learner_support import learner, problem, same, weights
from torch import nn

import dashpot as dp
from dashpot.data import Batches, generator
from dashpot.errors import ArgumentError, NonFiniteError, RunError
from dashpot.schedules import Cosine
from dashpot.tasks import Problem
from dashpot.training import Callback, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.nonfinite import NonFinite
from dashpot.training.callbacks.nonfinite_trace import label
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.schedule import Schedule


class SetGradients(Callback):
    """Overwrite elements of gradients at one batch of the first epoch."""

    def __init__(self, batch=1, **values):
        self.batch, self.values = batch, {name.replace("_", ".", 1): value for name, value in values.items()}

    def after_backward(self, learner):
        named = dict(learner.model.named_parameters())
        for name, value in self.values.items() if (learner.epoch, learner.batch.index) == (0, self.batch) else ():
            named[f"{name}"].grad.view(-1)[: len(value)] = torch.tensor(value)


def stopped(*callbacks, watch=None, make=torch.optim.SGD, epochs=2, **options):
    """Return the learner and the report of a stopped fit."""
    watch = NonFinite() if watch is None else watch
    subject = learner(make, 0.1, callbacks=[*callbacks, watch], **options)
    with pytest.warns(RuntimeWarning, match="non-finite") as caught:
        subject.fit(epochs)
    assert [str(entry.message) for entry in caught] == watch.reports[:1]
    return subject, watch.reports[0]


# ---- report ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [([math.nan], "nan"), ([math.inf], "inf"), ([-math.inf], "inf"), ([math.inf, math.nan], "nan")],
    ids=["nan", "inf", "-inf", "both"],
)
def test_report_has_label_parameter_and_layer(values, kind):
    subject, report = stopped(SetGradients(**{"1_weight": values}))
    assert report.startswith(
        f"Step 2 (epoch 1, batch 2) has non-finite gradients: {kind} in 1.weight (BatchNorm1d). "
        "All outputs of the model are finite; the origin is in the backward pass. Sums of the parameters: 0.weight "
    )
    assert subject.stop_reason == report


def test_report_lists_at_most_four_parameters():
    values = {name: [math.nan] for name in ("0_weight", "0_bias", "1_weight", "1_bias", "4_weight")}
    _, report = stopped(SetGradients(**values | {"0_bias": [math.inf]}))
    expected = "nan in 0.weight (Linear), inf in 0.bias (Linear), nan in 1.weight (BatchNorm1d), nan in 1.bias"
    assert expected in report
    assert "(BatchNorm1d) and 1 more." in report


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1.0, -math.inf], "inf"), ([math.nan, math.inf], "nan"), ([0.0], None), ([], None)],
)
def test_label(value, expected):
    assert label(torch.tensor(value)) == expected
    assert label(torch.tensor(value).to(torch.bfloat16)) == expected


def test_missing_gradient_is_ignored():
    class Freeze(Callback):
        order = 1

        def after_backward(self, learner):
            next(learner.model.parameters()).grad = None

    _, report = stopped(Freeze(), SetGradients(**{"4_bias": [math.nan]}))
    assert ": nan in 4.bias (Linear)." in report
    subject = learner(torch.optim.SGD, 0.1, callbacks=[Freeze(), NonFinite()])
    subject.fit(1)
    assert subject.steps == 3


class PartialLog(nn.Module):
    """Identity in the first calls, then the logarithm, which is NaN for negative inputs."""

    def __init__(self, first):
        super().__init__()
        self.first, self.calls = first, 0

    def forward(self, x):
        self.calls += 1
        return x.log() if self.calls > self.first else x


def learner_with_log(first=0, batches=3, watch=None, callbacks=()):
    x, y = torch.randn(4 * batches, 4), torch.arange(4 * batches) % 3
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Sequential(nn.BatchNorm1d(8), PartialLog(first)), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    made = Problem(model=model, train=Batches(x, y, 4), loss=nn.functional.cross_entropy)
    return Learner.of(made, dp.SGD, lr=0.1, callbacks=[watch or NonFinite(), *callbacks], engine=Engine("cpu"))


def test_report_has_the_first_module_with_nonfinite_output():
    subject = learner_with_log(first=1)
    with pytest.warns(RuntimeWarning, match="non-finite"):
        subject.fit(1)
    assert subject.stop_reason.startswith("Step 2 (epoch 1, batch 2) has non-finite gradients: nan in 0.weight")
    assert (
        "The loss is nan. The first module with finite inputs and nan in its output is 1.1 (PartialLog), in batch 2."
        in subject.stop_reason
    )


def test_diagnosis_changes_nothing():
    """A skipped step does not change weights, buffers, random states or hooks."""
    seen = []

    class Look(Callback):
        order = 4

        def step(self, learner, proceed):
            before = [learner.model.state_dict()[k].clone() for k in learner.model.state_dict()]
            random = torch.get_rng_state()
            proceed()
            seen.append(same(before, weights(learner)) and torch.equal(random, torch.get_rng_state()))
            seen.append(not any(module._forward_hooks for module in learner.model.modules()))

    subject = learner_with_log(watch=NonFinite(then="skip"), callbacks=[Look()])
    with pytest.warns(RuntimeWarning, match="first module"):
        subject.fit(1)
    assert seen == [True] * 6


def test_report_of_nonfinite_inputs_and_weights():
    made = problem()
    order = torch.randperm(len(made.train.x), generator=generator("order", made.train.seed, 0))
    made.train.x[order[5]] = math.inf
    subject = Learner.of(made, torch.optim.SGD, lr=0.1, callbacks=[NonFinite()], engine=Engine("cpu"))
    with pytest.warns(RuntimeWarning, match="In batch 2, x contains inf"):
        subject.fit(1)
    subject = learner(torch.optim.SGD, 0.1, callbacks=[NonFinite()])
    with torch.no_grad():
        subject.model[4].bias[0] = math.inf
    with pytest.warns(RuntimeWarning, match=r"Non-finite weights: inf in 4.bias \(Linear\)"):
        subject.fit(1)


def test_diagnosis_covers_all_accumulated_batches():
    subject = learner_with_log(first=0, watch=NonFinite(), callbacks=[Accumulate(3)])
    subject.model[1][1].calls = -1  # identity only for the first batch of the step
    with pytest.warns(RuntimeWarning, match="non-finite"):
        subject.fit(1)
    assert subject.stop_reason.startswith("Step 1 (epoch 1, batch 3)")
    assert "finite inputs and nan in its output is 1.1 (PartialLog), in batch 1." in subject.stop_reason
    assert subject.steps == 0


def test_report_with_predict_callback_has_the_tensor_of_the_batch():
    class Pair(Callback):
        def predict(self, learner, proceed):
            learner.batch.output = learner.model(learner.batch.x["data"])

    x, y = torch.randn(4, 4), torch.zeros(4, dtype=torch.long)
    x[0] = math.nan
    subject = Learner(
        nn.Linear(4, 3),
        [({"data": x}, y)],
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD,
        lr=0.1,
        callbacks=[Pair(), NonFinite()],
        engine=Engine("cpu"),
    )
    with pytest.warns(RuntimeWarning, match=r'In batch 1, x\["data"\] contains nan'):
        subject.fit(1)
    assert "nan in weight (Linear)" in subject.stop_reason


# ---- actions --------------------------------------------------------------------------------------------------------


def test_stop_precedes_the_step():
    before = []

    class Keep(Callback):
        order = 4

        def step(self, learner, proceed):
            before[:] = [p.detach().clone() for p in learner.model.parameters()]
            proceed()

    recorder = Recorder("lr", "grad_norm")
    subject, _ = stopped(Keep(), recorder, SetGradients(**{"0_bias": [math.nan]}))
    assert same(before, list(subject.model.parameters()))
    assert subject.steps == len(recorder.values["loss"]) == 1


def test_raise_raises_nonfinite_error():
    with pytest.raises(NonFiniteError, match=r"Step 2 .* nan in 0\.bias"):
        learner(torch.optim.SGD, 0.1, callbacks=[NonFinite("raise"), SetGradients(**{"0_bias": [math.nan]})]).fit(1)


@pytest.mark.parametrize("make", [torch.optim.SGD, dp.AdamW])
def test_skip_skips_the_step(make):
    """The results are equal to those of a callback that skips the step manually."""

    class SkipSecondStep(Callback):
        def step(self, learner, proceed):
            if (learner.epoch, learner.batch.index) != (0, 1):
                proceed()

    found = []
    for callbacks in ([NonFinite("skip"), SetGradients(**{"0_bias": [math.inf]})], [SkipSecondStep()]):
        torch.manual_seed(8)
        recorder = Recorder("lr", "grad_norm")
        subject = learner(make, 0.1, callbacks=[*callbacks, recorder, Schedule(Cosine)])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            subject.fit(2)
        found.append((subject, recorder.values, len(caught)))
    (skipped, of_skipped, warned), (left, of_left, none) = found
    assert same(weights(skipped), weights(left))
    assert of_skipped == of_left
    assert skipped.steps == left.steps == len(of_left["lr"]) == 5
    assert (warned, none) == (1, 0)
    assert skipped.stop_reason is None


def test_skip_warns_once_and_collects_reports():
    watch = NonFinite("skip")
    _, report = stopped(
        SetGradients(0, **{"0_bias": [math.nan]}), SetGradients(2, **{"0_bias": [math.inf]}), watch=watch
    )
    assert [entry[:6] for entry in watch.reports] == ["Step 1", "Step 2"]
    assert "inf in 0.bias" in watch.reports[1]
    assert report == watch.reports[0]


def test_skip_clears_gradients():
    class Keep(Callback):
        """Keep a part of the gradient, including any NaN."""

        def zero_grad(self, learner, proceed):
            for p in learner.model.parameters():
                if p.grad is not None:
                    p.grad *= 0.5

    subject, _ = stopped(Keep(), SetGradients(0, **{"0_bias": [math.nan]}), watch=NonFinite("skip"))
    assert subject.steps == 5
    assert all(p.isfinite().all() for p in subject.model.parameters())


def test_overflowing_norm_of_finite_gradients_is_accepted():
    """The norm of gradients of 1e30 overflows in float32."""

    class Large(Callback):
        def after_backward(self, learner):
            for p in learner.model.parameters():
                p.grad.fill_(1e30)

    watch = NonFinite("raise")
    subject = learner(torch.optim.SGD, 1e-31, callbacks=[watch, Large()])
    subject.fit(1)
    assert subject.steps == 3
    assert watch.reports == []


def test_check_of_the_loss():
    class Bad(Callback):
        def __init__(self, value):
            self.value = value

        def get_loss(self, learner, proceed):
            proceed()
            if learner.training and learner.batch.index == 1:
                learner.batch.loss = learner.batch.loss * self.value

    _, report = stopped(Bad(math.inf), watch=NonFinite(check="loss"))
    assert "The loss is inf." in report
    subject = learner(
        torch.optim.SGD, 0.1, callbacks=[NonFinite(check="loss"), SetGradients(2, **{"0_bias": [math.nan]})]
    )
    subject.fit(1, evaluate=False)  # gradients are not checked
    assert subject.steps == 3


def test_loss_scaler_skips_until_the_scale_is_too_small():
    engine = Engine("cpu", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-8)
    x, y = torch.randn(16, 4), torch.arange(16) % 3
    x[3] = math.nan
    made = Problem(model=nn.Linear(4, 3), train=Batches(x, y, 16), loss=nn.functional.cross_entropy)
    subject = Learner.of(made, torch.optim.SGD, lr=0.1, callbacks=[NonFinite()], engine=engine)
    with pytest.warns(RuntimeWarning, match="Step 1 .epoch 3, batch 1. has non-finite gradients: nan in weight"):
        subject.fit(9)
    assert engine.scaler.get_scale() == 2.0**-11
    assert subject.steps == 0


def test_overflow_of_a_large_loss_scale_is_not_reported():
    engine = Engine("cpu", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    watch = NonFinite("raise")
    subject = learner(torch.optim.SGD, 0.1, callbacks=[watch], engine=engine)
    subject.fit(12)
    assert 0 < subject.steps < 36
    assert watch.reports == []


# ---- files ----------------------------------------------------------------------------------------------------------


def test_file_contains_report_gradients_state_and_batches(tmp_path):
    watch = NonFinite(folder=tmp_path / "new" / "reports")
    subject, report = stopped(SetGradients(**{"4_bias": [math.nan]}), watch=watch)
    [path] = (tmp_path / "new" / "reports").iterdir()
    assert path.name == "nonfinite-step-2-epoch-1-batch-2.pt"
    assert f"are saved in {path}." in report
    content = torch.load(path, weights_only=True)
    assert content["gradients"] == {"4.bias": "nan"}
    assert content["first"] is None
    assert content["values"]["4.bias"].isnan().tolist() == [True, False, False]
    [batch] = content["batches"]
    expected = list(subject.train.source.epoch(0))[1]
    assert torch.equal(batch["x"], expected[0])
    assert torch.equal(batch["y"], expected[1])
    assert content["state"]["progress"]["position"] == [0, 1]
    for name, value in subject.model.named_parameters():
        assert torch.equal(content["state"]["model"][name], value)


def test_number_of_files_is_limited(tmp_path):
    class Always(Callback):
        def after_backward(self, learner):
            learner.model[4].bias.grad[0] = math.nan

    stopped(Always(), watch=NonFinite("skip", folder=str(tmp_path), keep=2))
    assert len(list(tmp_path.iterdir())) == 2


def test_fit_resumes_from_the_file(tmp_path):
    stopped(SetGradients(**{"4_bias": [math.nan]}), watch=NonFinite(folder=tmp_path), make=dp.AdamW)
    state = torch.load(next(tmp_path.iterdir()), weights_only=True)["state"]
    state["callbacks"].pop("SetGradients")
    again = learner(dp.AdamW, 0.1, callbacks=[NonFinite()])
    again.fit(2, resume=state)
    assert again.steps == 6


def test_unwritable_folder_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Cannot write"):
        learner(callbacks=[NonFinite(folder=tmp_path / "file" / "folder")]).fit(1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"then": "ignore"}, "then must be one of 'stop', 'skip', 'raise', got 'ignore'"),
        ({"check": "weights"}, "check must be one of 'gradients', 'loss', got 'weights'"),
        ({"folder": 3}, "folder must be None or a path, got 3"),
        ({"keep": 0}, "keep must be an integer in [1, inf), got 0"),
    ],
)
def test_invalid_arguments_are_rejected(options, sentence):
    with pytest.raises(ArgumentError) as caught:
        NonFinite(**options)
    assert sentence in str(caught.value)
