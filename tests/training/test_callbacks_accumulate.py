"""Gradient accumulation: equivalence to large batches, step counts, and resumes."""

from __future__ import annotations

import pytest
import torch
from learner_support import StopAt, learner, same, weights
from slow_values import others_slow
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine
from dashpot.tasks import Problem
from dashpot.training import Callback, CancelFit, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.schedule import Schedule


def trained(make, batch_size, accumulate, examples=19, loader=False, epochs=3):
    """Train a small smooth float64 model without batch statistics."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 3, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 2, (examples,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    batches = Batches(x, y, batch_size, shuffle=True, seed=3)
    made = Problem(model=model, train=batches, loss=nn.functional.cross_entropy)
    recorder = Recorder("lr", "grad_norm")
    if loader:
        made.train = DataLoader(TensorDataset(x, y), batch_size)
    subject = Learner.of(made, make, lr=0.05, engine=Engine("cpu"))
    subject.fit(epochs, callbacks=[Accumulate(accumulate), Schedule(Cosine), recorder])
    return subject, recorder.values


@pytest.mark.diagonal
@pytest.mark.parametrize("loader", [False, True], ids=["Batches", "DataLoader"])
@pytest.mark.parametrize(
    "examples", [16, pytest.param(18, marks=pytest.mark.slow), 19, pytest.param(3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("make", [torch.optim.SGD, dp.AdamW, dp.SGD])
def test_accumulated_batches_match_one_large_batch(make, examples, loader):
    """With 18 or 19 examples, the last step has fewer examples or a shorter micro-batch.

    The sums are computed in a different order; the tolerance of 1e-12 is four orders of magnitude above their rounding
    errors.
    """
    small, of_small = trained(make, 2, 4, examples, loader)
    large, of_large = trained(make, 8, 1, examples, loader)
    assert small.steps == large.steps == 3 * -(-examples // 8)
    for a, b in zip(weights(small), weights(large), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    assert of_small["lr"] == of_large["lr"]
    for name in ("loss", "grad_norm"):
        assert of_small[name] == pytest.approx(of_large[name], rel=1e-12)
        assert len(of_small[name]) == small.steps


def test_stream_without_batch_size_is_weighted_by_examples():
    class Unknown:
        def __init__(self, pairs):
            self.pairs = pairs

        def __len__(self):
            return len(self.pairs)

        def epoch(self, index):
            return iter(self.pairs)

    x, y = torch.eye(3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    pairs = [(x[:2], y[:2]), (x[2:], y[2:])]
    model = nn.Linear(3, 2, bias=False).double()
    nn.init.ones_(model.weight)
    gradients = []

    class Look(Callback):
        def step(self, learner, proceed):
            gradients.append(learner.model.weight.grad.clone())
            proceed()

    made = Problem(model=model, train=Unknown(pairs), loss=nn.functional.mse_loss)
    Learner.of(made, torch.optim.SGD, lr=0.0, engine=Engine("cpu")).fit(1, callbacks=[Accumulate(2), Look()])
    per_example = 2 * torch.eye(3, dtype=torch.float64) / 2  # gradient of the mean squared error over two outputs
    expected = per_example.mean(0)
    torch.testing.assert_close(gradients[0], expected.expand(2, 3), rtol=1e-15, atol=0)


def test_schedules_and_recorder_count_steps():
    class Counts(Callback):
        def before_fit(self, learner):
            self.found = (learner.loop.accumulate, learner.total_steps)

    counts = Counts()
    recorder = Recorder("lr")
    subject = learner(callbacks=[Accumulate(2), counts, recorder])
    subject.fit(3)
    assert counts.found == (2, 6)
    assert subject.steps == len(recorder.values["lr"]) == 6
    subject.fit(1)
    assert len(recorder.values["lr"]) == 2
    subject._callbacks.clear()
    subject.fit(1)
    assert subject.loop.accumulate == 1


@pytest.mark.parametrize("at", others_slow([2, 3, 5, 6, 8], 3, 5))
def test_fit_resumes_between_any_two_steps(at):
    """Test with batches of 4, 4 and 2 examples, and steps after the second and the third batch."""

    def fitted(callbacks, **options):
        subject = learner(dp.AdamW, callbacks=[Accumulate(2), Schedule(Cosine), Recorder("lr")])
        subject.fit(3, callbacks=callbacks, **options)
        return subject

    torch.manual_seed(4)
    whole = fitted([])
    torch.manual_seed(4)
    stop = StopAt(at)
    fitted([stop])
    torch.manual_seed(5)
    resumed = fitted([], resume=stop.state)
    assert same(weights(whole), weights(resumed))
    assert whole._callbacks[-1].values == resumed._callbacks[-1].values
    assert len(resumed._callbacks[-1].values["lr"]) == resumed.steps == 6


def test_no_state_within_an_accumulated_step():
    for at in (1, 4, 7):
        with pytest.raises(RunError, match="got 1 accumulated micro-batches"):
            learner(callbacks=[Accumulate(2)]).fit(3, callbacks=[StopAt(at)])


def test_next_fit_starts_with_cleared_gradients():
    class Stop(Callback):
        def after_batch(self, learner):
            raise CancelFit

    def weights_after(first):
        made = learner(torch.optim.SGD, callbacks=[Accumulate(2)])
        optimizer = torch.optim.SGD(made.model.parameters(), lr=0.0)
        made._optimizer, made.opt, made._lr = optimizer, optimizer, None
        if first:
            made.fit(1, callbacks=[Stop()])
            assert made.loop.pending_batches == 1
            for _, buffer in made.model.named_buffers():
                buffer.zero_()
        norms = []

        class Look(Callback):
            def step(self, learner, proceed):
                norms.append(sum(p.grad.norm().item() for p in learner.model.parameters()))

        torch.manual_seed(6)
        made.fit(1, callbacks=[Look()])
        return norms

    assert weights_after(True) == weights_after(False)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None, True, float("inf")])
def test_invalid_number_of_batches_is_rejected(bad):
    with pytest.raises(ArgumentError, match=r"Accumulate: batches must be an integer in \[1, inf\)"):
        Accumulate(bad)
