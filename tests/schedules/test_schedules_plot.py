"""Plots of schedules."""

import subprocess
import sys

import pytest
from schedules_support import EXAMPLES, label

import dashpot.schedules as sch
from dashpot.errors import ArgumentError


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_plot_shows_the_values(schedule):
    (trace,) = schedule.plot(25, base=0.3).data
    assert list(trace.y) == [schedule.value(0.3, step) for step in range(25)]
    assert trace.line.shape == "hv"


def test_plot_names_the_schedule_and_the_quantity():
    layout = sch.Cosine(10).plot(10).layout
    assert layout.title.text == "Cosine(steps=10, floor=0.0, after='hold')"
    assert layout.yaxis.title.text == "factor"
    assert sch.Cosine(10).plot(10, base=0.1).layout.yaxis.title.text == "value"
    assert sch.OneCycleMomentum(10).plot(10).layout.yaxis.title.text == "value"


def test_long_title_is_wrapped():
    lines = (sch.Cosine(10) * sch.Window("logistic", 10)).plot(10).layout.title.text.split("<br>")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 100


def test_invalid_base_raises():
    with pytest.raises(ArgumentError, match="Cosine: base must be a number"):
        sch.Cosine(10).plot(10, base=float("nan"))


def test_without_plotly_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ArgumentError, match=r"pip install 'dashpot\[plot\]'"):
        sch.Cosine(10).plot(10)


def test_importing_schedules_does_not_import_plotly():
    code = "import sys, dashpot.schedules; assert 'plotly' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plot_default_number_of_steps():
    assert len(sch.Cosine(steps=37).plot().data[0].y) == 37
    assert len(sch.Exponential(0.9).plot().data[0].y) == 100
