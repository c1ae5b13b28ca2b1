"""Curve of the learning-rate range test: smoothing, suggestions and plots."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learner_support import learner

from dashpot.training import LRCurve, find_lr


def curve_of(function, start=1e-5, end=10.0, points=200):
    lrs = np.geomspace(start, end, points)
    return LRCurve(lrs.tolist(), [float(function(lr)) for lr in lrs], "manual")


def test_steepest_of_a_sigmoid_is_its_center():
    # As a function of log lr, L = 2 - 1 / (1 + (m / lr)^2) is steepest at lr = m; a symmetric average preserves this.
    curve = curve_of(lambda lr: 2 - 1 / (1 + (0.003 / lr) ** 2))
    step = (10 / 1e-5) ** (1 / 199)
    assert 0.003 / step <= curve.suggest().steepest <= 0.003 * step


def test_minimum_is_a_tenth_of_lr_of_lowest_loss():
    curve = curve_of(lambda lr: (math.log10(lr) + 1) ** 2)  # lowest at 0.1
    step = (10 / 1e-5) ** (1 / 199)
    assert 0.01 / step <= curve.suggest().minimum <= 0.01 * step
    assert curve.suggest().steepest < 0.1


def test_suggestions_are_robust_to_noise():
    draw = np.random.default_rng(0)
    curve = curve_of(lambda lr: 2.3 - 1.5 / (1 + (0.01 / lr) ** 1.5) + lr**2 + 0.02 * draw.standard_normal(), points=53)
    assert 0.003 < curve.suggest().steepest < 0.03
    assert 0.005 < curve.suggest().minimum < 0.05


def test_steepest_ignores_rates_above_the_minimum():
    losses = [2.0] * 10 + [1.9] * 10 + [1.0] * 10 + [5.0] * 10 + [1.5] * 10  # the steepest decrease is the last one
    curve = LRCurve(np.geomspace(1e-5, 1, 50).tolist(), losses, "manual")
    assert 1e-3 < curve.suggest().steepest < 1e-2


def test_suggestions_are_none_if_loss_never_decreases():
    curve = curve_of(lambda lr: 1 + lr)
    assert curve.suggest() == (None, None)
    assert "did not decrease" in curve.text()
    assert LRCurve([1e-5], [2.0], "manual").suggest() == (None, None)
    assert "did not decrease" in str(LRCurve([1e-5], [2.0], "manual"))


def test_smoothing_spans_a_factor_of_three():
    lrs = [1e-3 * 1.3**i for i in range(9)]
    losses = [0.0] * 4 + [1.0] + [0.0] * 4
    assert LRCurve(lrs, losses, "").smoothed == pytest.approx([0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0])  # 1.3^4 = 2.86


def test_curve_is_plotted_as_figure_and_text():
    curve = find_lr(learner(), 1e-4, 1.0)
    [axes] = curve.plot().axes
    assert [line.get_label() for line in axes.lines][:2] == ["loss", "smoothed"]
    assert axes.lines[1].get_ydata().tolist() == curve.smoothed
    assert axes.get_xscale() == "log"
    assert curve.plot(axes) is axes.figure
    lines = curve.text(width=40, height=8).splitlines()
    assert sum("*" in line for line in lines[:8]) >= 1
    assert max(map(len, lines[:10])) <= 11 + 40
    assert lines[-1].startswith("The test ended at")
