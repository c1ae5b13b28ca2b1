"""Curves, figures and line styles."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_support import diverging, finished, study, toy

from dashpot.comparison import DEFAULT_METHODS, Study, run_study
from dashpot.comparison.curves import change_points, downsample, score_band, smooth, smoothed_loss
from dashpot.comparison.figures import loss_figure, lr_figure, score_figure
from dashpot.comparison.palette import STYLES, styles_for

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


def traces(figure, role):
    return {trace.name: trace for trace in figure.data if trace.meta["role"] == role}


def test_score_figure_shows_seed_mean_and_band(runs):
    group = [run for run in runs if run.entry == "adam"]
    band = score_band(group, "eval", "accuracy")
    values = [[epoch["eval"]["accuracy"] for epoch in run.epochs] for run in group]
    np.testing.assert_allclose(band.mean, np.mean(values, axis=0))
    assert band.steps.tolist() == [4, 8, 12]
    figure = score_figure(runs, "eval", "accuracy")
    assert set(traces(figure, "line")) == set(traces(figure, "band")) == {"sgd", "adam"}
    assert list(traces(figure, "line")["adam"].y) == pytest.approx(band.mean.tolist())
    assert max(traces(figure, "band")["adam"].y) == max(map(max, values))


def test_score_figure_of_one_seed_has_no_band(tmp_path):
    figure = score_figure(finished(tmp_path / "out", "sgd"), "eval", "accuracy")
    assert traces(figure, "band") == {}


def test_loss_figure_shows_single_runs_and_divergence(runs):
    figure = loss_figure(runs)
    assert len([trace for trace in figure.data if trace.meta["role"] == "raw"]) == 6
    assert set(traces(figure, "line")) == {"sgd", "adam"}
    group = [run for run in runs if run.entry == "sgd"]
    np.testing.assert_allclose(traces(figure, "line")["sgd"].y, smoothed_loss(group, 1))
    cross = traces(figure, "diverged")["too-fast"]
    lost = [run for run in runs if run.entry == "too-fast"]
    assert list(cross.x) == [len(run.loss) - 1 for run in lost]
    assert all(math.isfinite(y) for y in cross.y)


def test_lr_figure_shows_recorded_lr(runs):
    lines = traces(lr_figure(runs), "line")
    assert list(lines["adam"].x) == [1, 12]
    assert list(lines["adam"].y) == [0.05, 0.05]


def with_losses(runs, losses):
    [first, *_] = copy.deepcopy(runs)
    first.loss = losses
    return [first]


@pytest.mark.parametrize(
    ("losses", "kind"),
    [([1.0, 0.1], "log"), ([1.0, 0.0, 0.1], "log"), ([1.0, 0.9], None), ([1.0, -0.1], None), ([0.0, 0.0], None)],
)
def test_axis_is_logarithmic_for_nonnegative_values_over_a_wide_range(runs, losses, kind):
    assert loss_figure(with_losses(runs, losses)).layout.yaxis.type == kind


def test_logarithmic_axis_covers_values_and_labels_ticks(runs):
    axis = lr_figure(runs).layout.yaxis
    rates = [lr for run in runs for lr in run.lr]
    assert 10 ** axis.range[0] < min(rates) or min(rates) < 1e-12 * max(rates)
    assert max(rates) < 10 ** axis.range[1]
    assert [float(text) for text in axis.ticktext] == list(axis.tickvals)


def test_method_has_same_color_in_every_chart(runs):
    figures = [loss_figure(runs), score_figure(runs, "eval", "accuracy"), lr_figure(runs)]
    styles = [
        {name: trace.line.to_plotly_json() for name, trace in traces(figure, "line").items()} for figure in figures
    ]
    assert styles[0]["adam"] == styles[1]["adam"] == styles[2]["adam"]
    assert styles[0]["adam"]["color"] == STYLES["adam"].light


def test_styles_of_unknown_methods_are_unique():
    own = styles_for([f"mine-{i}" for i in range(8)])
    assert len({*own.values(), *STYLES.values()}) == 8 + len(set(STYLES.values()))


# Matrices on linear RGB that simulate color blindness. Source: Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def linear(color: str) -> np.ndarray:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 1e-9))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_default_methods_differ_in_dash_or_color_under_color_blindness(theme, vision):
    for one, two in itertools.combinations(DEFAULT_METHODS, 2):
        a, b = STYLES[one], STYLES[two]
        if a.dash != b.dash:
            continue
        seen = [lab(np.asarray(VISION[vision]) @ linear(getattr(style, theme))) for style in (a, b)]
        # A CIELAB distance of 2.3 is just noticeable; lines require a distance several times larger.
        assert np.linalg.norm(seen[0] - seen[1]) > 12, (one, two)


@pytest.mark.parametrize(("theme", "paper"), [("light", "#ffffff"), ("dark", "#14171b")])
@pytest.mark.parametrize("name", STYLES)
def test_line_contrast_meets_wcag(name, theme, paper):
    weights = np.array([0.2126, 0.7152, 0.0722])
    bright, dim = sorted((weights @ linear(getattr(STYLES[name], theme)), weights @ linear(paper)), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 3  # WCAG 2.2, 1.4.11: graphical objects
