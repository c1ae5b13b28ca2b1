"""Outputs of the progress of a fit: plain streams, terminals and notebooks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from dashpot.figures import new_figure
from dashpot.training.callbacks.loss_curve import LossCurve, draw_figure
from dashpot.training.callbacks.text_plot import ASCII, UNICODE, plot_lines

if TYPE_CHECKING:
    from rich.text import Text

GAP = "  "
PLAIN_WIDTH = 80
"""Columns of a plot in a stream of unknown width."""
PLOT_ROWS, SURROUNDING_ROWS = 10, 8
"""Rows of the plot area, and rows of a terminal that are kept for axes, legend, progress bar and table."""


class Bar(NamedTuple):
    """Contents of the progress bar."""

    title: str
    fraction: float
    batches: str
    loss: str
    time_left: str

    def parts(self, width: int, full: str = "━", empty: str = "─") -> tuple[str, str, str, str]:
        """Return the title, the full part, the empty part and the notes that fit into `width` characters."""
        notes = [self.batches, self.loss, self.time_left]
        for note in (self.batches, self.loss, self.time_left):
            if len(self.title) + sum(len(GAP) + len(text) for text in notes if text) + len(GAP) + 6 <= width:
                break
            notes.remove(note)
        tail = "".join(GAP + note for note in notes if note)
        room = max(0, width - len(self.title) - len(GAP) - len(tail))
        done = int(room * min(1.0, self.fraction))
        return self.title + GAP, full * done, empty * (room - done), tail


class Table:
    """Table printed to a stream, without a progress bar.

    Attributes:
        live: Whether the output has a progress bar.
        plots_live: Whether the output shows plots during the fit.
        plot_interval: Smallest time between plots, in units of the time between updates of the progress bar.
        width: Number of columns, or None if it is unlimited.
    """

    live = False
    plots_live = False
    plot_interval = 4
    width: int | None = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self.stream, flush=True)

    def draw(self, bar: Bar) -> None:
        """Draw the progress bar, if the output has one."""

    def plot(self, curve: LossCurve) -> None:
        """Draw a loss curve, which the output updates during the fit if it is live."""

    def close(self, curve: LossCurve | None = None) -> None:
        """Remove the progress bar, if the output has one, and write the final loss curve."""
        if curve is not None:
            signs = UNICODE if _encodes(self.stream, "⠤●└") else ASCII
            for line in plot_lines(curve, self.width or PLAIN_WIDTH, PLOT_ROWS, signs):
                self.write("".join(text for text, _ in line).rstrip())


class Terminal(Table):
    """Table printed to a terminal, above a progress bar."""

    live = True
    plots_live = True

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(stream)
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self.bar = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=_is_terminal(sys.stdout),  # prints other output above the bar,
            redirect_stderr=_is_terminal(sys.stderr),  # but not output redirected to a file
        )
        ascii_only = self.console.options.ascii_only
        self.signs, self.plot_signs = ("#", "-") if ascii_only else ("━", "─"), ASCII if ascii_only else UNICODE
        self._plot: list[Text] = []

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.console.width

    def write(self, *lines: str) -> None:
        for line in lines:
            self.console.print(line, no_wrap=True, overflow="crop")

    def draw(self, bar: Bar) -> None:
        from rich.console import Group
        from rich.text import Text

        if not self.bar.is_started:
            self.bar.start()
            self.console.show_cursor(True)  # keep it visible, because a killed process could not show it again
        title, done, rest, notes = bar.parts(self.console.width, *self.signs)
        line = Text.assemble(title, (done, "cyan"), (rest, "bright_black"), notes, no_wrap=True, overflow="crop")
        self.bar.update(Group(*self._plot, line), refresh=True)

    def plot(self, curve: LossCurve) -> None:
        from rich.text import Text

        rows = max(3, min(PLOT_ROWS, self.console.height - SURROUNDING_ROWS))
        lines = plot_lines(curve, self.console.width, rows, self.plot_signs)
        self._plot = [Text.assemble(*line, no_wrap=True, overflow="crop") for line in lines]

    def close(self, curve: LossCurve | None = None) -> None:
        self.bar.stop()
        if curve is not None:
            self.plot(curve)
            for line in self._plot:
                self.console.print(line, no_wrap=True, overflow="crop")


class Notebook(Table):
    """Table printed to the output of a notebook cell, with a figure of the loss curve that is updated in place."""

    plots_live = True
    plot_interval = 8

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._handle: Any = None

    def plot(self, curve: LossCurve) -> None:
        from IPython.display import Image, display

        image = Image(data=draw_figure(curve)._repr_png_())
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)

    def close(self, curve: LossCurve | None = None) -> None:
        if curve is not None:
            self.plot(curve)


def make_table(stream: TextIO | None, *, plots: bool) -> Table:
    """Return the output for a stream, or for the standard output if `stream` is None.

    Raises:
        ArgumentError: If a notebook cannot show the loss curve, because matplotlib is not installed.
    """
    if stream is None and plots and _is_notebook():
        new_figure("Progress(plot=True)")
        return Notebook(sys.stdout)
    chosen: TextIO = stream or sys.stdout
    if _is_terminal(chosen):
        try:
            terminal = Terminal(chosen)
        except ImportError:
            return Table(chosen)
        if not terminal.console.is_dumb_terminal:
            return terminal
    return Table(chosen)


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


def _is_notebook() -> bool:
    """Return whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _encodes(stream: Any, text: str) -> bool:
    """Return whether the encoding of a stream contains all characters of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
