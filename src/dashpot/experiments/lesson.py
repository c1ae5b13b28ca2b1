"""The lesson's table of optimizers on Fashion-MNIST, with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from dashpot.comparison.published import ROWS
from dashpot.data.length import length
from dashpot.experiments import lesson_figures as figures
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.training_study import interval_finding, joint_differences, study_findings
from dashpot.runs.entries import Entry
from dashpot.runs.study import Study
from dashpot.tasks import Task

A1_EPOCHS = 3
"""Epochs of row A1, which row A2 continues at a lower rate."""
TOLERANCE = 0.01
"""Published results are single runs with an unknown seed, compared with an accuracy tolerance of .01."""

Epochs = Mapping[str, Sequence[Sequence[float]]]
"""For each row and seed, the test accuracies after every epoch."""

ORDER = (
    ("A2", "A1", "a lower rate for two more epochs"),
    ("B", "A1", "momentum"),
    ("D", "A1", "Adam instead of SGD"),
    ("D", "C", "Adam instead of RMSProp"),
    ("E", "D", "a cosine schedule"),
    ("F", "E", "AdamW with 1cycle instead of a cosine schedule"),
    ("G", "F", "1cycle to a higher rate, with more epochs"),
)
"""Pairs (better row, other row, difference of the settings) in the order of the lesson."""

CLAIMS = (
    Claim("lesson, tables of training runs", "Accuracy of each optimizer after its last epoch, of one run."),
    Claim(
        "lesson, tables of training runs",
        "The last accuracies increase from plain SGD over momentum and Adam to Adam with a schedule and to AdamW with "
        "1cycle, which reaches 90 %.",
    ),
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Repeat the rows of the published table, and test their order pair by pair."""
    from dashpot import tasks

    if quick:
        task, rows = tasks.get("digits", validation_size=0, batch_size=500), ("A2", "D")
    else:
        task, rows = tasks.get("fashion-mnist", validation_size=0), tuple(ROWS)
    return outcome_of(train_rows(task, rows, seeds))


def train_rows(task: Task, rows: Sequence[str], seeds: Sequence[int]) -> Epochs:
    """Train rows of the table with evaluations after every epoch, and return the accuracies, with A1 as part of A2."""
    steps = length(task.build(seeds[0]).train)
    found: dict[str, list[list[float]]] = {}
    for epochs in sorted({ROWS[key].epochs for key in rows}):
        chosen = [key for key in rows if ROWS[key].epochs == epochs]
        entries = tuple(
            Entry(key, ROWS[key].make, ROWS[key].lr, ROWS[key].options, ROWS[key].schedule) for key in chosen
        )
        study = Study(task, entries, tuple(seeds), epochs, evaluate_every=steps)
        results = study_findings(study, f"rows {', '.join(chosen)}").results
        for key in chosen:
            found[key] = [run.curves["validation accuracy"].values[-epochs:].tolist() for run in results.of(key)]
    if "A2" in found:
        found["A1"] = [values[:A1_EPOCHS] for values in found["A2"]]
    return dict(sorted(found.items()))


def outcome_of(found: Epochs) -> Outcome:
    """Return the outcome for the accuracies of the rows."""
    findings = [*published_findings(found), *order_findings(found)]
    data = {"accuracy": {key: [list(values) for values in runs] for key, runs in found.items()}}
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=reason(findings),
        panels=(
            Panel("table", "Accuracy after the last epoch", figures.TABLE_NOTE, partial(figures.table, data)),
            Panel("order", "Differences", figures.ORDER_NOTE, partial(figures.order, data), claim=1),
        ),
        settings={
            "rows": {key: label_of(key) for key in found},
            "data": "all training images, evaluated on the test images, as published",
            "tolerance of published accuracies": TOLERANCE,
        },
        data=data,
    )


def label_of(key: str) -> str:
    """Return the settings of a row."""
    return "SGD, lr 0.2" if key == "A1" else ROWS[key].label


def published(key: str) -> float:
    """Return the published test accuracy after the last epoch of a row.

    >>> published("A1"), published("G")
    (0.841, 0.899)
    """
    return ROWS["A2"].figures[A1_EPOCHS - 1][2] if key == "A1" else ROWS[key].figures[-1][2]


def last(found: Epochs) -> dict[str, list[float]]:
    """Return the accuracies after the last epoch, by row and seed."""
    return {key: [values[-1] for values in runs] for key, runs in found.items()}


def published_findings(found: Epochs) -> list[Finding]:
    """Compare published accuracies with the 95 % prediction interval of a single run, widened to the tolerance.

    With the mean m and the standard deviation s of n runs, the interval is m -+ t s sqrt(1 + 1/n).
    """
    rows = []
    for key, values in last(found).items():
        mean, low, high = mean_interval(values)
        half = (high - low) / 2 * (len(values) + 1) ** 0.5  # the interval of the mean has t s / sqrt(n)
        holds = abs(published(key) - mean) <= max(half, TOLERANCE)
        statement = f"{key}: accuracy after the last epoch, {label_of(key)}"
        rows.append(Finding(f"accuracy-{key}", statement, mean, low, high, published(key), holds))
    return rows


def order_findings(found: Epochs) -> list[Finding]:
    """Test each pair of the lesson's order with intervals that hold jointly for all pairs of rows.

    A pair whose interval contains 0 is undecided: it holds with limits if the better row has the higher mean.
    """
    differences = joint_differences(last(found))
    rows = []
    for better, other, words in ORDER:
        if (better, other) not in differences:
            continue
        interval = differences[better, other]
        undecided = interval.low <= 0 <= interval.high
        rows.append(
            interval_finding(
                f"{better}-{other}",
                f"{better} minus {other}: {words}",
                interval,
                predicted=round(published(better) - published(other), 3),
                holds=interval.estimate > 0,
                limits="undecided: the joint 95 % interval contains 0" if undecided else "",
                claim=1,
            )
        )
    return rows


def reason(findings: Sequence[Finding]) -> str:
    """Return sentences on the numbers of typical accuracies and of decided pairs."""
    rows, pairs = ([item for item in findings if item.claim == claim] for claim in (0, 1))
    confirmed, reversed_ = sum(item.low > 0 for item in pairs), sum(item.high < 0 for item in pairs)
    return (
        f"{sum(item.holds for item in rows)} of {len(rows)} published accuracies are typical of single runs. Of "
        f"{len(pairs)} pairs of the order, {confirmed} are confirmed by the joint intervals, {reversed_} are reversed, "
        f"and {len(pairs) - confirmed - reversed_} are undecided."
    )
