"""Gradients that are not finite: found before they do harm, named, written down, and dealt with as told."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from learner_support import learner, problem, same, weights
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError, NonFiniteError, RunError
from dashpot.schedules import Cosine
from dashpot.tasks import Problem
from dashpot.training import Callback, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.nonfinite import NonFinite
from dashpot.training.callbacks.nonfinite_report import label
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.schedule import Schedule


class Spoil(Callback):
    """Puts values into the gradients of parameters at one batch of the first epoch."""

    def __init__(self, batch=1, **values):
        self.batch, self.values = batch, {name.replace("_", ".", 1): value for name, value in values.items()}

    def after_backward(self, learner):
        named = dict(learner.model.named_parameters())
        for name, value in self.values.items() if (learner.epoch, learner.batch.index) == (0, self.batch) else ():
            named[f"{name}"].grad.view(-1)[: len(value)] = torch.tensor(value)


def stopped(*callbacks, watch=None, make=torch.optim.SGD, epochs=2, **options):
    """The learner and the report of a fit that stops."""
    watch = NonFinite() if watch is None else watch
    subject = learner(make, 0.1, callbacks=[*callbacks, watch], **options)
    with pytest.warns(RuntimeWarning, match="non-finite") as caught:
        subject.fit(epochs)
    assert [str(entry.message) for entry in caught] == watch.reports[:1]
    return subject, watch.reports[0]


# ---- what the report says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [([math.nan], "nan"), ([math.inf], "inf"), ([-math.inf], "inf"), ([math.inf, math.nan], "nan")],
    ids=["nan", "inf", "-inf", "both"],
)
def test_it_names_parameter_and_layer_with_the_right_label(values, kind):
    """Any nan makes it "nan", and only infinities "inf": the original had the two labels swapped."""
    subject, report = stopped(Spoil(**{"1_weight": values}))
    assert report == (
        f"Step 2 (epoch 1, batch 2) has non-finite gradients: {kind} in 1.weight (BatchNorm1d). "
        "All outputs of the model are finite; the origin is in the backward pass."
    )
    assert subject.stop_reason == report


def test_it_names_all_of_them_up_to_a_length():
    spoiled = {name: [math.nan] for name in ("0_weight", "0_bias", "1_weight", "1_bias", "4_weight")}
    _, report = stopped(Spoil(**spoiled | {"0_bias": [math.inf]}))
    expected = "nan in 0.weight (Linear), inf in 0.bias (Linear), nan in 1.weight (BatchNorm1d), nan in 1.bias"
    assert expected in report
    assert "(BatchNorm1d) and 1 more." in report


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1.0, -math.inf], "inf"), ([math.nan, math.inf], "nan"), ([0.0], None), ([], None)],
)
def test_labels(value, expected):
    assert label(torch.tensor(value)) == expected
    assert label(torch.tensor(value).to(torch.bfloat16)) == expected


def test_a_gradient_that_is_none_is_fine():
    class Freeze(Callback):
        order = 1

        def after_backward(self, learner):
            next(learner.model.parameters()).grad = None

    _, report = stopped(Freeze(), Spoil(**{"4_bias": [math.nan]}))
    assert ": nan in 4.bias (Linear)." in report
    subject = learner(torch.optim.SGD, 0.1, callbacks=[Freeze(), NonFinite()])
    subject.fit(1)
    assert subject.steps == 3


class Log(nn.Module):
    """nan where the input is below zero, from the given call on."""

    def __init__(self, first):
        super().__init__()
        self.first, self.calls = first, 0

    def forward(self, x):
        self.calls += 1
        return x.log() if self.calls > self.first else x


def with_log(first=0, batches=3, watch=None, callbacks=()):
    x, y = torch.randn(4 * batches, 4), torch.arange(4 * batches) % 3
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Sequential(nn.BatchNorm1d(8), Log(first)), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    made = Problem(model=model, train=Batches(x, y, 4), loss=nn.functional.cross_entropy)
    return Learner.of(made, dp.SGD, lr=0.1, callbacks=[watch or NonFinite(), *callbacks], engine=Engine("cpu"))


def test_it_names_the_first_module_that_makes_something_not_finite():
    subject = with_log(first=1)
    with pytest.warns(RuntimeWarning, match="non-finite"):
        subject.fit(1)
    assert subject.stop_reason.startswith("Step 2 (epoch 1, batch 2) has non-finite gradients: nan in 0.weight")
    assert "The loss is nan. The first module with nan in its output is 1.1 (Log), in batch 2." in subject.stop_reason


def test_looking_for_it_leaves_nothing_changed():
    """Neither buffers nor random states nor hooks nor gradients: a skipped step leaves the model as it was."""
    seen = []

    class Look(Callback):
        order = 4

        def step(self, learner, proceed):
            before = [learner.model.state_dict()[k].clone() for k in learner.model.state_dict()]
            random = torch.get_rng_state()
            proceed()
            seen.append(same(before, weights(learner)) and torch.equal(random, torch.get_rng_state()))
            seen.append(not any(module._forward_hooks for module in learner.model.modules()))

    subject = with_log(watch=NonFinite(then="skip"), callbacks=[Look()])
    with pytest.warns(RuntimeWarning, match="first module"):
        subject.fit(1)
    assert seen == [True] * 6


def test_inputs_and_weights_that_are_not_finite_already():
    made = problem()
    made.train.x[made.train._order(0)[5]] = math.inf
    subject = Learner.of(made, torch.optim.SGD, lr=0.1, callbacks=[NonFinite()], engine=Engine("cpu"))
    with pytest.warns(RuntimeWarning, match="The input of batch 2 contains inf"):
        subject.fit(1)
    subject = learner(torch.optim.SGD, 0.1, callbacks=[NonFinite()])
    with torch.no_grad():
        subject.model[4].bias[0] = math.inf
    with pytest.warns(RuntimeWarning, match=r"Non-finite weights: inf in 4.bias \(Linear\)"):
        subject.fit(1)


def test_with_accumulation_it_looks_at_all_batches_of_the_step():
    subject = with_log(first=0, watch=NonFinite(), callbacks=[Accumulate(3)])
    subject.model[1][1].calls = -1  # the first batch is fine, the second is not; then the batches once more
    with pytest.warns(RuntimeWarning, match="non-finite"):
        subject.fit(1)
    assert subject.stop_reason.startswith("Step 1 (epoch 1, batch 3)")
    assert "The first module with nan in its output is 1.1 (Log), in batch 1." in subject.stop_reason
    assert subject.steps == 0


def test_a_model_that_cannot_be_run_again_is_reported_without_its_modules():
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
    with pytest.warns(RuntimeWarning, match="The input of batch 1 contains nan"):
        subject.fit(1)
    assert "nan in weight (Linear)" in subject.stop_reason


# ---- what is done ---------------------------------------------------------------------------------------------------


def test_stop_comes_before_any_harm():
    before = []

    class Keep(Callback):
        order = 4

        def step(self, learner, proceed):
            before[:] = [p.detach().clone() for p in learner.model.parameters()]
            proceed()

    recorder = Recorder("lr", "grad_norm")
    subject, _ = stopped(Keep(), recorder, Spoil(**{"0_bias": [math.nan]}))
    assert same(before, list(subject.model.parameters()))
    assert subject.steps == len(recorder.values["loss"]) == 1


def test_raise():
    with pytest.raises(NonFiniteError, match=r"Step 2 .* nan in 0\.bias"):
        learner(torch.optim.SGD, 0.1, callbacks=[NonFinite("raise"), Spoil(**{"0_bias": [math.nan]})]).fit(1)


@pytest.mark.parametrize("make", [torch.optim.SGD, dp.AdamW])
def test_skip_leaves_the_step_out(make):
    """The rest is what a loop does that leaves the step out by hand."""

    class Leave(Callback):
        def step(self, learner, proceed):
            if (learner.epoch, learner.batch.index) != (0, 1):
                proceed()

    found = []
    for callbacks in ([NonFinite("skip"), Spoil(**{"0_bias": [math.inf]})], [Leave()]):
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


def test_skip_warns_once_and_keeps_every_report():
    watch = NonFinite("skip")
    _, report = stopped(Spoil(0, **{"0_bias": [math.nan]}), Spoil(2, **{"0_bias": [math.inf]}), watch=watch)
    assert [entry[:6] for entry in watch.reports] == ["Step 1", "Step 2"]
    assert "inf in 0.bias" in watch.reports[1]
    assert report == watch.reports[0]


def test_a_skipped_step_leaves_no_gradient_behind():
    class Keep(Callback):
        """Keeps part of the gradient; a nan would stay for ever."""

        def zero_grad(self, learner, proceed):
            for p in learner.model.parameters():
                if p.grad is not None:
                    p.grad *= 0.5

    subject, _ = stopped(Keep(), Spoil(0, **{"0_bias": [math.nan]}), watch=NonFinite("skip"))
    assert subject.steps == 5
    assert all(p.isfinite().all() for p in subject.model.parameters())


def test_a_norm_that_overflows_is_no_reason_to_stop():
    """Finite gradients of 1e30 have a norm beyond float32; the step is taken."""

    class Large(Callback):
        def after_backward(self, learner):
            for p in learner.model.parameters():
                p.grad.fill_(1e30)

    watch = NonFinite("raise")
    subject = learner(torch.optim.SGD, 1e-31, callbacks=[watch, Large()])
    subject.fit(1)
    assert subject.steps == 3
    assert watch.reports == []


def test_checking_the_loss():
    class Bad(Callback):
        def __init__(self, value):
            self.value = value

        def get_loss(self, learner, proceed):
            proceed()
            if learner.training and learner.batch.index == 1:
                learner.batch.loss = learner.batch.loss * self.value

    _, report = stopped(Bad(math.inf), watch=NonFinite(check="loss"))
    assert "The loss is inf." in report
    subject = learner(torch.optim.SGD, 0.1, callbacks=[NonFinite(check="loss"), Spoil(2, **{"0_bias": [math.nan]})])
    subject.fit(1, evaluate=False)  # gradients are not looked at
    assert subject.steps == 3


def test_under_a_loss_scale_an_infinity_is_the_scalers_business_until_the_scale_is_spent():
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


def test_an_overflow_of_a_large_scale_is_no_report():
    engine = Engine("cpu", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    watch = NonFinite("raise")
    subject = learner(torch.optim.SGD, 0.1, callbacks=[watch], engine=engine)
    subject.fit(12)
    assert 0 < subject.steps < 36
    assert watch.reports == []


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_file_holds_what_it_takes_to_look_into_it(tmp_path):
    watch = NonFinite(folder=tmp_path / "new" / "reports")
    subject, report = stopped(Spoil(**{"4_bias": [math.nan]}), watch=watch)
    [path] = (tmp_path / "new" / "reports").iterdir()
    assert path.name == "nonfinite-step-2-epoch-1-batch-2.pt"
    assert f"are saved in {path}." in report
    held = torch.load(path, weights_only=True)
    assert held["gradients"] == {"4.bias": "nan"}
    assert held["first"] is None
    assert held["values"]["4.bias"].isnan().tolist() == [True, False, False]
    [batch] = held["batches"]
    expected = list(subject.train.source.epoch(0))[1]
    assert torch.equal(batch["x"], expected[0])
    assert torch.equal(batch["y"], expected[1])
    assert held["state"]["progress"]["position"] == [0, 1]
    for name, value in subject.model.named_parameters():
        assert torch.equal(held["state"]["model"][name], value)


def test_no_more_than_a_few_files(tmp_path):
    class Always(Callback):
        def after_backward(self, learner):
            learner.model[4].bias.grad[0] = math.nan

    stopped(Always(), watch=NonFinite("skip", folder=str(tmp_path), keep=2))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_fit_goes_on_from_the_file(tmp_path):
    stopped(Spoil(**{"4_bias": [math.nan]}), watch=NonFinite(folder=tmp_path), make=dp.AdamW)
    state = torch.load(next(tmp_path.iterdir()), weights_only=True)["state"]
    state["callbacks"].pop("Spoil")
    again = learner(dp.AdamW, 0.1, callbacks=[NonFinite()])
    again.fit(2, resume=state)
    assert again.steps == 6


def test_a_folder_that_cannot_be_written(tmp_path):
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
def test_bad_arguments(options, sentence):
    with pytest.raises(ArgumentError) as caught:
        NonFinite(**options)
    assert sentence in str(caught.value)
