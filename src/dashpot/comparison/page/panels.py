"""Small multiples: a panel per method with equal axes, this method in color and all others in grey."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dashpot.comparison.page.drawing import Drawing, Frame, Readout, axes, clipped, plot, polyline, short, simplified
from dashpot.comparison.page.number_text import general
from dashpot.comparison.page.scales import Scale
from dashpot.comparison.page.view import View, folded, note
from dashpot.comparison.results import Curve

SHOWN = 12
"""Number of methods with a panel; panels of further methods are folded."""
WIDTH, HEIGHT = 300.0, 182.0
LEFT, TOP, RIGHT, BOTTOM = 42.0, 8.0, 8.0, 33.0


@dataclass(frozen=True)
class Panel:
    """Contents of the panel of a method.

    Args:
        method: Name of the method.
        main: Curve of the method, also drawn in grey in all other panels.
        name: Name of the values of `main` in the readout.
        faint: Further curves, such as single seeds.
        band: Lower and upper curve around `main`.
        whiskers: Intervals at values of x: (x, low, high).
        crosses: Points at which runs have diverged.
        value: Text at the right of the name.
        steps: Whether the curves are step functions.
    """

    method: str
    main: Curve
    name: str = ""
    faint: Sequence[Curve] = ()
    band: tuple[Curve, Curve] | None = None
    whiskers: Sequence[tuple[float, float, float]] = ()
    crosses: Sequence[tuple[float, float]] = ()
    value: str = ""
    steps: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the panel would show only other methods."""
        return not (len(self.main.steps) or self.faint or self.crosses)


@dataclass(frozen=True)
class Axes:
    """Axes that all panels share.

    Args:
        x: Lower and upper limit.
        y: Lower and upper limit.
        x_name: Name of the x quantity.
        y_name: Name of the y quantity.
        log_x: Whether the x axis is logarithmic.
        log_y: Whether the y axis is logarithmic.
        x_ticks: Values of x with a tick; None selects round values.
        line: Value of a dashed horizontal line, or None.
        dots: Whether the points of the curve are marked.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_name: str
    y_name: str
    log_x: bool = False
    log_y: bool = False
    x_ticks: Sequence[float] | None = None
    line: float | None = None
    dots: bool = False

    def frame(self) -> Frame:
        """Return the frame of a panel."""
        x = Scale(*self.x, LEFT, WIDTH - RIGHT, self.log_x)
        y = Scale(*self.y, HEIGHT - BOTTOM, TOP, self.log_y)
        return Frame(WIDTH, HEIGHT, x, y, self.x_name, self.y_name)


def small_multiples(view: View, key: str, shared: Axes, panels: Sequence[Panel], *, rest: bool = False) -> str:
    """Return the panels of the first `SHOWN` methods; with `rest`, the others follow in a folded part.

    Methods without any curve have no panel; they are listed below.
    """
    empty = [panel for panel in panels if panel.is_empty]
    panels = [panel for panel in panels if not panel.is_empty]
    frame = shared.frame()
    grey = f"{view.prefix}{key}-grey"
    lines = "".join(
        f'<path d="{polyline(simplified(_points(frame, panel.main, panel.steps)))}"/>'
        for panel in panels
        if len(panel.main.steps)
    )
    ticks = None if shared.x_ticks is None else [(x, general(x)) for x in shared.x_ticks]
    back = axes(frame, ticks)
    if shared.line is not None and frame.y.contains(shared.line):
        drawing = Drawing()
        drawing.line(frame.x.start, frame.y.place(shared.line), frame.x.end, frame.y.place(shared.line), "target")
        back += drawing.body()
    drawn = []
    for index, panel in enumerate(panels if rest else panels[:SHOWN]):
        others = f'<g id="{grey}" class="others">{lines}</g>' if index == 0 else f'<use href="#{grey}"/>'
        plain = panel if index < SHOWN else replace(panel, faint=())
        drawn.append(_panel(view, frame, shared, plain, back + clipped(frame, others)))
    shown = f'<figure class="panels" id="{view.prefix}{key}">\n{_grid(drawn[:SHOWN])}\n</figure>'
    if len(drawn) > SHOWN:
        more = f'<figure class="panels">\n{_grid(drawn[SHOWN:])}\n</figure>'
        shown += folded(f"{len(drawn) - SHOWN} further methods", more, printed=False)
    omitted = f"Panels of {len(drawn)} of {len(panels)} methods." if len(drawn) < len(panels) else ""
    return shown + note(omitted, *(f"No curve of {panel.method}: {panel.value}." for panel in empty[:SHOWN]))


def _grid(drawn: Sequence[str]) -> str:
    return f'<div class="cells">\n{"".join(drawn)}</div>'


def _panel(view: View, frame: Frame, shared: Axes, panel: Panel, back: str) -> str:
    color = view.color(panel.method)
    inside, over = Drawing(), Drawing()
    if panel.band is not None:
        low, high = (_points(frame, curve, panel.steps) for curve in panel.band)
        inside.add(f'<path class="band" d="{polyline([*simplified(low), *reversed(simplified(high))])}z"/>')
    for curve in panel.faint:
        inside.path(_points(frame, curve, panel.steps), "faint")
    for x, low, high in panel.whiskers:
        at = frame.x.place(x)
        inside.line(at, frame.y.place(low), at, frame.y.place(high), "whisker")
    inside.path(_points(frame, panel.main, panel.steps), "main")
    _marks(over, frame, shared, panel)
    readout = Readout(
        panel.name or panel.method, panel.main.steps.tolist(), panel.main.values.tolist(), color, panel.steps
    )
    title = f"{panel.method}: {shared.y_name} against {shared.x_name}"
    name = html.escape(panel.method)
    return (
        f'<div class="panel" style="--own:{color}"><div class="head"><b title="{name}">{name}</b>'
        f"<span>{panel.value}</span></div>"
        f"{plot(frame, title, back + clipped(frame, inside.body()) + over.body(), [readout])}</div>\n"
    )


def _marks(over: Drawing, frame: Frame, shared: Axes, panel: Panel) -> None:
    """Draw dots, arrows at the edge for sections of the curve outside of the axes, and crosses."""
    beyond = ""
    for x, y in zip(panel.main.steps.tolist(), panel.main.values.tolist(), strict=True):
        side = "" if frame.y.contains(y) or math.isnan(y) else "up" if y > frame.y.high else "down"
        if side and side != beyond:
            over.arrow(frame.x.clamped(x), frame.y.end + 4 if side == "up" else frame.y.start - 4, side)
        elif shared.dots and not side and not math.isnan(y):
            over.dot(frame.x.place(x), frame.y.place(y), 2.2, "dot")
        beyond = side
    for x, y in panel.crosses:
        cx, cy = short(frame.x.clamped(x)), short(frame.y.clamped(y))
        over.add(f'<path class="cross" d="M{cx} {cy}m-4-4l8 8m0-8l-8 8"/>')


def _points(frame: Frame, curve: Curve, steps: bool) -> list[tuple[float, float]]:
    points = [_near(frame, x, y) for x, y in zip(curve.steps.tolist(), curve.values.tolist(), strict=True)]
    if not steps:
        return points
    corners = [(later[0], before[1]) for before, later in itertools.pairwise(points)]
    return [point for pair in zip(points, [*corners, points[-1]], strict=True) for point in pair] if points else []


def _near(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """Return the position of a point, at most ten heights outside of the axes, to keep coordinates short."""
    limit = 10 * HEIGHT
    px, py = frame.at(x, y)
    return px, py if math.isnan(py) else max(-limit, min(limit, py))
