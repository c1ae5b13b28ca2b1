"""Telling how a fit goes: a table with a row for every epoch, and in a terminal a line for the one at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TextIO

from dashpot.constraints import NONNEGATIVE, check
from dashpot.errors import ArgumentError
from dashpot.training.callbacks.epoch_summary import EpochCallback, EpochSummary
from dashpot.utils.format import clock, decimals, duration

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["Progress"]

GAP = "  "
EVAL_TO_TRAIN_TIME = 1 / 3
"""Time of an evaluated batch in those of training, as long as none was seen: forward is a third of both ways."""


class Progress(EpochCallback):
    """A table of the epochs as they are finished: means of both phases, learning rate of the last step, time.

    In a terminal a line below it shows the epoch at work: batches done, the loss so far, and the time left for the
    whole fit. It goes when the fit ends, in whatever way; the table stays. Everywhere else, in pipes, logs and
    notebooks, there is the table alone, and also where `rich` is not installed. A terminal too narrow for all columns
    gets the more important ones. After a resume the table begins with the epochs done before. Of several processes the
    first one tells.

    Numbers have three decimals, or three digits and a power of ten where that would tell nothing.

    Args:
        stream: where to write; by default standard output, as it is when the fit begins.
        every_s: seconds from one change of the line to the next, at least.

    Raises:
        ArgumentError: `every_s` is negative or no number, or `stream` cannot be written to.

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
            raise ArgumentError(f"Progress: stream must be None or a text file that is open, got {stream!r}.")
        self.stream, self.every_s = stream, float(every_s)
        self._out: _Table | None = None

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._measured: dict[int, tuple[float | None, float | None]] = {}  # rate and seconds, by number of epoch
        self._printed, self._next_draw = 0, 0.0
        self._columns: list[_Column] = []
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
        self._print_epochs(learner, summary.number)

    def cleanup_epoch(self, learner: Learner) -> None:
        super().cleanup_epoch(learner)
        self._estimate.update()

    def after_fit(self, learner: Learner) -> None:
        self._print_epochs(learner, learner.loop.position[0])

    def cleanup_fit(self, learner: Learner) -> None:
        self._write(lambda out: out.close())
        self._out = None

    def _write(self, what: Callable[[_Table], None]) -> None:
        """Write; where the terminal or the pipe is gone the fit goes on without a table."""
        if self._out is None:
            return
        try:
            what(self._out)
        except OSError:
            self._out = None

    # ---- what is shown ----------------------------------------------------------------------------------------------

    def _print_epochs(self, learner: Learner, epochs: int) -> None:
        """Show those of the first `epochs` epochs that are not shown yet."""
        if self._out is None or epochs <= self._printed:
            return
        if not self._columns:
            self._columns = _select_columns(_columns(learner), self._out.width)
            self._write(lambda out: out.write(*_header(self._columns)))
        for number, means in enumerate(learner.history[self._printed : epochs], self._printed + 1):
            lr, seconds = self._measured.get(number, (None, None))
            row = EpochSummary(number, 0, means.get("train", {}), means.get("eval", {}), lr, seconds)
            line = GAP.join(column.text(row).rjust(column.width) for column in self._columns)
            self._write(lambda out, line=line: out.write(line))
        self._printed = epochs

    def _draw_bar(self, learner: Learner, done: int) -> None:
        """Show the line of the epoch at work, of which `done` batches are over."""
        if self._out is None or not self._out.live:
            self._next_draw = float("inf")
            return
        size, left = len(learner.loop.loader), self._estimate.remaining(learner, done)
        phase = "train" if learner.training else "eval "
        bar = _Bar(
            title=f"epoch {learner.epoch + 1}/{learner.epochs}  {phase}",
            share=done / size,
            batches=f"{done:>{len(str(size))}}/{size}",
            loss=_format_running_loss(learner),
            left="" if left is None else f"{duration(left)} left",
        )
        self._write(lambda out: out.draw(bar))
        self._next_draw = time.perf_counter() + self.every_s

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the learner's history does not hold of the epochs: rates and seconds."""
        return {**super().state_dict(), "measured": [[n, lr, s] for n, (lr, s) in self._measured.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._measured = {number: (lr, seconds) for number, lr, seconds in state.get("measured", [])}


def _format_running_loss(learner: Learner) -> str:
    """The mean loss of the phase so far. From another device it comes with the learner's next reading."""
    means = learner.loop.means
    if learner.engine.device.type == "cpu":
        means.flush()
    return f"loss {decimals(means.sums[0] / means.count)}" if means.count else ""


# ---- columns --------------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """A column: the phase it is of (or ""), its name, its width, the text of its cells; the highest `rank` goes first
    where there is too little room."""

    phase: str
    name: str
    width: int
    rank: int
    text: Callable[[EpochSummary], str]


def _columns(learner: Learner) -> list[_Column]:
    columns = [_Column("", "epoch", max(5, len(str(learner.epochs))), 0, lambda row: str(row.number))]
    for phase in ("train", "eval"):
        if learner.loop.phases[phase]:
            columns += [_mean_column(phase, name, place) for place, name in enumerate(["loss", *learner.metrics])]
    if learner.loop.phases["train"]:
        columns.append(_Column("", "lr", 8, 30, lambda row: "" if row.lr is None else f"{row.lr:.3g}"))
    columns.append(_Column("", "time", 7, 20, lambda row: "" if row.seconds is None else clock(row.seconds)))
    return columns


def _mean_column(phase: str, name: str, place: int) -> _Column:
    def text(row: EpochSummary) -> str:
        means = row.train if phase == "train" else row.evaluation
        return decimals(means[name]) if name in means else ""

    rank = 1 + place if phase == "eval" else 40 + place if place else 2
    return _Column(phase, name, max(6, len(name)), rank, text)


def _select_columns(columns: list[_Column], width: int | None) -> list[_Column]:
    """As many columns as fit into the width, the more important ones."""
    while width is not None and len(columns) > 1 and sum(len(GAP) + c.width for c in columns) - len(GAP) > width:
        columns = [column for column in columns if column.rank < max(c.rank for c in columns)]
    return columns


def _header(columns: Sequence[_Column]) -> list[str]:
    """Two lines: a phase stands above the first of its columns."""
    phases = [c.phase if i == 0 or columns[i - 1].phase != c.phase else "" for i, c in enumerate(columns)]
    above = GAP.join(phase.rjust(column.width) for phase, column in zip(phases, columns, strict=True))
    return [above.rstrip(), GAP.join(column.name.rjust(column.width) for column in columns)]


# ---- the line of the epoch at work ----------------------------------------------------------------------------------


class _TimeEstimate:
    """Batches and seconds of each phase in this session, and what they say of the rest of the fit."""

    def __init__(self) -> None:
        self.done = {"train": 0, "eval": 0}
        self.seconds = {"train": 0.0, "eval": 0.0}
        self.begin("train")

    def begin(self, phase: str) -> None:
        """A phase begins; what was between the phases does not count."""
        self.phase, self.since = phase, time.perf_counter()

    def update(self) -> None:
        """Add the time since the last look to the phase."""
        now = time.perf_counter()
        self.seconds[self.phase] += now - self.since
        self.since = now

    def remaining(self, learner: Learner, done: int) -> float | None:
        """Seconds that the rest takes at the speed so far; None before the first batch."""
        self.update()
        if not self.done["train"] and not self.done["eval"]:
            return None
        size = {"train": len(learner.train), "eval": len(learner.evaluation or ())}
        rest = {phase: size[phase] * (learner.epochs - learner.epoch - 1) for phase in size}
        rest[learner.loop.phase] += size[learner.loop.phase] - done
        if learner.training:
            rest["eval"] += size["eval"]
        return sum(rest[phase] * self._seconds_per_batch(phase) for phase in rest if learner.loop.phases[phase])

    def _seconds_per_batch(self, phase: str) -> float:
        """Seconds of a batch."""
        if self.done[phase]:
            return self.seconds[phase] / self.done[phase]
        other = "train" if phase == "eval" else "eval"
        return (
            self.seconds[other] / self.done[other] * (EVAL_TO_TRAIN_TIME if phase == "eval" else 1 / EVAL_TO_TRAIN_TIME)
        )


class _Bar(NamedTuple):
    """What the line of the epoch at work says."""

    title: str
    share: float
    batches: str
    loss: str
    left: str

    def parts(self, width: int, full: str = "━", empty: str = "─") -> tuple[str, str, str, str]:
        """The line for a width: title, done and open part of the bar, and notes; the least needed note goes first."""
        notes = [self.batches, self.loss, self.left]
        for least in (self.batches, self.loss, self.left):
            if len(self.title) + sum(len(GAP) + len(note) for note in notes if note) + len(GAP) + 6 <= width:
                break
            notes.remove(least)
        tail = "".join(GAP + note for note in notes if note)
        room = max(0, width - len(self.title) - len(GAP) - len(tail))
        done = int(room * min(1.0, self.share))
        return self.title + GAP, full * done, empty * (room - done), tail


# ---- where it goes --------------------------------------------------------------------------------------------------


class _Table:
    """Plain lines into a stream."""

    live = False
    width: int | None = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self.stream, flush=True)

    def draw(self, bar: _Bar) -> None:
        """Show the line of the epoch at work."""

    def close(self) -> None:
        """Take that line away."""


class _Terminal(_Table):
    """Lines in a terminal, above one that changes."""

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
            redirect_stdout=_is_terminal(sys.stdout),  # what is printed meanwhile stands above the line;
            redirect_stderr=_is_terminal(sys.stderr),  # what goes to a file still does
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
            self.console.show_cursor(True)  # a process that is killed cannot bring it back
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
