"""Reproduction of the published Fashion-MNIST table with dashpot's optimizers and several seeds."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from dashpot import tasks
from dashpot.comparison.progress import StudyProgress
from dashpot.comparison.published import ROWS, PublishedRow
from dashpot.comparison.runner import run_study
from dashpot.constraints import unknown
from dashpot.data.length import length
from dashpot.runs.entry import Entry
from dashpot.runs.environment import machine, versions
from dashpot.runs.files import write_text
from dashpot.runs.records import Run
from dashpot.runs.study import Study
from dashpot.runs.table import markdown_table

PROTOCOL = (
    "As published, the runs train on all 60 000 training images and evaluate on the 10 000 test images after every "
    "epoch, without validation data (validation_size=0)."
)
HEADER = ("row", "epoch", "train accuracy (loss)", "published", "eval accuracy (loss)", "published", "difference")


def reproduce(
    out: Path,
    rows: Sequence[str] = tuple(ROWS),
    seeds: int = 3,
    *,
    data_dir: Path | None = None,
    threads: int | None = None,
    progress: Callable[[], StudyProgress] | None = None,
    log: Callable[[str], None] = print,
    command: str | None = None,
) -> Path:
    """Train rows of the published table, and write `results.md` with the published and the reproduced results.

    As published, the runs use all training images and are evaluated on the test images, without validation data.

    Each row is a study in a subfolder of `out`. An interrupted reproduction resumes if it is called with the same
    `out`.

    Args:
        out: Folder for the records and `results.md`.
        rows: Keys of `dashpot.comparison.published.ROWS`.
        seeds: Number of seeds; the seeds are 0, 1, ...
        data_dir: First folder to search for Fashion-MNIST.
        threads: Number of torch threads; None leaves the number unchanged.
        progress: Function that creates the progress report of a row. Default: no report.
        log: Function that is called with the protocol, and with the title and the table of each row.
        command: Command line that repeats the reproduction, recorded in `results.md`.

    Returns:
        Path of `results.md`.

    Raises:
        ArgumentError: If a row is unknown.
        DataError: If Fashion-MNIST is not available.
        RunError: If a record cannot be read or written.
    """
    for key in rows:
        if key not in ROWS:
            raise unknown("row", key, ROWS)
    task = tasks.get("fashion-mnist", data_dir=data_dir, validation_size=0)
    steps = length(task.build(0).train)
    log(PROTOCOL)
    sections = []
    for key in rows:
        row = ROWS[key]
        log(f"Row {key}: {row.label}")
        entry = Entry(f"row-{key}", row.make, row.lr, row.options, row.schedule)
        study = Study(task, (entry,), tuple(range(seeds)), row.epochs, threads, evaluate_every=steps)
        runs = run_study(study, out / key, progress=progress() if progress else None, command=command)
        sections.append((key, row, runs))
        log(markdown_table(HEADER, table_rows(key, row, runs)))
    write_text(out / "results.md", _document(sections, seeds, command))
    return out / "results.md"


def table_rows(key: str, row: PublishedRow, runs: Sequence[Run]) -> list[list[str]]:
    """Return one table row per epoch: mean and standard deviation over seeds, published results, and accuracy gap."""
    lines = []
    for index, (train_accuracy, train_loss, accuracy, loss) in enumerate(row.figures):
        epochs = [run.epochs[index] for run in runs if len(run.epochs) > index]
        train = [epoch["train"] for epoch in epochs]
        evaluation = [epoch["eval"] for epoch in epochs]
        ours = _spread(evaluation, "accuracy")
        lines.append(
            [
                key,
                str(index + 1),
                f"{_spread(train, 'accuracy')} ({_spread(train, 'loss')})",
                f"{train_accuracy:.3f} ({train_loss:.3f})",
                f"{ours} ({_spread(evaluation, 'loss')})",
                f"{accuracy:.3f} ({loss:.3f})",
                _difference(evaluation, accuracy),
            ]
        )
    return lines


def _spread(means: Sequence[dict[str, float]], metric: str) -> str:
    values = [mean[metric] for mean in means]
    if not values:
        return "-"
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _difference(means: Sequence[dict[str, float]], published: float) -> str:
    return f"{statistics.fmean(mean['accuracy'] for mean in means) - published:+.3f}" if means else "-"


def _document(sections: Sequence[tuple[str, PublishedRow, Sequence[Run]]], seeds: int, command: str | None) -> str:
    rows = [line for key, row, runs in sections for line in table_rows(key, row, runs)]
    labels = "\n".join(f"- {key}: {row.label}." for key, row, _ in sections)
    diverged = sum(run.status == "diverged" for _, _, runs in sections for run in runs)
    return (
        "\n\n".join(
            [
                f"Ours: mean ± standard deviation over {seeds} seeds. Published: one run. Diverged runs: {diverged}.",
                PROTOCOL,
                labels,
                markdown_table(HEADER, rows),
                f"Command: `{command or 'dashpot.comparison.reproduction.reproduce(...)'}`\n\n"
                f"Date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}. "
                f"Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}. "
                "Machine: {processor}, {threads} of {cores} cores used, {system}.".format(**machine()),
            ]
        )
        + "\n"
    )
