"""Inline SVG of figures: ids, colors, values and size."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from dashpot.figures import color, label_lines, new_figure, svg, tag
from dashpot.figures.inline_svg import draw_svg
from dashpot.figures.literal import literal
from dashpot.figures.series_data import simplify, thinned

X = np.arange(1, 41)


def example():
    figure, [ax] = new_figure("test", size=(4, 2))
    ax.plot(X, X**2.0, label="SGD, fast")
    tag(ax.plot(X, 0.5 * X**2.0, label="Adam")[0], "adam")
    tag(ax.plot(X, X**1.9, color="0.5", alpha=0.3)[0], "adam", role="raw")
    ax.scatter([3], [4.5], label="start", color="k")
    ax.axhline(2.0, linestyle="--", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_xlabel("step")
    return figure, ax


@pytest.fixture(scope="module")
def text():
    return svg(example()[0], key="loss", title="Loss & more")


def read(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    [data] = re.findall(r"<metadata>(.*?)</metadata>", text)
    return json.loads(data, parse_constant=refuse)


def test_svg_is_xml_with_an_id_per_artist(text):
    root = ElementTree.fromstring(text.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    found = [node.attrib for node in root.iter() if "data-series" in node.attrib]
    assert sorted((item["id"], item["data-series"], item["data-role"]) for item in found) == [
        ("loss-adam", "adam", "values"),
        ("loss-adam-2", "adam", "raw"),
        ("loss-sgd-fast", "sgd-fast", "values"),
        ("loss-start", "start", "values"),
    ]
    assert root.find("title").text == "Loss & more"
    assert {node.tag for node in root.iter()}.isdisjoint({"script", "link"})


def test_colors_of_the_palette_are_variables(text):
    assert {"var(--series-0,#0a62a8)", "var(--grid,#e6e9ec)", "var(--ink,#000000)"} <= set(
        re.findall(r"var\(.*?\)", text)
    )
    assert set(re.findall(r"(?<!,)#[0-9a-f]{6}\b", text)) == {"#808080"}


def test_values_are_embedded_in_data_coordinates(text):
    data = read(text)
    series = {item["k"]: item for item in data["series"]}
    assert set(series) == {"sgd-fast", "adam", "start"}
    assert data["xs"][series["adam"]["x"]] == X.tolist()
    assert series["adam"]["y"] == (0.5 * X**2.0).tolist()
    assert series["start"]["n"] == "start"
    [axes] = data["axes"]
    ax = example()[1]
    assert axes["x"] == [*ax.get_xlim(), "linear"]
    assert axes["y"] == [*ax.get_ylim(), "log"]
    assert axes["xl"] == "step"


def test_places_of_values_agree_with_the_drawn_path(text):
    [axes] = read(text)["axes"]
    left, top, right, bottom = axes["box"]
    [path] = re.findall(r'id="loss-sgd-fast".*?d="M(.*?)"', text, re.DOTALL)
    x, y = (float(number) for number in re.split(r"[ L]", path)[:2])
    # Coordinates are rounded to 0.01 points.
    assert x == pytest.approx(left + (1 - axes["x"][0]) / (axes["x"][1] - axes["x"][0]) * (right - left), abs=0.02)
    low, high = np.log(axes["y"][:2])
    assert y == pytest.approx(bottom - (0 - low) / (high - low) * (bottom - top), abs=0.02)


def test_other_scales_are_described_by_a_table_and_nonfinite_values_are_null():
    figure, [ax] = new_figure("test", size=(4, 2))
    ax.plot([-100, 0, 50, 100], [1, np.nan, np.inf, 2], label="a")
    ax.set_xscale("symlog")
    data = read(svg(figure, key="a", title="a"))
    assert data["series"][0]["y"] == [1, None, None, 2]
    low, high, table = data["axes"][0]["x"]
    assert (table[0], table[-1]) == pytest.approx((low, high), rel=1e-4)  # five digits
    assert table == sorted(table)
    assert table[16] == pytest.approx(0, abs=1e-9)


def test_equal_figures_have_equal_svg_and_are_unchanged():
    figures = [example()[0], example()[0]]
    label_lines(figures[0].axes[0])
    label_lines(figures[1].axes[0])
    lines = figures[0].axes[0].lines
    before = [(line.get_gid(), line.get_xydata().tolist()) for line in lines]
    texts = [svg(figure, key="loss", title="Loss") for figure in figures]
    assert texts[0] == texts[1]
    assert [(line.get_gid(), line.get_xydata().tolist()) for line in lines] == before


def test_long_lines_and_bands_are_small():
    figure, [ax] = new_figure("test")
    noise = np.random.default_rng(0).normal(size=20_000)
    ax.plot(noise, label="noise")
    ax.fill_between(range(20_000), noise - 1, noise + 1)
    text = svg(figure, key="noise", title="Noise")
    assert len(text) < 60_000
    assert len(read(text)["series"][0]["y"]) <= 160
    assert len(figure.axes[0].lines[0].get_xdata()) == 20_000


def test_thinned_keeps_ends_and_extremes():
    points = np.column_stack([np.arange(5000.0), np.random.default_rng(1).normal(size=5000)])
    points[1234, 1], points[4321, 1] = 50.0, np.nan
    kept = thinned(points)
    assert len(kept) <= 600
    assert kept[0].tolist() == points[0].tolist()
    assert kept[-1].tolist() == points[-1].tolist()
    assert np.nanmax(kept[:, 1]) == 50.0
    assert np.nanmin(kept[:, 1]) == np.nanmin(points[:, 1])


def test_simplified_path_is_within_the_tolerance():
    x = np.linspace(0, 10, 2000)
    points = np.column_stack([x, np.sin(x)])
    kept = points[simplify(points, 0.01)]
    assert len(kept) < 60
    assert np.abs(np.interp(x, *kept.T) - np.sin(x)).max() <= 0.0142  # at slopes up to 1, sqrt(2) times the distance


def test_legend_entries_have_color_dash_marker_and_opacity():
    figure, [ax] = new_figure("test", size=(4, 2))
    ax.plot([1, 2], label="solid")
    ax.plot([2, 1], "--", label="dashed", alpha=0.5)
    ax.plot([1], [1], "o", label="point")
    [[solid, dashed, point]] = draw_svg(figure, key="a", title="a").series
    assert (solid.color, solid.dashes, solid.kind, solid.opacity) == (f"var(--series-0,{color(0)})", "", "line", 1.0)
    assert (len(dashed.dashes.split(",")), dashed.opacity) == (2, 0.5)
    assert point.kind == "marker"


def test_names_with_formulas_and_foreign_letters_are_literal():
    figure, [ax] = new_figure("plot")
    tag(ax.plot([1, 2], label=literal("$\\frac$ \u5b57 $"))[0], "name")
    label_lines(ax)
    assert "$\\frac$ \u5b57 $" in svg(figure, key="a", title="a")
