"""Final figures of grids of zeros, and their file: JSON lines, one of each workload and one of each of its cells.

A cell is a pair of numerator and zero. Its lists by seed have the order of the seeds of the workload; a value that is
not known, such as that of a run that has not ended, is null. Curves are not part of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dashpot.comparison.figure_lines import read_lines, write_lines
from dashpot.constraints import Interval, OneOf, shown
from dashpot.errors import RunError
from dashpot.runs.records import SEED
from dashpot.runs.workload_names import TIERS, WORKLOADS
from dashpot.utils.schema import COUNT, PLAIN, POSITIVE_COUNT, REAL, TEXT, ListOf, MapOf, Maybe, Record, require

FORMAT = 1
STATUS = ("done", "diverged", "failed", "unfinished")
_ZERO = re.compile(r"none|-?\d(\.\d+)?(e-\d+)?")
_VALUES = ListOf(Maybe(REAL))
_PLACE = {"workload": OneOf(WORKLOADS), "tier": OneOf(TIERS)}
WORKLOAD = Record(
    {
        **_PLACE,
        "format": OneOf((FORMAT,)),
        "task": TEXT,
        "description": TEXT,
        "parameters": Maybe(COUNT),
        "config": MapOf(PLAIN),
        "metric": TEXT,
        "direction": OneOf(("max", "min")),
        "split": OneOf(("test", "validation", "train")),
        "margin": Maybe(Interval(0)),
        "epochs": POSITIVE_COUNT,
        "steps": POSITIVE_COUNT,
        "evaluate_every": POSITIVE_COUNT,
        "seeds": ListOf(SEED, least=1),
        "tuning_seed": SEED,
        "rates": ListOf(REAL, least=1),
        "call": TEXT,
        "command": Maybe(TEXT),
        "cpu_s": REAL,
        "versions": MapOf(TEXT),
        "machine": MapOf(PLAIN),
        "started": TEXT,
    },
    {"task_options": MapOf(PLAIN)},
)
"""Rule of the line of a workload."""
CELL = Record(
    {
        **_PLACE,
        "zero": TEXT,
        "numerator": Interval(0, 4, "both", integer=True),
        "lr": Maybe(REAL),
        "trials": _VALUES,
        "status": ListOf(OneOf(STATUS)),
        "score": _VALUES,
        "validation": _VALUES,
        "best": _VALUES,
        "best_step": ListOf(Maybe(COUNT)),
        "train_loss": _VALUES,
        "test_loss": _VALUES,
        "mean": Maybe(REAL),
        "low": Maybe(REAL),
        "high": Maybe(REAL),
    }
)
"""Rule of the line of a cell."""
BY_SEED = ("status", "score", "validation", "best", "best_step", "train_loss", "test_loss")
"""Fields of a cell with one value per seed."""

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Cell:
    """Final figures of a numerator and a zero.

    Attributes:
        zero: Zero of the filter, or "none".
        numerator: Numerator of the learning rate.
        lr: Learning rate that validation data have selected; None before.
        trials: Final validation score of each rate, in the order of the rates of the workload; None if it has diverged.
        status: Status of the run of each seed.
        score: Score on the data of the verdict by seed.
        validation: Last validation score by seed.
        best: Best validation score during the run by seed.
        best_step: Step of `best` by seed.
        train_loss: Mean loss of the training batches since the last but one evaluation, by seed.
        test_loss: Loss on the test data by seed, else on the validation data.
        mean: Mean score.
        low: Lower limit of the 95 % interval of the mean score; None for one seed.
        high: Upper limit.
    """

    zero: str
    numerator: int
    lr: float | None
    trials: Values
    status: tuple[str, ...]
    score: Values
    validation: Values
    best: Values
    best_step: tuple[int | None, ...]
    train_loss: Values
    test_loss: Values
    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Grid:
    """Final figures of a workload.

    Attributes:
        workload: Name of the workload.
        tier: Name of the tier.
        facts: The further fields of the line of the workload, by name; see `WORKLOAD`.
        cells: Its cells.
    """

    workload: str
    tier: str
    facts: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def zeros(self) -> tuple[str, ...]:
        """Zeros in the order of the study."""
        return tuple(dict.fromkeys(cell.zero for cell in self.cells))

    @property
    def numerators(self) -> tuple[int, ...]:
        """Numerators in increasing order."""
        return tuple(sorted({cell.numerator for cell in self.cells}))

    @property
    def sign(self) -> float:
        """1 if larger scores are better, else -1."""
        return 1.0 if self.facts["direction"] == "max" else -1.0

    def cell(self, numerator: int, zero: str) -> Cell | None:
        """Return a cell, or None if the study does not contain it."""
        return next((cell for cell in self.cells if (cell.numerator, cell.zero) == (numerator, zero)), None)


def write_grids(grids: Iterable[Grid], path: Path) -> None:
    """Write final figures as JSON lines, atomically.

    Raises:
        RunError: If the file cannot be written.
    """
    write_lines((line for grid in grids for line in _lines(grid)), path)


def _lines(grid: Grid) -> Iterable[dict[str, Any]]:
    place = {"workload": grid.workload, "tier": grid.tier}
    yield {"kind": "workload", "format": FORMAT, **place, **grid.facts}
    for cell in grid.cells:
        yield {"kind": "cell", **place, **asdict(cell)}


def read_grids(path: Path) -> list[Grid]:
    """Read the file of `write_grids`.

    Raises:
        RunError: If the file cannot be read, is truncated, or is not a file of final figures.
    """
    grids: list[Grid] = []
    read_lines(path, lambda line: _add(grids, line))
    if not grids[-1].cells:
        raise RunError(f"{path} is not a file of final figures: it is truncated.")
    return grids


def _add(grids: list[Grid], line: Any) -> None:
    """Add a line to the last grid, or start a grid."""
    require(Record({"kind": OneOf(("workload", "cell"))}), line)
    if line["kind"] == "workload":
        require(WORKLOAD, line)
        _check_start(grids, line)
        own = ("kind", "format", "workload", "tier")
        facts = {name: value for name, value in line.items() if name not in own}
        grids.append(Grid(line["workload"], line["tier"], facts, ()))
        return
    require(CELL, line)
    if not grids or (line["workload"], line["tier"]) != (grids[-1].workload, grids[-1].tier):
        raise ValueError("the cell is not below the line of its workload")
    last = grids[-1]
    _check_lengths(line, len(last.facts["seeds"]), len(last.facts["rates"]))
    if not _ZERO.fullmatch(line["zero"]):
        raise ValueError(f"zero must be a number or none, got {shown(line['zero'])}")
    if last.cell(line["numerator"], line["zero"]) is not None:
        raise ValueError(f"the cell of numerator {line['numerator']} and zero {line['zero']} is repeated")
    fields: dict[str, Any] = {name: line[name] for name in Cell.__dataclass_fields__}
    fields.update((name, tuple(fields[name])) for name in (*BY_SEED, "trials"))
    cell = Cell(**fields)
    grids[-1] = Grid(last.workload, last.tier, last.facts, (*last.cells, cell))


def _check_start(grids: Sequence[Grid], line: Mapping[str, Any]) -> None:
    """Check that a line can start a grid after the others."""
    if any((grid.workload, grid.tier) == (line["workload"], line["tier"]) for grid in grids):
        raise ValueError(f"the workload {line['workload']} at the tier {line['tier']} is repeated")
    if grids and not grids[-1].cells:
        raise ValueError(f"the line of the workload {grids[-1].workload} is not followed by cells")
    if len(set(line["seeds"])) < len(line["seeds"]):
        raise ValueError(f"seeds must be different, got {line['seeds']}")


def _check_lengths(line: Mapping[str, Sequence[Any]], seeds: int, rates: int) -> None:
    for name in (*BY_SEED, "trials"):
        wanted = rates if name == "trials" else seeds
        if len(line[name]) != wanted:
            raise ValueError(f"{name} must have {wanted} values, got {len(line[name])}")
