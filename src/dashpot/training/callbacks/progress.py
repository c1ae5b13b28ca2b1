"""Progress of a fit: a table with a row per epoch and, in a terminal, a progress bar of the current epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from dashpot.constraints import FLAG, NONNEGATIVE, check, shown
from dashpot.errors import ArgumentError
from dashpot.training.callbacks.epoch_summary import EpochCallback, EpochSummary
from dashpot.training.callbacks.loss_curve import CURVE_SCHEMA, LossCurve, draw_figure
from dashpot.training.callbacks.progress_columns import Column, header, make_columns, select_columns
from dashpot.training.callbacks.progress_output import GAP, Bar, Table, make_table
from dashpot.training.callbacks.time_estimate import TimeEstimate
from dashpot.utils.format import decimals, duration
from dashpot.utils.schema import COUNT, POSITIVE_COUNT, REAL, ListOf, Maybe, Row, Rule, extended

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.training.learner import Learner

PLOT_WAIT = 20
"""Time between plots, relative to the time that a plot takes."""


class Progress(EpochCallback):
    """Print a table of finished epochs: the means of both phases, the learning rate of the last step, and the time.

    In a terminal, a progress bar of the current epoch shows the number of batches, the running loss, and the remaining
    time of the fit, if the data have a length. The bar is removed at the end of the fit. In a fit with `steps` or
    `evaluate_every`, the table has a row per interval, with the number of steps in place of the epoch. In pipes, log
    files and notebooks, or if `rich` is not installed, only the table is shown. In narrow terminals, the less important
    columns are omitted. After a resume, the table starts with the epochs that were finished before it. The header is
    printed again when a name is logged for the first time. Only rank 0 prints.

    Numbers have three decimals, or three significant digits in scientific notation if this notation is more
    informative.

    Args:
        stream: Output stream. Default: the standard output at the start of the fit.
        every_s: Minimum time between updates of the progress bar in seconds, >= 0.
        plot: Whether to draw the loss while the fit runs: the training loss of every step, as means over groups of
            steps in long fits, and the loss of every evaluation. A terminal shows a plot of characters above the
            progress bar, and keeps it after the fit; a notebook shows a matplotlib figure, which is updated in place;
            other streams contain the plot after the fit. A plot is redrawn at most every 4 `every_s` in a terminal and
            every 8 `every_s` in a notebook, and takes at most a twentieth of the time. Losses are read from the device
            only when a plot is drawn or, with several processes, every 32 steps.

    Raises:
        ArgumentError: If an argument is out of range or `stream` is not writable; when the fit begins, if matplotlib is
            not installed and the plot is shown in a notebook.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> learner.fit(1, callbacks=[Progress()])  # doctest: +ELLIPSIS
                train              eval
        epoch    loss  accuracy    loss  accuracy        lr     time
            1   ...                                    0.01    ... s
    """

    order: ClassVar[int] = 70
    essential: ClassVar[bool] = False
    state_schema: ClassVar[Rule] = extended(
        EpochCallback.state_schema,
        {},
        {
            "measured": ListOf(Row((POSITIVE_COUNT, Maybe(REAL), Maybe(REAL)))),
            "steps": ListOf(Row((POSITIVE_COUNT, COUNT))),
            "curve": CURVE_SCHEMA,
        },
    )

    def __init__(self, stream: TextIO | None = None, every_s: float = 0.125, *, plot: bool = False) -> None:
        check("Progress", "every_s", every_s, NONNEGATIVE)
        check("Progress", "plot", plot, FLAG)
        if stream is not None and not hasattr(stream, "write"):
            raise ArgumentError(f"Progress: stream must be None or a writable text stream, got {shown(stream)}.")
        self.stream, self.every_s, self.plot = stream, float(every_s), plot
        self._curve: LossCurve | None = None
        self._out: Table | None = None

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._measured: dict[int, tuple[float | None, float | None]] = {}  # learning rate and seconds, by epoch
        self._steps: dict[int, int] = {}  # number of steps until the end of each epoch
        self._printed, self._next_draw = 0, 0.0
        self._columns: list[Column] = []
        self._names: dict[str, list[str]] = {"train": [], "eval": []}  # names of the columns of each phase
        self._estimate = TimeEstimate()
        self._curve, self._next_plot = LossCurve(learner) if self.plot else None, 0.0
        self._out = make_table(self.stream, plots=self.plot) if learner.engine.is_rank_zero else None

    def before_epoch(self, learner: Learner) -> None:
        super().before_epoch(learner)
        self._print_epochs(learner, learner.loop.position[0])
        self._estimate.begin(learner.loop.phase)
        self._draw_bar(learner, learner.loop.position[1] if learner.training else 0)

    def after_batch(self, learner: Learner) -> None:
        self._estimate.done[learner.loop.phase] += 1
        if self._curve is not None and time.perf_counter() >= self._next_plot:
            self._draw_plot(self._curve)
        if time.perf_counter() >= self._next_draw:
            self._draw_bar(learner, learner.batch.index + 1)

    def on_epoch_summary(self, learner: Learner, summary: EpochSummary) -> None:
        self._measured[summary.number] = summary.lr, summary.seconds
        self._steps[summary.number] = summary.steps
        if self._curve is not None:
            self._curve.read(reduce=True)
            if "loss" in summary.evaluation:
                self._curve.evaluation.append((summary.steps, summary.evaluation["loss"]))
            self._draw_plot(self._curve)
        self._print_epochs(learner, summary.number)

    def cleanup_epoch(self, learner: Learner) -> None:
        super().cleanup_epoch(learner)
        self._estimate.update()

    def after_fit(self, learner: Learner) -> None:
        self._print_epochs(learner, learner.loop.position[0])

    def cleanup_fit(self, learner: Learner) -> None:
        curve = self._curve if learner.loop.unwinding is None else None
        if curve is not None:
            curve.read(reduce=False)
        self._write(lambda out: out.close(curve))
        self._out = None

    def after_backward(self, learner: Learner) -> None:
        if self._curve is not None:
            self._curve.after_backward(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if self._curve is None:
            super().step(learner, proceed)
        else:
            curve = self._curve
            super().step(learner, lambda: curve.step(learner, proceed))

    def after_step(self, learner: Learner) -> None:
        if self._curve is not None:
            self._curve.after_step(learner)

    def figure(self, ax: Axes | None = None) -> Figure:
        """Return a matplotlib figure of the loss, of the current or the last fit.

        Args:
            ax: Axes to draw on. Default: a new figure.

        Raises:
            ArgumentError: If `plot` is False, no fit has begun, or matplotlib is not installed.

        Example:
            >>> import io
            >>> from dashpot import AdamW, tasks
            >>> from dashpot.training import Engine, Learner
            >>> progress = Progress(io.StringIO(), plot=True)
            >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
            >>> learner.fit(1, callbacks=[progress])
            >>> [line.get_label() for line in progress.figure().axes[0].lines]
            ['train', 'eval']
        """
        if self._curve is None:
            raise ArgumentError("Progress: figure requires plot=True and a fit that has begun.")
        return draw_figure(self._curve, ax)

    def _write(self, action: Callable[[Table], None]) -> None:
        """Perform an output action; continue without output if the terminal or pipe is closed."""
        if self._out is None:
            return
        try:
            action(self._out)
        except OSError:
            self._out = None

    # ---- output -----------------------------------------------------------------------------------------------------

    def _print_epochs(self, learner: Learner, epochs: int) -> None:
        """Print those rows of the first `epochs` epochs that have not been printed yet."""
        if self._out is None or epochs <= self._printed:
            return
        for number, means in enumerate(learner.history[self._printed : epochs], self._printed + 1):
            self._update_columns(learner, means)
            lr, seconds = self._measured.get(number, (None, None))
            steps = self._steps.get(number, 0)
            row = EpochSummary(number, steps, means.get("train", {}), means.get("eval", {}), lr, seconds)
            line = GAP.join(column.text(row).rjust(column.width) for column in self._columns)
            self._write(lambda out, line=line: out.write(line))
        self._printed = epochs

    def _update_columns(self, learner: Learner, means: Mapping[str, Mapping[str, float]]) -> None:
        """Print the header before the first row, and again if a row has names without a column."""
        names = {}
        for phase, before in self._names.items():
            measured = ["loss", *learner.metrics] if learner.loop.phases[phase] else []
            names[phase] = list(dict.fromkeys([*before, *measured, *means.get(phase, {})]))
        if self._out is None or (self._columns and names == self._names):
            return
        self._names = names
        self._columns = select_columns(make_columns(learner, names), self._out.width)
        self._write(lambda out: out.write(*header(self._columns)))

    def _draw_bar(self, learner: Learner, done: int) -> None:
        """Draw the progress bar of the current epoch after `done` batches."""
        if self._out is None or not self._out.live:
            self._next_draw = float("inf")
            return
        plan = learner.loop.plan
        size = plan.size(learner.epoch) if learner.training else learner.loop.loader.size
        seconds = self._estimate.remaining(learner, done)
        place = f"epoch {learner.epoch + 1}/{learner.epochs}"
        if plan.noun == "interval":
            place = f"step {learner.steps:>{len(str(learner.total_steps))}}/{learner.total_steps}"
        bar = Bar(
            title=f"{place}  {'train' if learner.training else 'eval '}",
            fraction=done / size if size else 0.0,
            batches=f"{done:>{len(str(size))}}/{size}" if size else f"batch {done}",
            loss=_format_running_loss(learner),
            time_left="" if seconds is None else f"{duration(seconds)} left",
        )
        self._write(lambda out: out.draw(bar))
        self._next_draw = time.perf_counter() + self.every_s

    def _draw_plot(self, curve: LossCurve) -> None:
        """Draw the loss curve, unless the output is not live."""
        if self._out is None or not self._out.plots_live:
            self._next_plot = float("inf")
            return
        begin = time.perf_counter()
        curve.read(reduce=False)
        self._write(lambda out: out.plot(curve))
        end = time.perf_counter()
        wait = 0.0 if self._out is None else self._out.plot_interval * self.every_s
        self._next_plot = end + max(wait, PLOT_WAIT * (end - begin) if wait else 0.0)

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rates and times of the epochs, which `learner.history` does not contain."""
        measured = [[n, lr, s] for n, (lr, s) in self._measured.items()]
        steps = [list(item) for item in self._steps.items()]
        curve = {} if self._curve is None else {"curve": self._curve.state_dict()}
        return {**super().state_dict(), "measured": measured, "steps": steps, **curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._measured = {number: (lr, seconds) for number, lr, seconds in state.get("measured", [])}
        self._steps = dict(state.get("steps", []))
        if self._curve is not None and "curve" in state:
            self._curve.load_state_dict(state["curve"])


def _format_running_loss(learner: Learner) -> str:
    """Format the running mean loss of the phase; on accelerators, the mean at the last flush, to avoid a host sync."""
    means = learner.loop.means
    if learner.engine.device.type == "cpu":
        means.flush()
    return f"loss {decimals(means.sums[0] / means.counts[0])}" if means.counts[0] else ""
