"""Warnings: samples of tensors, detectors on simulated streams, and rows of watched runs."""

import json
import math

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot.watching.alarms import AlarmsProbe
from dashpot.watching.alarms_found import Alarm, RateLimit
from dashpot.watching.alarms_rates import confidence, wilson_interval
from dashpot.watching.alarms_sample import Sampler, SampleReader
from dashpot.watching.alarms_slow import SlowDetector
from dashpot.watching.alarms_state import StateDetector
from dashpot.watching.alarms_sudden import SuddenDetector

NAMES = ["first", "second"]


def stream(grads, weights, losses=None):
    """Samples of a run: gradients of shape (steps, tensors, elements), weights with one more step."""
    reader = SampleReader([grads.shape[2]] * grads.shape[1])
    losses = [1.0] * len(grads) if losses is None else losses
    for step, (g, w, after, loss) in enumerate(zip(grads, weights, weights[1:], losses, strict=False), 1):
        yield reader.read(step, float(loss), 0.1, g, w, after)


def noise(steps=60, seed=0):
    rng = np.random.default_rng(seed)
    grads = rng.standard_normal((steps, 2, 50))
    return grads, np.concatenate([np.ones((1, 2, 50)), 1 - 0.01 * np.cumsum(grads, 0)])


def found(detector, samples):
    return [(sample.step, alarm) for sample in samples for alarm in detector.update(sample)]


class TestSampler:
    def test_gather_takes_evenly_spaced_elements(self):
        params = [torch.arange(10.0), torch.tensor(3.0), torch.zeros(0), torch.arange(4).bfloat16()]
        sampler = Sampler(params, size=4)
        matrix = sampler.gather(params)
        torch.testing.assert_close(sampler.weights(), matrix, rtol=0, atol=0)
        assert matrix.tolist() == [[0, 3, 6, 9], [3, 0, 0, 0], [0, 0, 0, 0], [0, 1, 2, 3]]

    def test_gather_of_missing_gradient_is_nan(self):
        matrix = Sampler([torch.ones(2), torch.ones(2)], size=3).gather([None, torch.ones(2)])
        assert matrix[0, :2].isnan().all()
        assert matrix[1].tolist() == [1, 1, 0]

    def test_gather_of_complex_and_transposed_tensors(self):
        x = torch.tensor([1 + 2j, 3 + 4j])
        y = torch.arange(6.0).view(2, 3).t()
        assert Sampler([x, y], size=6).gather([x, y]).tolist() == [[1, 2, 3, 4, 0, 0], [0, 3, 1, 4, 2, 5]]

    def test_reader_measures_norms_and_products(self):
        grads, weights = noise(4)
        last = list(stream(grads, weights))[-1]
        # The reader computes the same sums in a different order; float64.
        np.testing.assert_allclose(last.slope, (grads[3] * (weights[3] - weights[2])).sum(1), rtol=1e-12)
        jerk = grads[3] - 2 * grads[2] + grads[1]
        np.testing.assert_allclose(last.jerk, np.sqrt((jerk**2).sum(1)), rtol=1e-12)

    def test_reader_after_gap_has_no_products(self):
        grads, weights = noise(4)
        reader = SampleReader([50, 50])
        reader.read(1, None, 0.1, grads[0], weights[0], weights[1])
        assert np.isnan(reader.read(3, None, 0.1, grads[2], weights[2], weights[3]).slope).all()


