"""The experiment `normalisation`: runs against exact moments and separate optimizers, and its findings."""

import math

import numpy as np
import pytest
import torch
from outcome_checks import check_page
from torch import nn

import dashpot as dp
from dashpot import experiments
from dashpot.experiments.normalisation import LAWS, RATE_COUNT, TUNING
from dashpot.experiments.normalisation_runs import RMS, SD, VARIANCE, Digits, maker, quadratic_losses


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("normalisation", seeds=2, quick=True)


def expected_loss(h, sd, scale, lr, steps):
    """Return the exact mean loss of one coordinate with averaged momentum, from its mean and covariance.

    The state is (w, m): m = .9 m + .1 (h w + noise)/scale, w = w - lr_t m/(1 - .9^t).
    """
    mean, second = np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.0, 0.0]])
    for step in range(steps):
        rate = lr * (1 - step / steps) / (1 - 0.9 ** (step + 1))
        row = np.array([0.1 * h / scale, 0.9])
        matrix = np.array([np.array([1.0, 0.0]) - rate * row, row])
        drive = 0.1 * sd / scale * np.array([-rate, 1.0])
        mean, second = matrix @ mean, matrix @ second @ matrix.T + np.outer(drive, drive)
    return h * second[0, 0] / 2


def test_quadratic_losses_equal_the_exact_second_moments():
    h, sd = torch.tensor([0.1, 1.0], dtype=torch.float64), torch.tensor([0.3, 1.0], dtype=torch.float64)
    found = quadratic_losses(
        maker("g"), (0.03, 0.1), (0, 1), curvature=h, noise=sd, steps=60, replicas=400, scale=sd**2
    )
    for rate, row in zip((0.03, 0.1), found.tolist(), strict=True):
        exact = sum(expected_loss(a, b, b * b, rate, 60) for a, b in zip(h.tolist(), sd.tolist(), strict=True))
        # 800 runs of a loss whose standard deviation is about its mean: three standard errors
        assert np.mean(row) == pytest.approx(exact, rel=0.11)


@pytest.mark.parametrize("direction", [RMS, SD, VARIANCE])
def test_rows_equal_separate_optimizers_of_their_rates(direction):
    """The runs of several rates share one optimizer with rate 1; here every rate has its own optimizer."""
    h, noise = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    found = quadratic_losses(maker(direction), (0.01, 0.1), (3,), curvature=h, noise=noise, steps=20, replicas=2)
    for rate, loss in zip((0.01, 0.1), found[:, 0].tolist(), strict=True):
        w = nn.Parameter(torch.ones(2, 1, dtype=torch.float64))
        optimizer, draw = maker(direction)([w]), dp.data.seeding.generator("normalisation", "quadratic", 3)
        for step in range(20):
            w.grad = h * w.detach() + noise * torch.randn(2, 1, dtype=torch.float64, generator=draw)
            optimizer.param_groups[0]["lr"] = rate * (1 - step / 20)
            optimizer.step()
        assert loss == pytest.approx((h * w.square() / 2).mean().item(), rel=1e-9)  # rounding of 20 steps


def test_digits_loss_at_rate_zero_is_that_of_the_start():
    runs = Digits((0.0, 0.1), (0,), steps=2)
    weights = [values[0] for values in runs.start]
    hidden = torch.relu(runs.inputs @ weights[0] + weights[1])
    expected = nn.functional.cross_entropy(hidden @ weights[2] + weights[3], runs.targets)
    assert runs.losses(maker(RMS))[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)  # float32


def test_step_size_does_not_depend_on_the_scale(outcome):
    steps = [finding for finding in outcome.findings if finding.name.startswith("step-")]
    assert len(steps) == 3
    for finding in steps:
        # the last 10 of 30 steps, which are correlated, in 40 elements: three standard errors
        assert finding.measured == pytest.approx(((1 - 0.9) / 1.9) ** 0.5, rel=0.35)


def test_every_problem_has_a_finite_ratio(outcome):
    names = {finding.name for finding in outcome.findings}
    assert {f"known-{power:g}" for power in LAWS.values()} <= names
    assert {"quadratic-0.5", "quadratic-0.5-later", "digits", "digits-tuned"} <= names
    assert all(math.isfinite(finding.measured) for finding in outcome.findings)


def test_known_variance_and_sd_are_equal_for_constant_noise(outcome):
    [finding] = [finding for finding in outcome.findings if finding.name == "known-0"]
    assert finding.measured == pytest.approx(1, rel=1e-9)  # the same denominators


def test_losses_are_those_of_the_best_rate_on_other_seeds(outcome):
    found = outcome.data["sd 1"][RMS]
    assert len(found["tuning"]) == RATE_COUNT
    assert found["tuning loss"] == min(found["tuning"])
    assert found["rate"] == found["rates"][found["tuning"].index(min(found["tuning"]))]
    assert len(found["losses"]) == 2
    assert all(isinstance(key, tuple) for key in TUNING)  # disjoint from seeds, which are integers


@pytest.mark.slow
def test_normalisation_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("normalisation")
    by_name = {finding.name: finding for finding in outcome.findings}
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert by_name["known-0.5"].high < 1 < by_name["known-1"].low
    assert by_name["quadratic-0.5"].low > 1 > by_name["quadratic-0.5-later"].high
    assert by_name["digits"].low > 1
    check_page(outcome, tmp_path)
