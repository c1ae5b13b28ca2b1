"""Sentences of reports: findings, priorities, confidence, and reasons for absent sentences."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import record_examples as examples

from dashpot.watching import report_faults, report_noise, report_theory, sentences
from dashpot.watching.report_sentence import PRIORITIES, Sentence
from dashpot.watching.report_trend import fit
from dashpot.watching.series import WatchRecord


def record(**rows):
    """Return a record with one row of each kind."""
    found = WatchRecord(examples.header(["a", "b"]))
    for kind, row in rows.items():
        found.add(kind, row)
    return found


def with_norms(*values):
    """Return a record whose rows of norms contain the given rows of tensors."""
    found = WatchRecord(examples.header(["a", "b"]))
    for index, tensors in enumerate(values):
        total = {"grad": 1.0, "update": 0.1, "weight": 1.0, "ratio": 0.1, "loss": 1.0}
        found.add("norms", {"step": 1 + 10 * index, **total, "tensors": tensors})
    return found


def tensor(grad=1.0, ratio=1e-3, weight=1.0):
    return {"grad": grad, "update": ratio * weight, "weight": weight, "ratio": ratio}


def curvature_record(ratio, scale=None, **more):
    found = WatchRecord(examples.header(["a"]))
    examples.curvature(found, 100, 2 * ratio, edge=2.0, **more)
    if scale is not None:
        found.add("noise", examples.noise(100, scale))
    return found


@pytest.mark.parametrize(
    ("ratio", "scale", "finding", "text", "action"),
    [
        (
            0.25,
            None,
            "below edge",
            "4 times below the edge of stability: rate x curvature 0.5, stable below 2",
            "try 2",
        ),
        (0.01, None, "below edge", "100 times below the edge", "try 3 times"),
        (0.25, 640.0, "at edge", "4 times below the edge", "gradient noise limits the rate"),
        (0.1, 64.0, "below edge", "10 times below the edge", "try 3 times"),
        (0.9, None, "at edge", "at 90 % of the edge", "do not raise it"),
        (1.06, None, "at edge", "at 110 % of the edge", "do not raise it"),
        (1.5, None, "at edge", "at 150 % of the edge", "do not raise it"),
        (2.5, None, "unstable", "2.5 times above the edge", "divide it by at least 2.5"),
        (-0.1, None, "below edge", "No measured direction has a positive curvature", "a higher learning rate"),
    ],
)
def test_curvature_is_compared_with_the_edge(ratio, scale, finding, text, action):
    found = report_theory.curvature(curvature_record(ratio, scale))
    assert isinstance(found, Sentence)
    assert (found.finding, found.number) == (finding, pytest.approx(ratio))
    assert text in found.text
    assert action in found.action


def test_curvature_of_minibatches_states_its_bias():
    part, full = (report_theory.curvature(curvature_record(0.5, full_batch=full)) for full in (False, True))
    assert "minibatch of 64 examples" in part.confidence
    assert part.confidence.endswith("too high on average: the value of all examples is lower")
    assert "all 64 examples, eigenvalue within 1 %" in full.confidence
    assert "too high" not in full.confidence


@pytest.mark.parametrize(
    ("scale", "finding", "text"),
    [
        (1920.0, "noise", "batch 256 takes 0.27 to 0.28 times the steps and 1.1 times the examples"),
        (64.0, "balanced noise", "keep the batch size"),
        (6.4, "noise", "batch 16 takes 1.2 to 1.3 times the steps and 0.31 to 0.34 times the examples"),
    ],
)
def test_noise_scale_is_compared_with_the_batch(scale, finding, text):
    found = report_noise.noise(record(noise=examples.noise(100, scale)))
    assert isinstance(found, Sentence)
    assert found.finding == finding
    assert text in found.action


def test_curvature_of_all_examples_has_a_lower_limit():
    found = report_theory.curvature(curvature_record(1.5, full_batch=True))
    assert (found.finding, found.number) == ("unstable", pytest.approx(1.5))


def test_noise_is_in_units_of_the_rates_for_methods_with_denominators():
    found = record(noise=examples.noise(100, 1000.0))
    found.header["adaptive"] = True
    assert report_noise.noise(found).number == pytest.approx(700.0)
    assert "a batch of 700 (preconditioned noise scale), the batch is 64" in report_noise.noise(found).text


@pytest.mark.parametrize(
    ("scale", "low", "high", "start"),
    [
        (640.0, 0.05, 20.0, "The ratio of noise to signal of gradients is uncertain"),
        (64.0, 0.5, 3.0, "Noise and signal of gradients are balanced"),
        (6.4, 0.5, 20.0, "The ratio of noise to signal of gradients is uncertain"),
    ],
)
def test_batch_size_within_the_interval_does_not_change(scale, low, high, start):
    found = report_noise.noise(record(noise=examples.noise(100, scale, low=low, high=high)))
    assert found.text.startswith(start)
    assert found.action.startswith("keep the batch size")


def test_noise_without_an_upper_end_states_it():
    row = {**examples.noise(100, 1900.0), "high": None}
    assert "95 % interval from 1520, without an upper end" in report_noise.noise(record(noise=row)).confidence
    row["low"] = None
    assert report_noise.noise(record(noise=row)).confidence.startswith("without an interval")


@pytest.mark.parametrize("kind", ["noise", "curvature", "temperature", "dynamics"])
def test_reason_of_the_probe_replaces_the_sentence(kind):
    found = sentences.sentences_of(record(**{kind: {"step": 5, "reason": "The batch has one example."}}))
    assert "The batch has one example." in found.missing.values()


@pytest.mark.parametrize(
    ("measured", "action"),
    [(0.1, "half the learning rate halves"), (0.01, "is an upper bound"), (1.0, "noise does not explain it")],
)
def test_fluctuation_is_compared_with_its_prediction(measured, action):
    row = {"step": 9, "predicted": 0.1, "measured": measured, "excess": 0.02, "steps": 200}
    found = report_theory.temperature(record(temperature=row))
    assert "predicted 0.1; the fluctuation of the weights adds 0.02 to its mean" in found.text
    assert action in found.action
    assert (found.confidence, found.number) == ("step 9, 200 losses", pytest.approx(10 * measured))


def test_empty_record_has_reasons_for_all_topics():
    found = sentences.sentences_of(WatchRecord(examples.header([])))
    assert found.sentences == ()
    assert found.missing.keys() == sentences.MAKERS.keys()
    assert "needs `closure` in `watcher.observe`" in found.missing["curvature"]
    assert "needs `sliced` and `size`" in found.missing["noise"]


def test_non_finite_numbers_come_first():
    found = with_norms({"a": tensor(), "b": tensor()}, {"a": tensor(), "b": tensor(grad=math.nan)})
    first = sentences.sentences_of(found).sentences[0]
    assert first.text == "Gradients or weights of b are not finite"
    found.add("norms", {"step": 30, "loss": math.inf, "grad": 1.0, "tensors": {"a": tensor(), "b": tensor()}})
    assert sentences.sentences_of(found).sentences[0].text == "The loss or a norm is not finite"


def test_dead_tensors_need_three_zero_gradients():
    dead, alive = {"a": tensor(0.0), "b": tensor()}, {"a": tensor(1e-30), "b": tensor()}
    assert report_faults.dead(with_norms(dead, dead, dead)).text == "The gradients of a are exactly 0"
    assert isinstance(report_faults.dead(with_norms(dead, alive, dead)), str)
    assert isinstance(report_faults.dead(with_norms(dead, dead)), str)


def test_stalled_tensors_are_listed_from_the_largest_share():
    tensors = {"a": {"stalled": 0.6}, "b": {"stalled": 0.9}, "c": {"stalled": 0.1}}
    found = report_faults.stalled(record(dynamics={"step": 7, "tensors": tensors}))
    assert found.text == "Updates of 90 % of the elements are below the resolution of the dtype in b and a"
    assert isinstance(report_faults.stalled(record(dynamics={"step": 7, "tensors": {"c": tensors["c"]}})), str)


def test_stalled_tensors_with_negligible_gradients_are_inert():
    found = with_norms({"a": tensor(1e-8), "b": tensor()})
    found.add("dynamics", {"step": 7, "tensors": {"a": {"stalled": 1.0}}})
    assert report_faults.stalled(found).finding == "inert"
    found.add("dynamics", {"step": 9, "tensors": {"b": {"stalled": 1.0}}})
    assert report_faults.stalled(found).finding == "stalled"


def test_large_updates_name_the_tensor():
    found = report_faults.updates(with_norms({"a": tensor(ratio=0.3), "b": tensor()}))
    assert (found.finding, found.number) == ("large updates", pytest.approx(0.3))
    assert "those of a by 30 %" in found.text
    assert report_faults.updates(with_norms({"a": tensor(), "b": tensor()})).finding == "updates"


def test_current_warnings_precede_old_ones():
    found = WatchRecord(examples.header(["a"]))
    for step, severity in ((100, 0.9), (950, 0.2), (990, 0.5)):
        found.add("warning", examples.warning(step, "a", severity))
    found.add("cost", {"step": 1000, "share": 0.01})
    sentence = report_faults.warnings(found)
    assert sentence.text.startswith("Step 990: The update norm of a")
    assert sentence.finding == "warning"
    assert sentence.confidence == "false alarms in 5 % of healthy runs, 2 more warnings"
    found.add("cost", {"step": 3000, "share": 0.01})
    assert report_faults.warnings(found).text.startswith("Step 100:")
    assert report_faults.warnings(found).finding == "past warning"


def test_priorities_order_the_sentences():
    found = sentences.sentences_of(examples.complete(steps=600, count=4)).sentences
    assert [item.importance for item in found] == sorted((item.importance for item in found), reverse=True)
    assert {item.finding for item in found} <= PRIORITIES.keys()


def losses(slope, noise, correlation=0.0, count=100, seed=0):
    """Return losses on a line with first-order autoregressive noise of the given standard deviation."""
    rng, rest, values = random.Random(seed), 0.0, []
    for index in range(count):
        rest = correlation * rest + noise * math.sqrt(1 - correlation**2) * rng.gauss(0, 1)
        values.append(10 + slope * index + rest)
    return np.array(values)


def test_trend_of_an_exponential_is_exact():
    found = fit(np.arange(0.0, 100.0), np.exp(-0.01 * np.arange(100.0)))
    assert found.change == pytest.approx(math.expm1(-0.99), rel=1e-9)  # rounding of sums of 100 numbers
    assert found.low == pytest.approx(found.high, abs=1e-9)


def test_trend_of_losses_of_both_signs_is_relative_to_their_mean_size():
    values = np.linspace(-1.0, 3.0, 101)
    found = fit(np.arange(101.0), values)
    assert found.change == pytest.approx(4 / np.abs(values).mean(), rel=1e-9)  # rounding, as above


@pytest.mark.parametrize("correlation", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_interval_of_the_trend_contains_zero_in_flat_runs(correlation):
    steps = np.arange(0.0, 100.0)
    found = [fit(steps, losses(0.0, 0.5, correlation, seed=seed)) for seed in range(300)]
    covered = sum(item.low <= 0 <= item.high for item in found) / len(found)
    # Three standard errors of 300 draws at 95 % are 3.8 %; the correlation of 100 residuals is biased downwards, which
    # costs some coverage.
    assert covered >= (0.91 if correlation == 0 else 0.88)


@pytest.mark.parametrize(
    ("slope", "noise", "finding"),
    [(-0.05, 0.1, "falling loss"), (0.05, 0.1, "rising loss"), (0.0, 0.1, "flat loss"), (0.0, 3.0, "uncertain")],
)
def test_direction_of_the_loss_is_significant(slope, noise, finding):
    found = WatchRecord(examples.header(["a"]))
    for index, value in enumerate(losses(slope, noise)):
        found.add("norms", {"step": index, "loss": float(value), "tensors": {}})
    sentence = sentences.loss(found)
    assert sentence.finding == finding
    assert "measurements" in sentence.confidence


def test_cost_is_compared_with_the_budget():
    assert sentences.cost(record(cost={"step": 9, "share": 0.01})).action == "no change is necessary"
    assert sentences.cost(record(cost={"step": 9, "share": 0.2})).finding == "over budget"
    short = {"step": 9, "share": 0.2, "by_kind": {"hooks": 0.02}}
    assert sentences.cost(record(cost=short)).action.endswith("the hooks alone take 2 %")
    unlimited = record(cost={"step": 9, "share": 2.0})
    unlimited.header["budget"] = 1.0
    assert sentences.cost(unlimited).text == "Watching takes 200 % of the time of the steps, without a limit"


def rates(step=9, **tensors):
    return {"step": step, "rates": {name: {"predicted": 0.1, "applied": rate} for name, rate in tensors.items()}}


@pytest.mark.parametrize(("rate", "finding"), [(0.09, "rate"), (0.04, "other rate"), (0.3, "other rate")])
def test_effective_rate_is_compared_with_the_settings(rate, finding):
    found = sentences.effective_rate(record(dynamics=rates(a=rate, b=0.0)))
    assert (found.finding, found.number) == (finding, pytest.approx(rate))
    assert "no measured element has moved" in sentences.effective_rate(record(dynamics=rates(a=0.0)))


def test_old_dynamics_give_a_reason():
    found = record(dynamics={**rates(2, a=0.1), "tensors": {"a": {"agreement": 0.5}}}, cost={"step": 5, "share": 0.01})
    assert sentences.effective_rate(found) == "The effective learning rate was last measured at step 2."
    assert sentences.agreement(found) == "Momentum and gradient were last compared at step 2."


def test_faults_make_advice_on_speed_void():
    found = curvature_record(0.1, scale=6400.0)
    assert {"noise", "at edge"} == {item.finding for item in sentences.sentences_of(found).sentences}
    found.add("norms", {"step": 101, "grad": math.nan, "tensors": {}})
    assert {"non-finite", "after fault"} == {item.finding for item in sentences.sentences_of(found).sentences}


def test_falling_loss_with_a_fault_does_not_advise_to_continue():
    found = WatchRecord(examples.header(["a"]))
    for index, value in enumerate(losses(-0.05, 0.1)):
        found.add("norms", {"step": index, "loss": float(value), "tensors": {}})
    found.add("warning", examples.warning(99, "a"))
    actions = {item.finding: item.action for item in sentences.sentences_of(found).sentences}
    assert actions["falling loss"] == "the faults have not stopped it"


def test_losses_that_are_not_finite_have_no_trend():
    found = WatchRecord(examples.header(["a"]))
    for index in range(40):
        found.add("loss", {"step": 8 * index, "loss": math.nan if index == 39 else 1.0 / (1 + index)})
    assert sentences.loss(found) == "The losses until step 312 are not finite."


def test_high_rate_without_falling_loss_should_be_halved():
    found = curvature_record(1.5)
    for index, value in enumerate(losses(0.0, 0.1)):
        found.add("norms", {"step": index, "loss": float(value), "tensors": {}})
    sentence = report_theory.curvature(found)
    assert (sentence.finding, sentence.action) == ("above edge", "unless the loss falls, try half of it")


def test_tensors_that_learned_before_are_named_with_their_last_step():
    dead, alive = {"a": tensor(0.0), "b": tensor()}, {"a": tensor(), "b": tensor()}
    assert "learned until step 1:" in report_faults.dead(with_norms(alive, dead, dead, dead)).action
    assert "do not learn" in report_faults.dead(with_norms(dead, dead, dead)).action


def test_large_updates_of_biases_are_not_a_fault():
    found = with_norms({"a": tensor(ratio=0.3), "b": tensor()})
    found.header["tensors"]["a"] = [64]
    assert report_faults.updates(found).finding == "updates"


def test_old_measurements_state_the_newest_step():
    found = curvature_record(0.25)
    found.add("cost", {"step": 900, "share": 0.01})
    assert report_theory.curvature(found).confidence.startswith("step 100 of 900, ")
