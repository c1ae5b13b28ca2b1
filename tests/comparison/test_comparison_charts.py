"""Curves, figures and line styles."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_support import diverging, finished, study, toy

from dashpot.comparison import Study, run_study
from dashpot.comparison.curves import change_points, downsample, score_band, smooth, smoothed_loss
from dashpot.comparison.figures import loss_figure, lr_figure, score_figure
from dashpot.figures import new_figure, tags
from dashpot.figures.method_styles import STYLES

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


@given(VALUES, st.integers(1, 60))
def test_smooth_equals_mean_of_available_neighbors(values, window):
    half = (window | 1) // 2
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    # The tolerance allows for float64 sums of up to 40 numbers below 1e3.
    np.testing.assert_allclose(smooth(values, window), expected, rtol=0, atol=1e-9)


@given(VALUES, st.integers(2, 50))
def test_downsample_keeps_endpoints_order_and_values(values, points):
    steps, kept = downsample(np.array(values), points)
    assert len(kept) <= points
    assert (steps[0], steps[-1]) == (1, len(values))
    assert np.all(np.diff(steps) > 0)
    assert [values[int(step) - 1] for step in steps] == kept.tolist()


@given(st.lists(st.sampled_from([0.1, 0.2]), min_size=1, max_size=30))
def test_change_points_preserve_the_curve(values):
    steps, kept = change_points(values)
    redrawn = np.interp(np.arange(1, len(values) + 1), steps, kept)
    np.testing.assert_array_equal(redrawn, values)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("charts") / "out"
    return run_study(Study(toy(), (*study("sgd", "adam").entries, diverging()), (0, 1), 3), out)


def artists(figure, role):
    return {tag.key: artist for _, artist, tag in tags.tags_of(figure) if tag.role == role}


def test_score_figure_shows_seed_mean_and_band(runs):
    group = [run for run in runs if run.entry == "adam"]
    band = score_band(group, "eval", "accuracy")
    values = [[epoch["eval"]["accuracy"] for epoch in run.epochs] for run in group]
    np.testing.assert_allclose(band.mean, np.mean(values, axis=0))
    assert band.steps.tolist() == [4, 8, 12]
    figure = score_figure(runs, "eval", "accuracy")
    assert set(artists(figure, tags.VALUES)) == set(artists(figure, "band")) == {"sgd", "adam"}
    assert artists(figure, tags.VALUES)["adam"].get_ydata().tolist() == pytest.approx(band.mean.tolist())
    [path] = artists(figure, "band")["adam"].get_paths()
    assert max(path.vertices[:, 1]) == max(map(max, values))


def test_score_figure_of_one_seed_has_no_band(tmp_path):
    figure = score_figure(finished(tmp_path / "out", "sgd"), "eval", "accuracy")
    assert artists(figure, "band") == {}


def test_loss_figure_shows_single_runs_and_divergence(runs):
    figure = loss_figure(runs)
    assert len([tag for _, _, tag in tags.tags_of(figure) if tag.role == "raw"]) == 6
    assert set(artists(figure, tags.VALUES)) == {"sgd", "adam"}
    group = [run for run in runs if run.entry == "sgd"]
    np.testing.assert_allclose(artists(figure, tags.VALUES)["sgd"].get_ydata(), smoothed_loss(group, 1))
    cross = artists(figure, "diverged")["too-fast"]
    lost = [run for run in runs if run.entry == "too-fast"]
    assert cross.get_xdata().tolist() == [len(run.loss) - 1 for run in lost]
    assert all(math.isfinite(y) for y in cross.get_ydata())


def test_lr_figure_shows_recorded_lr_on_given_axes(runs):
    _, [ax] = new_figure("test")
    lines = artists(lr_figure(runs, ax), tags.VALUES)
    assert lines["adam"].axes is ax
    assert lines["adam"].get_xdata().tolist() == [1, 12]
    assert lines["adam"].get_ydata().tolist() == [0.05, 0.05]


def with_losses(runs, losses):
    [first, *_] = copy.deepcopy(runs)
    first.loss = losses
    return [first]


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        ([1.0, 0.1], "log"),
        ([1.0, 0.0, 0.1], "log"),
        ([1.0, 0.9], "linear"),
        ([1.0, -0.1], "linear"),
        ([0.0, 0.0], "linear"),
    ],
)
def test_axis_is_logarithmic_for_nonnegative_values_over_a_wide_range(runs, losses, kind):
    assert loss_figure(with_losses(runs, losses)).axes[0].get_yscale() == kind


def test_logarithmic_axis_covers_values_and_labels_ticks(runs):
    [axes] = lr_figure(runs).axes
    rates = [lr for run in runs for lr in run.lr]
    low, high = axes.get_ylim()
    assert low < min(rates) or min(rates) < 1e-12 * max(rates)
    assert max(rates) < high
    assert [float(text.get_text()) for text in axes.get_yticklabels()] == axes.get_yticks().tolist()


def test_method_has_same_style_in_every_chart(runs):
    figures = [loss_figure(runs), score_figure(runs, "eval", "accuracy"), lr_figure(runs)]
    lines = [artists(figure, tags.VALUES)["adam"] for figure in figures]
    assert {(line.get_color(), line.get_linestyle()) for line in lines} == {(STYLES["adam"].hue.light, "-")}
