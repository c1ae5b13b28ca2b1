"""Interactive plot of a schedule."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dashpot.schedules.schedule import Schedule


def figure(schedule: Schedule, steps: int, base: float) -> Figure:
    """Return a figure that shows the values of the first `steps` steps as a step function."""
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ArgumentError("Plotting a schedule needs plotly: pip install 'dashpot[plot]'.") from error
    check(type(schedule).__name__, "base", base, Interval())
    values = schedule.table(steps) if schedule.absolute else [base * factor for factor in schedule.table(steps)]
    drawn = go.Figure(go.Scatter(y=values, mode="lines", line={"shape": "hv", "width": 2}))
    quantity = "value" if schedule.absolute or base != 1.0 else "factor"
    drawn.update_layout(
        title={"text": "<br>".join(textwrap.wrap(repr(schedule), width=100)), "font": {"size": 13}},
        xaxis_title="steps done",
        yaxis={"title": quantity, "rangemode": "tozero"},
        template="plotly_white",
    )
    return drawn
