"""Final figures of the reproduction of nanoGPT's character model, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dashpot.comparison.figure_lines import read_lines
from dashpot.constraints import OneOf
from dashpot.runs.records import SEED, Run
from dashpot.runs.run_scores import verdict_score
from dashpot.runs.table import markdown_table
from dashpot.stats.differences import paired_interval
from dashpot.utils.schema import COUNT, REAL, TEXT, Maybe, Record, require

PUBLISHED = 1.88
"""Published validation loss in nats per character."""
REFERENCE = "adamw"
"""Method with which the others are compared: AdamW of dashpot with the published settings."""
HEADER = ("method", "seeds", "loss", "published", "difference to adamw", "95 % interval", "train loss", "CPU min")

LINE = Record(
    {
        "table": OneOf(("nanogpt",)),
        "tier": TEXT,
        "method": TEXT,
        "call": TEXT,
        "seed": SEED,
        "status": TEXT,
        "steps": COUNT,
        "loss": Maybe(REAL),
        "train_loss": Maybe(REAL),
        "cpu_s": Maybe(REAL),
    }
)
"""Rule of a line of final figures."""


def read_figures(path: Path) -> list[dict[str, Any]]:
    """Read the final figures of `reproduce_nanogpt`.

    Raises:
        RunError: If the file cannot be read, is truncated, or is not a file of these figures.
    """
    lines: list[dict[str, Any]] = []

    def accept(line: Any) -> None:
        require(LINE, line)
        lines.append(line)

    read_lines(path, accept)
    return lines


def figures(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return the final figures of runs as plain data, without curves.

    The loss is None for a run that has not been completed. The train loss is the mean over the steps since the last
    evaluation but one.
    """
    return [
        {
            "method": run.entry.partition("-lr-")[0],
            "call": run.header["call"],
            "seed": run.seed,
            "status": run.status,
            "steps": run.header["steps"],
            "loss": verdict_score(run) if run.status == "done" else None,
            "train_loss": run.epochs[-1]["train"]["loss"] if run.epochs else None,
            "cpu_s": (run.end or {}).get("cpu_s"),
        }
        for run in runs
    ]


def summary_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one row per method: mean and standard deviation over seeds, and paired differences.

    >>> lines = [{"method": m, "seed": 0, "loss": x, "train_loss": 1.7, "cpu_s": 60} for m, x in (("adamw", 1.9),)]
    >>> print(summary_table(lines).splitlines()[2])
    | adamw | 1 | 1.900 | 1.88 | - | - | 1.700 | 1.0 |
    """
    methods = dict.fromkeys(line["method"] for line in lines)
    return markdown_table(HEADER, [_row(method, lines) for method in methods])


def _row(method: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    own = [line for line in lines if line["method"] == method and line["loss"] is not None]
    reference = {line["seed"]: line["loss"] for line in lines if line["method"] == REFERENCE}
    pairs = [(line["loss"], reference.get(line["seed"])) for line in own if method != REFERENCE]
    differences = [loss - other for loss, other in pairs if other is not None]
    interval = paired_interval(differences) if len(differences) > 1 else None
    return [
        method,
        str(len(own)),
        _spread([line["loss"] for line in own]),
        f"{PUBLISHED:g}" if "adamw" in method.lower() else "-",
        f"{statistics.fmean(differences):+.4f}" if differences else "-",
        f"{interval.low:+.4f} to {interval.high:+.4f}" if interval else "-",
        _spread([line["train_loss"] for line in own]),
        f"{statistics.fmean(line['cpu_s'] for line in own) / 60:.1f}" if own else "-",
    ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
