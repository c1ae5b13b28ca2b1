"""The callback StepDynamics: recorded steps, logged values, accumulation, loss scaling, resume and bad input."""

import numpy as np
import pytest
import torch
from learner_support import StopAt, fp16, learner, linear_learner, pairs

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.training import Accumulate, ClipGradients, ForOptimizer, StepDynamics


def test_records_and_logs_every_step():
    recorder = StepDynamics(elements=None, log=["alpha.sup", "dw.mean"])
    one = learner(dtype=torch.float64)
    one.fit(2, callbacks=[recorder])
    found = recorder.dynamics
    assert list(found.tensors) == [name for name, _ in one.model.named_parameters()]
    assert found["0.weight"].steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.holds
    assert found["0.weight"].residual.max() < 1e-12  # float64, relative to the largest change
    examples = np.array([4, 4, 2])  # the mean of a phase is weighted by the examples of the batches
    for epoch, part in enumerate((slice(0, 3), slice(3, 6))):
        row = one.history[epoch]["train"]
        statistics = found["0.weight"].statistics
        for name, values in (("alpha.sup", statistics["alpha"]["sup"]), ("dw.mean", statistics["dw"]["mean"])):
            assert row[f"{name}:0.weight"] == pytest.approx(np.average(values[part], weights=examples), rel=1e-9)


def test_chosen_tensor_and_steps():
    recorder = StepDynamics("4.bias", every=2, elements=1)
    learner().fit(2, callbacks=[recorder])
    found = recorder.dynamics
    assert list(found.tensors) == ["4.bias"]
    assert found["4.bias"].steps.tolist() == [1, 3, 5]
    assert found["4.bias"].alpha.shape == (3, 1)


def test_steps_of_accumulated_clipped_and_scaled_gradients():
    recorder = StepDynamics()
    one = linear_learner(pairs(2), dp.NAG, callbacks=[Accumulate(2), ClipGradients(norm=0.1)])
    one.engine.scaler = fp16().scaler
    one.fit(1, callbacks=[recorder])
    found = recorder.dynamics
    assert found["weight"].steps.tolist() == [1, 2, 3]
    assert found.holds
    assert found["weight"].statistics["e"]["norm"][0] <= 0.1


def test_hooks_are_removed_after_the_fit_and_after_errors():
    recorder = StepDynamics()
    one = learner()
    one.fit(1, callbacks=[recorder, StopAt(2)])
    assert not one.opt._optimizer_step_post_hooks
    assert recorder.dynamics["0.weight"].steps.tolist() == [1, 2]


def test_recording_starts_again_after_resume():
    stop = StopAt(3)
    learner(callbacks=[StepDynamics(), stop]).fit(2)
    recorder = StepDynamics()
    one = learner(callbacks=[recorder])
    one.fit(2, resume=stop.state)
    assert recorder.dynamics["0.weight"].steps.tolist() == [5, 6]
    assert recorder.dynamics.holds


def test_recording_does_not_change_the_fit():
    one, two = learner(), learner()
    for each, callbacks in ((one, [StepDynamics()]), (two, [])):
        torch.manual_seed(0)  # dropout
        each.fit(1, callbacks=callbacks)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, "StepDynamics: names must be strings, got 3."),
        ((), {"log": "alpha.sup"}, "StepDynamics: log must be a sequence of names, got 'alpha.sup'."),
        ((), {"log": ["alpha"]}, "Unknown statistic 'alpha'"),
    ],
)
def test_invalid_argument_raises(arguments, options, message):
    with pytest.raises(ArgumentError, match=message):
        StepDynamics(*arguments, **options)


def test_invalid_fit_raises():
    with pytest.raises(ArgumentError, match="dynamics requires a fit with at least one step"):
        _ = StepDynamics().dynamics
    with pytest.raises(ArgumentError, match="Unknown parameter 'weight'"):
        learner().fit(1, callbacks=[StepDynamics("weight")])
    with pytest.raises(ArgumentError, match=r"must be of dashpot, or of torch\.optim with a counterpart"):
        learner(torch.optim.Adadelta).fit(1, callbacks=[StepDynamics()])
    with pytest.raises(ArgumentError, match="Sophia has no first-order recursion"):
        learner(dp.Sophia).fit(1, callbacks=[StepDynamics()])
    with pytest.raises(ArgumentError, match=r"every must be an integer in \[1, inf\)"):
        learner().fit(1, callbacks=[StepDynamics(every=0)])


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.offset = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

    def forward(self, x, part):
        return self.slope(x) + self.offset(x)


def test_one_of_several_optimizers():
    losses = dict.fromkeys(("slope", "offset"), torch.nn.functional.cross_entropy)
    makes = dict.fromkeys(losses, dp.AdamW)

    def make():
        return linear_learner(pairs(), makes, model=Parts(), lr={"slope": 0.1, "offset": 0.2}, loss=losses)

    recorder = StepDynamics()
    make().fit(1, callbacks=[ForOptimizer("offset", recorder)])
    assert list(recorder.dynamics.tensors) == ["offset.weight", "offset.bias"]
    assert recorder.dynamics["offset.bias"].steps.tolist() == [1, 2, 3]
    assert recorder.dynamics["offset.bias"].lr.tolist() == [0.2] * 3
    with pytest.raises(ArgumentError, match="bind the callback to one of the optimizers by ForOptimizer"):
        make().fit(1, callbacks=[StepDynamics()])
