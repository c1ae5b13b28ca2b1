"""Columns of the table of finished epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dashpot.training.callbacks.epoch_summary import EpochSummary
from dashpot.training.callbacks.progress_output import GAP
from dashpot.utils.format import clock, decimals

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class Column(NamedTuple):
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


def make_columns(learner: Learner, names: Mapping[str, Sequence[str]]) -> list[Column]:
    """Return the columns of the table, for the names of the values of each phase."""
    columns = [Column("", "epoch", max(5, len(str(learner.epochs))), 0, lambda row: str(row.number))]
    if learner.loop.plan.noun == "interval":
        columns = [Column("", "step", max(5, len(str(learner.total_steps))), 0, lambda row: str(row.steps))]
    for phase in ("train", "eval"):
        columns += [_mean_column(phase, name, place) for place, name in enumerate(names[phase])]
    if learner.loop.phases["train"]:
        columns.append(Column("", "lr", 8, 30, lambda row: "" if row.lr is None else f"{row.lr:.3g}"))
    columns.append(Column("", "time", 7, 20, lambda row: "" if row.seconds is None else clock(row.seconds)))
    return columns


def _mean_column(phase: str, name: str, place: int) -> Column:
    def text(row: EpochSummary) -> str:
        means = row.phases[phase]
        return decimals(means[name]) if name in means else ""

    rank = 1 + place if phase == "eval" else 40 + place if place else 2
    return Column(phase, name, max(6, len(name)), rank, text)


def select_columns(columns: list[Column], width: int | None) -> list[Column]:
    """Return the most important columns that fit into the width."""
    while width is not None and len(columns) > 1 and sum(len(GAP) + c.width for c in columns) - len(GAP) > width:
        columns = [column for column in columns if column.rank < max(c.rank for c in columns)]
    return columns


def header(columns: Sequence[Column]) -> list[str]:
    """Return the two header lines: the name of each phase, above its first column, and the column titles."""
    phases = [c.phase if i == 0 or columns[i - 1].phase != c.phase else "" for i, c in enumerate(columns)]
    above = GAP.join(phase.rjust(column.width) for phase, column in zip(phases, columns, strict=True))
    return [above.rstrip(), GAP.join(column.name.rjust(column.width) for column in columns)]