class TestSudden:
    def test_noise_gives_no_alarm(self):
        assert found(SuddenDetector(NAMES), stream(*noise(200))) == []

    def test_large_gradient_names_batch_and_tensor(self):
        grads, weights = noise()
        grads[40, 1] *= 10
        ((step, alarm),) = found(SuddenDetector(NAMES), stream(grads, weights))
        assert (step, alarm.kind, alarm.tensor) == (41, "bad batch", "second")

    def test_moderate_gradient_needs_jump_of_loss(self):
        grads, weights = noise()
        grads[40, 1] *= 3.5
        losses = np.ones(60)
        assert found(SuddenDetector(NAMES), stream(grads, weights, losses)) == []
        losses[40] = 3.0
        assert [step for step, _ in found(SuddenDetector(NAMES), stream(grads, weights, losses))] == [41]

    def test_large_update_names_jump_of_rate(self):
        grads, weights = noise()
        weights[41:, 0] += 20 * (weights[41, 0] - weights[40, 0])
        ((step, alarm),) = found(SuddenDetector(NAMES), stream(grads, weights))
        assert (step, alarm.kind, alarm.tensor) == (41, "rate jump", "first")
        assert "the learning rate of the first group is 0.1, as before" in alarm.advice

    def test_advice_for_a_risen_rate_names_both_rates(self):
        grads, weights = noise()
        weights[41:, 0] += 20 * (weights[41, 0] - weights[40, 0])
        samples = [s._replace(rate=2.0 if s.step > 40 else 0.1) for s in stream(grads, weights)]
        ((_, alarm),) = found(SuddenDetector(NAMES), samples)
        assert alarm.advice.startswith("the learning rate rose from 0.1 to 2: examine the schedule at step 41")

    @pytest.mark.parametrize("size", [0.0, 1e-7])
    def test_tensors_without_a_usual_gradient_give_no_alarm(self, size):
        grads, weights = noise()
        grads[:40, 0] *= size
        grads[40:, 0] *= size or 1.0
        weights[41:, 0] += 20 * (weights[41, 0] - weights[40, 0])
        assert found(SuddenDetector(NAMES), stream(grads, weights)) == []


def quadratic(rates, *, sigma, growth=None, seed=0):
    """Samples of gradient descent on a quadratic with noise, until divergence.

    `growth` contains factors of the curvature at each step; half of the elements then have a slowly growing gradient.
    """
    rng = np.random.default_rng(seed)
    h, w, grads, weights = np.linspace(0.1, 1, 50), np.ones(50), [], [np.ones((2, 50))]
    for step, rate in enumerate(rates):
        g = h * w + sigma * rng.standard_normal(50)
        if growth is not None:
            g = np.where(np.arange(50) < 25, 0.2 + 0.002 * step, g + (growth[step] - 1) * h * w)
        w = w - rate * g
        grads.append(np.stack([np.zeros(50), g]))
        weights.append(np.stack([np.ones(50), w]))
        if np.abs(g).max() > 1e3:
            break
    return list(stream(np.array(grads), np.array(weights)))


class TestSlow:
    def test_constant_rate_gives_no_alarm(self):
        assert found(SlowDetector(NAMES), quadratic([0.5] * 300, sigma=0.1)) == []

    def test_growing_rate_is_announced(self):
        samples = quadratic(0.3 * 1.02 ** np.arange(300), sigma=0.1)
        step, alarm = found(SlowDetector(NAMES), samples)[0]
        assert alarm.kind == "growing updates"
        assert alarm.tensor == "second"
        assert step <= len(samples) - 20

    def test_growing_gradients_advise_shorter_horizon(self):
        grads, weights = noise(200)
        grads *= np.exp(0.02 * np.arange(200))[:, None, None]
        weights[1:] += 1e-3 * np.cumsum(np.concatenate([np.roll(grads, -1, 0)]), 0)  # overshoots the next gradient
        alarms = [alarm for _, alarm in found(SlowDetector(NAMES, horizon=1000.0), stream(grads, weights))]
        assert "beta2" in next(alarm.advice for alarm in alarms if alarm.kind == "growing gradients")

    def test_sharpening_is_announced_by_roughness(self):
        growth = 1.0 + 0.03 * np.arange(200)  # with the rate 0.5, the largest curvature is at the edge at step 100
        samples = quadratic([0.5] * 200, sigma=1e-3, growth=growth)
        step, alarm = found(SlowDetector(NAMES), samples)[0]
        assert (alarm.kind, alarm.tensor) == ("growing roughness", "second")
        assert step <= len(samples) - 10
        assert not found(SlowDetector(NAMES), quadratic([0.5] * 120, sigma=1e-3, growth=np.ones(120)))


