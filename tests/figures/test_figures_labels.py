"""Labels of lines, and axes in the house style."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.errors import ArgumentError
from dashpot.figures import color, label_lines, new_figure, tag
from dashpot.figures.labels import spread

PLACES = st.lists(st.floats(0, 100), min_size=1, max_size=8)


@settings(max_examples=40)
@given(PLACES, st.floats(0.1, 10))
def test_spread_keeps_order_gap_and_range(wanted, gap):
    placed = np.array(spread(wanted, gap, 0.0, 100.0))
    order = np.argsort(wanted, kind="stable")
    # The tolerance allows for the rounding of sums of up to eight float64 numbers below 1e3.
    assert np.all(np.diff(placed[order]) >= gap - 1e-9)
    assert np.all((placed >= -1e-9) & (placed <= 100 + 1e-9))


def test_spread_moves_as_little_as_possible():
    assert spread([0.0, 5.0], 1.0, 0.0, 10.0) == [0.0, 5.0]
    assert spread([5.0, 5.0, 5.0], 2.0, 0.0, 10.0) == [3.0, 5.0, 7.0]
    assert spread([9.8, 10.0], 1.0, 0.0, 10.0) == [9.0, 10.0]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_labels_are_drawn_inside_the_figure_without_overlaps(scale):
    figure, [ax] = new_figure("test", size=(4, 2))
    for index in range(4):
        ax.plot([1, 2, 3], [1.0, 1.0, 1.0 + 0.01 * index], label=f"line {index}")
    ax.set_yscale(scale)
    label_lines(ax)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert [text.get_color() for text in ax.texts] == [color(index) for index in range(4)]


@pytest.mark.parametrize(
    ("lines", "label"),
    [(1, "x" * 40), (30, "line"), (0, "line")],
    ids=["long label", "many lines", "line that ends early"],
)
def test_axes_have_a_legend_if_labels_do_not_fit(lines, label):
    _, [ax] = new_figure("test", size=(4, 2))
    for _ in range(lines):
        ax.plot([0, 10], [0, 1], label=label)
    if not lines:
        ax.plot([0, 3], [0, 1], label=label)
        ax.plot([0, 10], [0, 1])
    label_lines(ax)
    assert not ax.texts
    assert len(ax.get_legend().get_texts()) == max(lines, 1)


def test_legend_lists_what_has_no_direct_label():
    _, [ax] = new_figure("test", size=(4, 2))
    ax.plot([0, 10], [0, 1], label="predicted")
    ax.plot([0, 10], [0, 1], "o", label="measured")
    ax.fill_between([0, 10], [0, 0], [1, 1], alpha=0.2, label="range")
    label_lines(ax)
    assert [text.get_text() for text in ax.texts] == ["predicted"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["measured", "range"]


def test_unlabelled_and_empty_lines_have_no_label():
    _, [ax] = new_figure("test")
    ax.plot([1, 2])
    ax.plot([], [], label="empty")
    label_lines(ax)
    assert not ax.texts
    assert ax.get_legend() is None


def test_style_leaves_settings_of_matplotlib_unchanged():
    before = mpl.rcParams.copy()
    _, [ax] = new_figure("test")
    [line] = ax.plot([1, 2])
    ax.set_title("title")
    after = mpl.rcParams.copy()
    assert {key for key in before if before[key] != after[key]} <= {"backend"}  # chosen by matplotlib at the first use
    assert line.get_color() == color(0)
    assert ax.get_title() == ax.get_title("left") == "title"


def test_given_axes_are_used_and_checked():
    figure, axes = new_figure("test", columns=2)
    assert new_figure("test", columns=2, ax=axes) == (figure, axes)
    with pytest.raises(ArgumentError, match=r"test: ax must be matplotlib axes, got"):
        new_figure("test", ax=axes)
    with pytest.raises(ArgumentError, match=r"test: ax must be a sequence of 2 matplotlib axes, got 3"):
        new_figure("test", columns=2, ax=3)


@pytest.mark.parametrize("key", ["", "a b", 'a"', 3])
def test_tag_rejects_other_keys(key):
    _, [ax] = new_figure("test")
    with pytest.raises(ArgumentError, match="tag: key must be a name of letters, digits"):
        tag(ax.plot([1, 2])[0], key)
