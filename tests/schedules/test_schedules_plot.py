"""The method `Schedule.plot`."""

import pytest
from schedules_support import EXAMPLES, label

import dashpot.schedules as sch
from dashpot.figures import new_figure


@pytest.fixture(scope="module")
def axes():
    return new_figure("test")[1][0]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_plot_shows_the_values(schedule, axes):
    assert schedule.plot(25, base=0.3, ax=axes) is axes.figure
    line = axes.lines[-1]
    assert line.get_ydata().tolist() == [schedule.value(0.3, step) for step in range(25)]
    assert line.get_drawstyle() == "steps-post"


def test_plot_names_the_schedule_and_the_quantity():
    [axes] = sch.Cosine(10).plot(10).axes
    assert axes.get_title() == "Cosine(steps=10, floor=0.0, after='hold')"
    assert axes.get_ylabel() == "factor"
    assert axes.get_ylim()[0] <= 0
    assert sch.Cosine(10).plot(10, base=0.1).axes[0].get_ylabel() == "value"
    assert sch.OneCycleMomentum(10).plot(10).axes[0].get_ylabel() == "value"


def test_long_title_is_wrapped():
    lines = (sch.Cosine(10) * sch.Window("logistic", 10)).plot(10).axes[0].get_title().split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 76


def test_plot_default_number_of_steps():
    assert len(sch.Cosine(steps=37).plot().axes[0].lines[0].get_ydata()) == 37
    assert len(sch.Exponential(0.9).plot().axes[0].lines[0].get_ydata()) == 100
