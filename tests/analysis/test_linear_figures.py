"""Figures of response, stability and temperature: axes, marks and undefined results."""

import numpy as np
import pytest

import dashpot as dp
from dashpot.analysis import RationalFilter, response, stability, stability_region, temperature
from dashpot.analysis.explanation import _fill_last_row
from dashpot.errors import ArgumentError
from dashpot.figures import new_figure, svg

PAIR = (0.5 + 0.6j, 0.5 - 0.6j)


def results():
    adam, second = dp.AdamW.recipe_for(lr=0.01), RationalFilter((0.2,), PAIR, 0.1)
    undefined = dp.Recipe(dp.ChangeDecay(0.1), dp.Filter())
    yield from ((item, 3) for item in map(response, (adam, second, undefined)))
    yield from ((stability(item, 2.0), 2) for item in (adam, second, undefined))
    yield stability(second), 2
    yield temperature(adam, 2.0), 1
    yield temperature(dp.SGD.recipe_for(lr=1.0), 3.0), 1


def test_every_result_draws_on_given_axes():
    figure, axes = new_figure("test", columns=3)  # drawing on the same axes again is faster than new axes
    for result, count in results():
        assert result.plot(axes[:count] if count > 1 else axes[0]) is figure


def test_inline_svg_has_series_and_is_small():
    figure = stability_region(dp.HeavyBall.recipe_for(lr=0.1), 2.0).plot()
    assert len(figure.axes) == 1
    text = svg(figure, key="s", title="Stability")
    assert 'id="s-setting"' in text
    assert len(text) < 30_000


def texts(panel):
    return [text.get_text() for text in panel.texts]


def test_areas_are_labelled_with_spectral_radii_and_a_distant_setting_is_marked():
    _, [panel] = new_figure("test")
    stability_region(dp.HeavyBall.recipe_for(lr=0.1), 1e5).plot(panel)  # 2500 times the limit
    assert {"0.5", "0.8", "0.9", "unstable", "at 10 000"} <= set(texts(panel))
    for text in panel.texts:
        if text.get_text() == "0.5":  # the spectral radius sqrt(pole) is 0.5 at the pole 0.25
            x, _ = panel.transData.inverted().transform(panel.transAxes.transform(text.get_position()))
            assert x == pytest.approx(0.25, abs=0.01)  # the grid has 101 poles


def test_region_without_stable_settings_has_no_labels():
    _, [panel] = new_figure("test")
    stability_region(dp.HeavyBall.recipe_for(lr=0.1), 1e5, "pole-zero").plot(panel)
    assert not {"0.5", "0.8", "0.9"} & set(texts(panel))


@pytest.mark.slow
def test_inline_svg_of_every_figure_is_small():
    for result, count in results():
        figure = result.plot()
        assert len(figure.axes) == count
        assert len(svg(figure, key="s", title="Figure")) < 60_000


def test_regions_mark_the_setting_and_agree_with_stability():
    recipe = dp.NAG.recipe_for(lr=0.1, momentum=0.9)
    for axes in ("pole-product", "pole-zero"):
        region = stability_region(recipe, 5.0, axes)
        assert region.radius.shape == (len(region.values), len(region.poles))
        pole, value = region.setting
        column = np.argmin(abs(region.poles - pole))
        assert region.lower[column] < value < region.upper[column]
        inside = (region.values[:, None] > region.lower) & (region.values[:, None] < region.upper)
        edge = abs(region.radius - 1) < 0.02  # points next to the boundary
        assert ((region.radius < 1) == inside)[~edge].all()
        row = np.argmin(abs(region.values - value))
        near = stability(recipe, 5.0).spectral_radius
        assert region.radius[row, column] == pytest.approx(near, abs=0.1)  # half a cell of the grid


def test_region_without_curvature_has_no_second_coordinate():
    region = stability_region(dp.NAG.recipe_for(lr=0.1, momentum=0.9))
    assert region.setting == (0.9, None)
    assert "stable for zero 0.4737. The setting has the pole 0.9." in region.summary()
    region = stability_region(dp.NAG.recipe_for(lr=0.1, momentum=0.9), axes="pole-zero")
    assert region.product == 1.0


def test_region_covers_unstable_and_decayed_settings():
    stages = dp.Filter(0.9, -0.3, normalise="none"), dp.DecoupledDecay(0.1, "constant")
    region = stability_region(dp.Recipe(*stages, lr=1.0), curvature=20.0)
    assert region.setting[1] < region.values[-1]
    assert region.setting[1] > region.upper[90]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: stability_region(RationalFilter((), PAIR)),
            "must have a filter of first order. The filter has order 2",
        ),
        (lambda: stability_region(dp.Recipe(dp.ChangeDecay(0.1), dp.Filter())), "A filter after ChangeDecay"),
        (lambda: stability_region(dp.Filter(), axes="pole"), "axes must be one of 'pole-product', 'pole-zero'"),
        (lambda: stability_region(dp.Filter(), 0.0), "curvature must be None or a number"),
    ],
)
def test_invalid_regions_raise(call, message):
    with pytest.raises(ArgumentError, match=message.replace(".", r"\.")):
        call()


def test_last_row_of_combined_figure_has_no_empty_cell():
    figure, axes = new_figure("test", 2, 3)
    axes[5].remove()
    _fill_last_row(figure, axes[:5], 3)
    columns = [axes[index].get_subplotspec().colspan for index in range(5)]
    assert [(span.start, span.stop) for span in columns] == [(0, 2), (2, 4), (4, 6), (0, 3), (3, 6)]