class TestState:
    def run(self, grads, weights):
        detector = StateDetector(NAMES, [True, True])
        norms = [np.sqrt((g**2).sum(1)) for g in grads]
        pairs = zip(stream(grads, weights), norms, strict=True)
        return [(sample.step, alarm.kind, alarm.tensor) for sample, n in pairs for alarm in detector.update(sample, n)]

    def test_noise_gives_no_alarm(self):
        assert self.run(*noise()) == []

    def test_non_finite_gradient_names_tensor(self):
        grads, weights = noise()
        grads[30, 1, 3] = math.inf
        assert self.run(grads, weights) == [(31, "non-finite", "second")]

    def test_unexamined_steps_before_a_non_finite_gradient_are_stated(self):
        grads, weights = noise()
        grads[30, 1, 3] = math.nan
        samples = [s for s in stream(grads, weights) if s.step not in (29, 30)]
        detector = StateDetector(NAMES, [True, True])
        (alarm,) = (a for s in samples for a in detector.update(s, s.grad))
        assert alarm.text.endswith("of second is not finite; the steps since 28 were not examined.")

    def test_zero_gradient_is_dead_after_20_steps(self):
        grads, weights = noise()
        grads[5:, 0] = 0
        assert self.run(grads, weights) == [(25, "dead", "first")]

    def test_unchanged_weights_are_stalled(self):
        grads, weights = noise()
        weights[10:, 1] = weights[10, 1]
        assert self.run(grads, weights) == [(30, "stalled", "second")]
        grads[:, 1] *= 1e-7  # as for a bias before a normalization
        assert self.run(grads, weights) == []

    def test_tensors_with_negligible_gradients_are_not_stalled(self):
        grads, weights = noise()
        weights[10:, 1] = weights[10, 1]
        grads[:, 1] *= 1e-8  # rounding, as of a bias before a normalization
        assert self.run(grads, weights) == []

    def test_large_updates_are_reported(self):
        grads, weights = noise()
        weights[:, 0] = 100 * np.resize([1, -1], 61)[:, None]
        assert self.run(grads, weights) == [(20, "large ratio", "first")]


def test_rate_limit_repeats_after_clearing():
    limit, alarm = RateLimit(clear=5), Alarm("dead", "first", "", "", 0.5)
    assert [step for step in (1, 2, 6, 12, 13) if list(limit.new(step, [alarm]))] == [1, 12]


@pytest.mark.parametrize(("count", "total"), [(0, 100), (3, 100), (20, 20)])
def test_interval_solves_the_equation_of_wilson(count, total):
    z = 1.959964
    for p in wilson_interval(count, total):
        # Float64 rounding in two formulas of the same quantity.
        assert abs(count / total - p) == pytest.approx(z * math.sqrt(max(p * (1 - p), 0) / total), abs=1e-7)


def test_confidence_states_count_runs_and_interval():
    assert confidence("unknown") == "rate of false alarms not measured"
    assert "healthy runs of 400 steps, 95 % interval" in confidence("bad batch")


class TestWatched:
    def watched(self, steps=40, bad=None, make=torch.optim.Adam, scale=100.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        optimizer = make(model.parameters(), lr=0.01)
        with dp.watch(optimizer, model, budget=1.0) as watcher:
            watcher.probes = [probe for probe in watcher.probes if isinstance(probe, AlarmsProbe)]
            for step in range(1, steps + 1):
                x = torch.randn(16, 4) * (scale if step == bad else 1.0)
                loss = ((model(x) - x[:, :1] * (scale if step == bad else 1.0)) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                watcher.observe(loss)
                optimizer.step()
        return watcher

    @pytest.mark.parametrize("make", [torch.optim.Adam, dp.SGD])
    def test_bad_batch_gives_one_warning(self, make):
        (row,) = [row for row in self.watched(bad=35, make=make).warnings if row["step"] == 35]
        assert (row["kind"], row["tensor"] in {"0.weight", "2.weight", "2.bias", "0.bias"}) == ("bad batch", True)
        assert set(row) == {"step", "kind", "tensor", "text", "advice", "confidence", "severity"}
        assert json.loads(json.dumps(row)) == row

    def test_healthy_run_gives_no_warning(self):
        assert self.watched().warnings == []

    def test_non_finite_batch_is_named(self):
        rows = self.watched(bad=35, scale=math.inf).warnings
        assert (rows[0]["step"], rows[0]["kind"], rows[0]["severity"]) == (35, "non-finite", 1.0)
        assert rows[0]["tensor"] is not None

    def test_closure_gives_warnings(self):
        w = torch.ones(30, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.01)
        with dp.watch(optimizer, budget=1.0) as watcher:
            for step in range(40):
                optimizer.zero_grad()
                optimizer.step(lambda step=step: ((w**2).sum() * (100.0 if step == 30 else 1.0)).backward())
        assert [row["kind"] for row in watcher.warnings][:1] == ["bad batch"]
