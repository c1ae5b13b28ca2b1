"""Origin of non-finite values: tensors of the batch, modules, the loss function and the backward pass."""

from __future__ import annotations

import math
import warnings
from collections import namedtuple

import pytest
import torch
from learner_support import At, learner, same, weights
from torch import nn

import dashpot as dp
from dashpot.errors import NonFiniteError
from dashpot.training import Callback, Engine, Learner, NonFinite
from dashpot.utils.named_tensors import named_tensors

Graph = namedtuple("Graph", ["nodes", "weights"])


def report(model, batches, loss=nn.functional.mse_loss, callbacks=(), evaluation=None, **options):
    """Return the report of the first step, or of the first evaluation, with non-finite values."""
    watch = NonFinite(**options)
    subject = Learner(
        model,
        batches,
        evaluation,
        loss=loss,
        optimizer=dp.SGD,
        lr=0.01,
        callbacks=[*callbacks, watch],
        engine=Engine("cpu"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        subject.fit(1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return watch.reports[0] if evaluation is None else watch.evaluation_report


def rows(*values):
    return torch.tensor(values)[:, None]


# ---- tensors of the batch -------------------------------------------------------------------------------------------


class First(nn.Module):
    """Linear layer on the first tensor of the input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(next(tensor for _, tensor in named_tensors(x, "x")))


ONE, BAD = rows(1.0, 2.0), rows(1.0, math.nan)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        ({"ids": BAD}, ONE, 'x["ids"]'),
        ([ONE, {"mask": BAD}], ONE, 'x[1]["mask"]'),
        (Graph(ONE, BAD), ONE, "x.weights"),
        (ONE, BAD, "y"),
        (rows(1.0, 2.0, 3.0), [{"boxes": ONE}, {"boxes": ONE}, {"boxes": BAD}], 'y[2]["boxes"]'),
        (ONE, {"target": BAD.numpy()}, 'y["target"]'),
        ([ONE, BAD], [BAD], "x[1]"),
    ],
    ids=["dict", "nested", "namedtuple", "y", "list of dicts", "numpy", "first of several"],
)
def test_report_has_first_nonfinite_tensor_of_the_batch(x, y, name):
    def loss(output, target):
        parts = [torch.as_tensor(tensor).sum() for _, tensor in named_tensors((x, target), "")]
        return (output.sum() - sum(parts)) ** 2

    text = report(First(), [(x, y)], loss)
    assert f" In batch 1, {name} contains nan. " in text
    assert "originates" not in text


def test_named_tensors_of_objects_and_of_cycles():
    class Data:
        def __init__(self):
            self.edges, self.parent = torch.zeros(1), self

    [(name, _), *deeper] = named_tensors(Data(), "x")
    assert name == "x.edges"
    assert len(deeper) < 20


# ---- forward --------------------------------------------------------------------------------------------------------


class Log(nn.Module):
    def forward(self, x, scale=None):
        return (x if scale is None else x * scale).log()


class Outer(nn.Module):
    """Model that passes a keyword argument and computes a logarithm outside of its submodules."""

    def __init__(self, scale, own=False):
        super().__init__()
        self.scale, self.own, self.log, self.last = scale, own, Log(), nn.Linear(1, 1)

    def forward(self, x):
        return self.last((x * self.scale).log() if self.own else self.log(x, scale=self.scale))


@pytest.mark.parametrize(
    ("model", "owner"),
    [
        (Outer(rows(1.0, -1.0)), "log (Log)"),
        (Outer(rows(1.0, math.nan)), "the model itself (Outer)"),
        (Outer(rows(1.0, -1.0), own=True), "the model itself (Outer)"),
        (nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(1, 1), Outer(rows(1.0, -1.0)), Log())), "1.1.log (Log)"),
    ],
    ids=["module", "nonfinite keyword argument", "own code", "nested"],
)
def test_report_has_module_with_finite_inputs(model, owner):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    text = report(model, [(rows(1.0, 2.0), ONE)])
    assert f"The first module with finite inputs and nan in its output is {owner}, in batch 1." in text


def test_report_has_nonfinite_parameter_or_buffer_of_the_module():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1)).eval()
    model[1].running_var.fill_(math.nan)
    evaluated = report(model, [(ONE, ONE)], evaluation=[(ONE, ONE)])
    assert "nan in its output is 1 (BatchNorm1d), whose running_var contains nan, in batch 1." in evaluated
    with torch.no_grad():
        model[2].weight.fill_(math.inf)
    text = report(model, [(ONE, ONE)])
    assert "Non-finite weights: inf in 2.weight (Linear)." in text
    assert "is 2 (Linear), whose weight contains inf, in batch 1." in text


def test_module_with_nonfinite_input_is_not_reported():
    text = report(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), [(rows(1.0, math.inf), ONE)])
    assert "x contains inf" in text
    assert "module" not in text


class Predict(Callback):
    """Call the model with two arguments."""

    def predict(self, learner, proceed):
        learner.batch.output = learner.forward(learner.batch.x["a"], learner.batch.x["b"])


def test_report_with_predict_callback_has_module():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.log = nn.Linear(1, 1), Log()

        def forward(self, a, b):
            return self.layer(self.log(a, scale=b))

    batch = ({"a": ONE, "b": -ONE}, ONE)
    assert "nan in its output is log (Log), in batch 1." in report(Scaled(), [batch], callbacks=[Predict()])
    batch = ({"a": ONE, "b": BAD}, ONE)
    assert 'In batch 1, x["b"] contains nan.' in report(Scaled(), [batch], callbacks=[Predict()])


def test_report_of_prediction_outside_of_the_modules():
    class LogOutput(Callback):
        def predict(self, learner, proceed):
            proceed()
            learner.batch.output = (learner.batch.output - 1e9).log()

    text = report(nn.Linear(1, 1), [(ONE, ONE)], callbacks=[LogOutput()])
    assert "The outputs of all modules are finite; nan originates outside of the modules, in batch 1." in text


def test_report_of_loss_only():
    text = report(nn.Linear(1, 1), [(ONE, ONE)], loss=lambda output, y: (output.mean() * 0).log())
    assert (
        "The loss is inf. All outputs of the model are finite; inf originates in the loss function, in batch 1" in text
    )


def test_report_of_pass_that_cannot_be_repeated():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(1, 1), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise KeyError("no second call")
            return self.layer(x) * math.nan

    assert "could not be repeated to find the first module: KeyError: 'no second call'." in report(Once(), [(ONE, ONE)])


# ---- backward -------------------------------------------------------------------------------------------------------


class Root(nn.Module):
    """Square root, whose gradient at 0 is infinite."""

    def forward(self, x):
        return (x * 0).sqrt()


@pytest.mark.parametrize(
    ("model", "owner"),
    [
        (nn.Sequential(nn.Linear(1, 1), Root(), nn.Linear(1, 1)), "1 (Root)"),
        (nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Tanh(), Root()), nn.Tanh()), "1.1 (Root)"),
    ],
)
def test_report_has_module_of_nonfinite_gradient(model, owner):
    before = [value.clone() for value in model.state_dict().values()]
    text = report(model, [(ONE, ONE)])
    assert text.startswith("Step 1 (epoch 1, batch 1) has non-finite gradients: nan in 0.weight (Linear)")
    assert (
        "All outputs of the model are finite; the first module in the backward pass with finite gradients of its "
        f"output and nan in its other gradients is {owner}, in batch 1." in text
    )
    assert same(before, list(model.state_dict().values()))


def test_report_of_nonfinite_gradient_of_the_loss():
    text = report(nn.Linear(1, 1), [(ONE, ONE)], loss=lambda output, y: (output.mean() * 0).sqrt())
    assert "nan originates in the backward pass of the loss function, in batch 1." in text


def test_diagnosis_keeps_gradients():
    found = []
    model = nn.Sequential(nn.Linear(1, 1), Root(), nn.Linear(1, 1))

    class Look(Callback):
        order = 4

        def step(self, learner, proceed):
            before = [p.grad.nan_to_num(7.0) for p in model.parameters()]
            try:
                proceed()
            finally:
                found.append(same(before, [p.grad.nan_to_num(7.0) for p in model.parameters()]))

    with pytest.raises(NonFiniteError, match=r"is 1 \(Root\)"):
        report(model, [(ONE, ONE)], callbacks=[Look()], then="raise")
    assert found == [True]


# ---- evaluation -----------------------------------------------------------------------------------------------------


def evaluated(watch=None, epochs=2, bad=True, callbacks=(), **options):
    """Return a learner, after a fit, whose evaluation data have a NaN target in the third batch."""
    torch.manual_seed(0)
    data = [(torch.randn(2, 1), torch.randn(2, 1)) for _ in range(4)]
    held_out = [(x, y.clone()) for x, y in data]
    if bad:
        held_out[2][1][1] = math.nan
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    options = {"loss": nn.functional.mse_loss, "optimizer": dp.AdamW, "lr": 0.01, **options}
    callbacks = [*callbacks, *([] if watch is None else [watch])]
    subject = Learner(model, data, held_out, callbacks=callbacks, engine=Engine("cpu"), **options)
    subject.fit(epochs)
    return subject


def test_evaluation_with_nonfinite_loss_warns_once_with_cause():
    watch = NonFinite()
    with pytest.warns(RuntimeWarning) as caught:
        subject = evaluated(watch)
    assert [str(entry.message) for entry in caught] == [watch.evaluation_report]
    assert watch.evaluation_report.startswith(
        "The evaluation of epoch 1 (batch 3) has non-finite losses. The loss is nan. In batch 3, y contains nan. Sums "
    )
    assert watch.reports == []
    assert subject.stop_reason is None
    assert subject.steps == 8


def test_diagnosis_of_evaluation_changes_nothing():
    """Weights, statistics, random states and metrics equal those of a fit without the callback."""
    with pytest.warns(RuntimeWarning):
        found = evaluated(NonFinite())
    random = torch.get_rng_state()
    without = evaluated()
    assert same(weights(found), weights(without))
    assert torch.equal(random, torch.get_rng_state())
    assert str(found.history) == str(without.history)


def test_evaluation_with_nonfinite_loss_raises_if_chosen():
    with pytest.raises(NonFiniteError, match=r"evaluation of epoch 1 \(batch 3\) .* y contains nan"):
        evaluated(NonFinite("raise"))


def test_evaluation_with_finite_loss_is_not_repeated():
    calls = []
    count = At("before_batch", lambda learner: calls.append(learner.training))
    watch = NonFinite()
    evaluated(watch, bad=False, callbacks=[count])
    assert watch.evaluation_report is None
    assert len(calls) == 16


def test_evaluation_report_has_module():
    class EvaluationLog(nn.Module):
        def forward(self, x):
            return x if self.training else (x * 0 - 1).log()

    model = nn.Sequential(nn.Linear(1, 1), EvaluationLog())
    text = report(model, [(ONE, ONE)], evaluation=[(ONE, ONE)])
    assert "The first module with finite inputs and nan in its output is 1 (EvaluationLog), in batch 1." in text


def test_evaluation_report_is_resumed():
    watch = NonFinite()
    with pytest.warns(RuntimeWarning):
        subject = evaluated(watch, epochs=1)
    again = NonFinite()
    again.load_state_dict(watch.state_dict())
    assert again.evaluation_report == watch.evaluation_report
    again.load_state_dict({"reports": []})  # a state without the entry
    assert again.evaluation_report is None
    del subject


def test_evaluation_data_without_second_pass_are_reported():
    class Once(list):
        passes = 0

        def __iter__(self):
            type(self).passes += 1
            return super().__iter__() if self.passes == 1 else iter(())

    text = report(nn.Linear(1, 1), [(ONE, ONE)], evaluation=Once([(ONE, BAD)]))
    assert text == (
        "The evaluation of epoch 1 has a non-finite loss: nan. It was not reproduced in a second pass over the data."
    )


# ---- sums and memory ------------------------------------------------------------------------------------------------


def test_report_has_sums_of_parameters():
    model = nn.Sequential(nn.Linear(2, 2), Root(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.5]]))
        model[0].bias.fill_(-1.0)
        model[2].weight.fill_(0.25)
    text = report(model, [(torch.ones(2, 2), ONE)])
    assert text.endswith("Sums of the parameters: 0.weight 10.5, 0.bias -2, 2.weight 0.5; total 9.")


def test_file_has_the_sum_of_every_parameter(tmp_path):
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)), Root())
    text = report(model, [(ONE, {"deep": BAD})], lambda output, y: (output - y["deep"]).mean(), folder=tmp_path)
    assert " and 4 more; total " in text
    content = torch.load(next(tmp_path.iterdir()), weights_only=True)
    assert content["sums"] == {name: p.double().sum().item() for name, p in model.named_parameters()}
    assert content["inputs"] == [{"batch": 0, "tensor": 'y["deep"]', "label": "nan"}]
    assert content["origin"]["kind"] == "loss"


def test_batches_of_a_step_are_released_after_the_step():
    watch = NonFinite()
    held = []
    subject = learner(dp.SGD, 0.1, callbacks=[watch, At("after_step", lambda _: held.append(len(watch._batches)))])
    subject.fit(1)
    assert held == [0, 0, 0]
