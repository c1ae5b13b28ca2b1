"""Results of a comparison from a CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dashpot.comparison.csv_table import Columns, CsvRow, read_rows, runs_of, split_of
from dashpot.comparison.diverged_scores import diverged_remarks, with_diverged_scores
from dashpot.comparison.results import Curve, JudgedRun, Results, ScoreRule
from dashpot.constraints import Interval, OneOf, Optional, check, unknown
from dashpot.errors import ArgumentError
from dashpot.utils.format import counted

OWNER = "from-csv"
DIRECTION = OneOf((None, "max", "min"))
PREFERRED = ("accuracy", "acc", "loss")
"""Metrics that are used without `metric`, the first of them that the file contains."""


def results_of_csv(
    path: Path,
    *,
    metric: str | None = None,
    direction: str | None = None,
    target: float | None = None,
    margin: float | None = None,
) -> Results:
    """Read a comparison from a CSV file with the columns step, seed, method and metrics.

    A column such as "train_loss" or "test_accuracy" states its data; other columns count as validation data. The score
    of a run is its last value of the metric, on test data if the file contains them. A run with a value that is NaN or
    infinite has diverged. Its score is then its first value, or the worst first value of all runs if that is not
    finite.

    Args:
        path: CSV file; see `dashpot.comparison.csv_table.read_rows`.
        metric: Metric that ranks methods, the title of a column with or without its data. Default: accuracy, else loss,
            else the only metric; training data count only if there are no others.
        direction: "max" or "min". Default: "max" for accuracies, "min" for losses and errors.
        target: Target of the metric, finite, or None.
        margin: Largest irrelevant difference of the score, > 0, or None.

    Raises:
        DataError: If the file is not such a table; the message names the line.
        ArgumentError: If the metric is unknown, its direction must be given, or a number is out of range.
    """
    check(OWNER, "direction", direction, DIRECTION)
    check(OWNER, "target", target, Optional(Interval()))
    check(OWNER, "margin", margin, Optional(Interval(0)))
    columns, rows = read_rows(path)
    titles = _score_titles(columns, metric)
    score = titles[-1]
    split, name = split_of(score)
    rule = ScoreRule(name, _direction(name, direction), split, target, margin)
    runs = [_run(method, seed, own, titles, rule) for method, seed, own in runs_of(path, rows)]
    runs = with_diverged_scores(runs, rule, " ".join(split_of(score)))
    return Results(
        task=path.stem,
        description="",
        rule=rule,
        methods=tuple(dict.fromkeys(row.method for row in rows)),
        seeds=tuple(sorted({row.seed for row in rows})),
        runs=tuple(runs),
        protocol=(
            ("Score", f"last value of the column {score!r} of each run"),
            ("Pairing", "by seed; runs of a seed should share initial weights and batches"),
        ),
        facts=(("File", path.name), ("Rows", f"{len(rows)} of {counted(len(runs), 'run')}")),
        source=str(path),
        remarks=(*_remarks(runs), *_late(runs, rule), *_ignored(columns)),
    )


def _score_titles(columns: Columns, metric: str | None) -> tuple[str, ...]:
    """Return the columns of the metric: that of the curves during training first, that of the score last."""
    by_split = {title: split_of(title) for title in columns.metrics}
    known = list(dict.fromkeys(name for _, name in by_split.values()))
    if metric is not None:
        chosen = [t for t in by_split if t.lower() == metric.lower()] or _of_metric(by_split, metric.lower())
        if not chosen:
            raise unknown("metric", metric, list(dict.fromkeys([*columns.metrics, *known])))
        return tuple(chosen)
    judged = {name for split, name in by_split.values() if split != "train"} or set(known)
    preferred = [name for name in PREFERRED if name in judged]
    if not preferred and len(known) > 1:
        raise ArgumentError(f"{OWNER}: metric must be one of {', '.join(known)} (--metric), got None.")
    return tuple(_of_metric(by_split, (preferred or known)[0]))


def _of_metric(by_split: dict[str, tuple[str, str]], name: str) -> list[str]:
    """Return the columns of a metric, of validation data and then of test data, else of training data."""
    found = {split: title for title, (split, own) in by_split.items() if own == name}
    return [found[split] for split in ("validation", "test") if split in found] or list(found.values())


def _direction(metric: str, given: str | None) -> str:
    if given is not None:
        return given
    if metric.startswith("acc") or metric.endswith(("accuracy", "acc")):
        return "max"
    if metric.endswith(("loss", "error")):
        return "min"
    raise ArgumentError(f"{OWNER}: direction of {metric!r} must be given, max or min (--direction).")


def _run(method: str, seed: int, rows: Sequence[CsvRow], titles: Sequence[str], rule: ScoreRule) -> JudgedRun:
    """Return a run without its score if it has diverged or has no value of the metric."""
    bad = next((row.step for row in rows if not all(map(math.isfinite, row.values.values()))), None)
    curves = {
        f"{split} {name}": _curve(rows, title) for title in rows_titles(rows) for split, name in [split_of(title)]
    }
    score = curves.get(" ".join(split_of(titles[-1])))
    status = "diverged" if bad is not None else "unfinished" if score is None else "done"
    during = curves.get(" ".join(split_of(titles[0])))
    return JudgedRun(
        method=method,
        seed=seed,
        status=status,
        score=float(score.values[-1]) if status == "done" and score is not None else None,
        steps_to_target=_steps_to_target(during, rule, status),
        steps=rows[-1].step,
        curves=curves,
    )


def rows_titles(rows: Sequence[CsvRow]) -> list[str]:
    """Return the titles of the metrics with a value in any of the rows."""
    return list(dict.fromkeys(title for row in rows for title in row.values))


def _curve(rows: Sequence[CsvRow], title: str) -> Curve:
    known = [(row.step, row.values[title]) for row in rows if title in row.values]
    steps, values = np.array(known, dtype=np.float64).T
    return Curve(steps, values)


def _steps_to_target(curve: Curve | None, rule: ScoreRule, status: str) -> float:
    if rule.target is None or status == "unfinished":
        return math.nan
    if curve is None or status == "diverged":
        return math.inf
    met = rule.sign * (curve.values - rule.target) >= 0
    return float(curve.steps[met][0]) if met.any() else math.inf


def _remarks(runs: Sequence[JudgedRun]) -> tuple[str, ...]:
    """Return remarks on scores at different steps and on the scores of diverged runs."""
    remarks = []
    ends = sorted({run.steps for run in runs if run.status == "done"})
    if len(ends) > 1:
        remarks.append(f"The runs have different lengths, {ends[0]} to {ends[-1]} steps; each score is the last value.")
    return (*remarks, *diverged_remarks(runs))


def _late(runs: Sequence[JudgedRun], rule: ScoreRule) -> Iterator[str]:
    """Yield a remark on completed runs without a value of the score at their end, at which other runs have one."""
    name = f"{rule.split} {rule.metric}"
    done = [run for run in runs if run.status == "done"]
    last = {(run.method, run.seed): int(run.curves[name].steps[-1]) for run in done}
    ends = {step for run in runs for step in last.values() if step == run.steps}
    late = [run for run in done if last[run.method, run.seed] < run.steps and run.steps in ends]
    if late:
        run, more = late[0], len(late) - 1
        others = f", and likewise {counted(more, 'more run')}" if more else ""
        yield (
            f"{run.method} seed {run.seed} has no {rule.metric} after step {last[run.method, run.seed]} of {run.steps}"
            f"{others}; if it diverged, its values must be nan."
        )


def _ignored(columns: Columns) -> Iterator[str]:
    if columns.texts:
        yield f"Columns of text are ignored: {', '.join(columns.texts)}."
