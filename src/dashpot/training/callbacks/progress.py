"""Progress of a fit: a table with a row per epoch and, in a terminal, a progress bar of the current epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TextIO

from dashpot.constraints import NONNEGATIVE, check
from dashpot.errors import ArgumentError
from dashpot.training.callbacks.epoch_summary import EpochCallback, EpochSummary
from dashpot.utils.format import clock, decimals, duration

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

GAP = "  "
EVAL_TO_TRAIN_TIME = 1 / 3
"""Assumed ratio of evaluation to training time of a batch until both are measured: backward costs twice the forward."""


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

    Raises:
        ArgumentError: If `every_s` is out of range or `stream` is not writable.

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

    def __init__(self, stream: TextIO | None = None, every_s: float = 0.125) -> None:
        check("Progress", "every_s", every_s, NONNEGATIVE)
        if stream is not None and not hasattr(stream, "write"):
            raise ArgumentError(f"Progress: stream must be None or a writable text stream, got {stream!r}.")
        self.stream, self.every_s = stream, float(every_s)
        self._out: _Table | None = None

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._measured: dict[int, tuple[float | None, float | None]] = {}  # learning rate and seconds, by epoch
        self._steps: dict[int, int] = {}  # number of steps until the end of each epoch
        self._printed, self._next_draw = 0, 0.0
        self._columns: list[_Column] = []
        self._names: dict[str, list[str]] = {"train": [], "eval": []}  # names of the columns of each phase
        self._estimate = _TimeEstimate()
        self._out = _make_table(self.stream or sys.stdout) if learner.engine.is_rank_zero else None

    def before_epoch(self, learner: Learner) -> None:
        super().before_epoch(learner)
        self._print_epochs(learner, learner.loop.position[0])
        self._estimate.begin(learner.loop.phase)
        self._draw_bar(learner, learner.loop.position[1] if learner.training else 0)

    def after_batch(self, learner: Learner) -> None:
        self._estimate.done[learner.loop.phase] += 1
        if time.perf_counter() >= self._next_draw:
            self._draw_bar(learner, learner.batch.index + 1)

    def on_epoch_summary(self, learner: Learner, summary: EpochSummary) -> None:
        self._measured[summary.number] = summary.lr, summary.seconds
        self._steps[summary.number] = summary.steps
        self._print_epochs(learner, summary.number)

    def cleanup_epoch(self, learner: Learner) -> None:
        super().cleanup_epoch(learner)
        self._estimate.update()

    def after_fit(self, learner: Learner) -> None:
        self._print_epochs(learner, learner.loop.position[0])

    def cleanup_fit(self, learner: Learner) -> None:
        self._write(lambda out: out.close())
        self._out = None

    def _write(self, action: Callable[[_Table], None]) -> None:
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
        self._columns = _select_columns(_columns(learner, names), self._out.width)
        self._write(lambda out: out.write(*_header(self._columns)))

    def _draw_bar(self, learner: Learner, done: int) -> None:
        """Draw the progress bar of the current epoch after `done` batches."""
        if self._out is None or not self._out.live:
            self._next_draw = float("inf")
            return
        plan, evaluation = learner.loop.plan, learner.evaluation
        size = plan.size(learner.epoch) if learner.training else evaluation and evaluation.size
        seconds = self._estimate.remaining(learner, done)
        place = f"epoch {learner.epoch + 1}/{learner.epochs}"
        if plan.noun == "interval":
            place = f"step {learner.steps:>{len(str(learner.total_steps))}}/{learner.total_steps}"
        bar = _Bar(
            title=f"{place}  {'train' if learner.training else 'eval '}",
            fraction=done / size if size else 0.0,
            batches=f"{done:>{len(str(size))}}/{size}" if size else f"batch {done}",
            loss=_format_running_loss(learner),
            time_left="" if seconds is None else f"{duration(seconds)} left",
        )
        self._write(lambda out: out.draw(bar))
        self._next_draw = time.perf_counter() + self.every_s

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rates and times of the epochs, which `learner.history` does not contain."""
        measured = [[n, lr, s] for n, (lr, s) in self._measured.items()]
        return {**super().state_dict(), "measured": measured, "steps": [list(item) for item in self._steps.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._measured = {number: (lr, seconds) for number, lr, seconds in state.get("measured", [])}
        self._steps = dict(state.get("steps", []))


def _format_running_loss(learner: Learner) -> str:
    """Format the running mean loss of the phase; on accelerators, the mean at the last flush, to avoid a host sync."""
    means = learner.loop.means
    if learner.engine.device.type == "cpu":
        means.flush()
    return f"loss {decimals(means.sums[0] / means.counts[0])}" if means.counts[0] else ""


# ---- columns --------------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """Column of the table.

    Attributes:
        phase: Phase of the values, "train" or "eval"; "" for columns without a phase.
        name: Column title.
        width: Width in characters.
        rank: Sort key for omission; columns with the highest rank are omitted first.
        text: Function from the summary of an epoch to the text of the cell.
    """

    phase: str
    name: str
    width: int
    rank: int
    text: Callable[[EpochSummary], str]


def _columns(learner: Learner, names: Mapping[str, Sequence[str]]) -> list[_Column]:
    columns = [_Column("", "epoch", max(5, len(str(learner.epochs))), 0, lambda row: str(row.number))]
    if learner.loop.plan.noun == "interval":
        columns = [_Column("", "step", max(5, len(str(learner.total_steps))), 0, lambda row: str(row.steps))]
    for phase in ("train", "eval"):
        columns += [_mean_column(phase, name, place) for place, name in enumerate(names[phase])]
    if learner.loop.phases["train"]:
        columns.append(_Column("", "lr", 8, 30, lambda row: "" if row.lr is None else f"{row.lr:.3g}"))
    columns.append(_Column("", "time", 7, 20, lambda row: "" if row.seconds is None else clock(row.seconds)))
    return columns


def _mean_column(phase: str, name: str, place: int) -> _Column:
    def text(row: EpochSummary) -> str:
        means = row.phases[phase]
        return decimals(means[name]) if name in means else ""

    rank = 1 + place if phase == "eval" else 40 + place if place else 2
    return _Column(phase, name, max(6, len(name)), rank, text)


def _select_columns(columns: list[_Column], width: int | None) -> list[_Column]:
    """Return the most important columns that fit into the width."""
    while width is not None and len(columns) > 1 and sum(len(GAP) + c.width for c in columns) - len(GAP) > width:
        columns = [column for column in columns if column.rank < max(c.rank for c in columns)]
    return columns


def _header(columns: Sequence[_Column]) -> list[str]:
    """Return the two header lines: the name of each phase, above its first column, and the column titles."""
    phases = [c.phase if i == 0 or columns[i - 1].phase != c.phase else "" for i, c in enumerate(columns)]
    above = GAP.join(phase.rjust(column.width) for phase, column in zip(phases, columns, strict=True))
    return [above.rstrip(), GAP.join(column.name.rjust(column.width) for column in columns)]


# ---- progress bar ---------------------------------------------------------------------------------------------------


class _TimeEstimate:
    """Estimate of the remaining time of the fit, from the batches and seconds of each phase in this session."""

    def __init__(self) -> None:
        self.done = {"train": 0, "eval": 0}
        self.seconds = {"train": 0.0, "eval": 0.0}
        self.begin("train")

    def begin(self, phase: str) -> None:
        """Start the clock of a phase; time between phases is not counted."""
        self.phase, self.since = phase, time.perf_counter()

    def update(self) -> None:
        """Add the time since the last update to the time of the current phase."""
        now = time.perf_counter()
        self.seconds[self.phase] += now - self.since
        self.since = now

    def remaining(self, learner: Learner, done: int) -> float | None:
        """Return the remaining seconds at the measured speed; None before the first batch, or for unknown lengths."""
        self.update()
        if not self.done["train"] and not self.done["eval"]:
            return None
        phases = {phase: _batches_left(learner, phase, done) for phase, runs in learner.loop.phases.items() if runs}
        known = {phase: batches for phase, batches in phases.items() if batches is not None}
        if known.keys() != phases.keys():
            return None
        return sum(batches * self._seconds_per_batch(phase) for phase, batches in known.items())

    def _seconds_per_batch(self, phase: str) -> float:
        """Return the seconds per batch of a phase, estimated from the other phase before its first batch."""
        if self.done[phase]:
            return self.seconds[phase] / self.done[phase]
        other = "train" if phase == "eval" else "eval"
        return (
            self.seconds[other] / self.done[other] * (EVAL_TO_TRAIN_TIME if phase == "eval" else 1 / EVAL_TO_TRAIN_TIME)
        )


def _batches_left(learner: Learner, phase: str, done: int) -> int | None:
    """Return the number of batches left in all phases `phase` of the fit, or None if it is unknown.

    `done` is the number of batches done in the current phase.
    """
    if phase == "train":
        return learner.loop.plan.batches_left(*((learner.epoch, done) if learner.training else (learner.epoch + 1, 0)))
    if learner.evaluation is None or learner.evaluation.size is None:
        return None
    return learner.evaluation.size * (learner.epochs - learner.epoch) - (0 if learner.training else done)


class _Bar(NamedTuple):
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


# ---- streams --------------------------------------------------------------------------------------------------------


class _Table:
    """Table printed to a stream, without a progress bar."""

    live = False
    width: int | None = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self.stream, flush=True)

    def draw(self, bar: _Bar) -> None:
        """Draw the progress bar, if the output has one."""

    def close(self) -> None:
        """Remove the progress bar, if the output has one."""


class _Terminal(_Table):
    """Table printed to a terminal, above a progress bar."""

    live = True

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
        self.signs = ("#", "-") if self.console.options.ascii_only else ("━", "─")

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.console.width

    def write(self, *lines: str) -> None:
        for line in lines:
            self.console.print(line, no_wrap=True, overflow="crop")

    def draw(self, bar: _Bar) -> None:
        from rich.text import Text

        if not self.bar.is_started:
            self.bar.start()
            self.console.show_cursor(True)  # keep it visible, because a killed process could not show it again
        title, done, rest, notes = bar.parts(self.console.width, *self.signs)
        line = Text.assemble(title, (done, "cyan"), (rest, "bright_black"), notes, no_wrap=True, overflow="crop")
        self.bar.update(line, refresh=True)

    def close(self) -> None:
        self.bar.stop()


def _make_table(stream: TextIO) -> _Table:
    if _is_terminal(stream):
        try:
            terminal = _Terminal(stream)
        except ImportError:
            return _Table(stream)
        if not terminal.console.is_dumb_terminal:
            return terminal
    return _Table(stream)


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())
