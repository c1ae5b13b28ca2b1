"""Figures of the dynamics of parameter changes."""

import dynamics_support
import numpy as np
import pytest

import dashpot as dp
from dashpot.figures import new_figure, svg


@pytest.fixture(scope="module")
def found():
    return dynamics_support.record(lambda params: dp.AdamW(params, lr=0.01, engine="eager"), steps=4, elements=20)


def test_plot_shows_quantiles_of_elements(found):
    figure = found.plot(tensor="3.weight")
    lines = {(number, line.get_label()): line for number, ax in enumerate(figure.axes) for line in ax.lines}
    alpha = found["3.weight"].alpha
    assert np.allclose(lines[0, "median"].get_ydata(), np.median(alpha, axis=1), rtol=1e-12)
    assert np.allclose(lines[0, "largest"].get_ydata(), alpha.max(axis=1), rtol=1e-12)
    assert np.allclose(lines[3, "bound"].get_ydata(), found["3.weight"].bound.max(axis=1), rtol=1e-12)
    assert "3.weight" in figure.axes[0].get_title(loc="left")
    assert 'id="steps-median"' in svg(figure, key="steps", title="Rates")


def test_plot_uses_given_axes(found):
    figure, axes = new_figure("test", 2, 2)
    assert found.plot(axes) is figure
    assert axes[1].get_title(loc="left") == "ratio r of successive rates"


def test_path_in_two_coordinates_starts_at_zero_and_sums_changes(found):
    figure = found.plot_path("1.bias", 2, 5)
    x, y = figure.axes[0].lines[0].get_data()
    dw = found["1.bias"].dw
    assert np.allclose(x, [0, *dw[:, 2].cumsum()], atol=1e-12)
    assert np.allclose(y, [0, *dw[:, 5].cumsum()], atol=1e-12)


def test_path_in_principal_directions_keeps_distances(found):
    path = np.concatenate([tensor.path for tensor in found.tensors.values()], axis=1)
    figure = found.plot_path()
    points = np.array(figure.axes[0].lines[0].get_data()).T
    # The two leading directions contain almost all of a path of four steps, and never more than all of it.
    length = np.linalg.norm(np.diff(path, axis=0))
    assert 0.8 * length < np.linalg.norm(np.diff(points, axis=0)) <= length * (1 + 1e-12)
    assert "% of the variation" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensor": "1.bias", "i": 0}, "i and j must be given together, got i=0 and j=None."),
        ({"tensor": "1.bias", "i": 0, "j": 15}, r"j must be an integer in \[0, 15\), got 15."),
        ({"tensor": "bias"}, "Unknown tensor 'bias'"),
    ],
)
def test_invalid_path_raises(found, arguments, message):
    with pytest.raises(dp.ArgumentError, match=message):
        found.plot_path(**arguments)


def test_path_of_one_element_raises():
    found = dynamics_support.record(
        lambda params: dp.SGD(params, engine="eager"), steps=2, elements=1, names=["1.bias"]
    )
    with pytest.raises(dp.ArgumentError, match="the path must have at least 2 elements, got 1"):
        found.plot_path()
