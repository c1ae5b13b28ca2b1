"""Reproduction of nanoGPT's character model on a CPU: AdamW of torch, AdamW of dashpot, and the best method found.

Source: Karpathy, nanoGPT on GitHub, the configuration for a CPU in its README, whose published loss is 1.88.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashpot.comparison.figure_lines import write_lines
from dashpot.comparison.nanogpt_results import PUBLISHED, figures, summary_table
from dashpot.comparison.progress import StudyProgress
from dashpot.comparison.runner import run_study
from dashpot.constraints import OneOf, check, unknown
from dashpot.runs.choices import COUNT
from dashpot.runs.environment import machine, versions
from dashpot.runs.files import write_text
from dashpot.runs.records import Run
from dashpot.runs.study import Study
from dashpot.runs.study_names import StudyNames

TIERS = ("smoke", "cpu")
"""Tiers of the task shakespeare-char: a network for tests, and the published configuration for a CPU."""
MATRICES = ("norms", "biases", "vectors")
"""Parameters without weight decay, so that only tensors of two or more dimensions decay."""

PROTOCOL = (
    "As published, the runs train on the first 90 % of the text and are evaluated on the last 10 %, without validation "
    "data (validation_size=0). The loss is that of the whole last 10 % after the last step, in nats per character; "
    f"the published {PUBLISHED:g} is a mean over 20 random batches of 12 windows. The settings of the row best were "
    "selected on validation data from the first 90 %."
)


@dataclass(frozen=True)
class Row:
    """Methods that share a schedule.

    Args:
        methods: Methods as for `dashpot compare`, with their settings.
        schedule: Schedule of the learning rate.
        label: Description for tables.
    """

    methods: str
    schedule: str
    label: str


_SETTINGS = "lr=0.001,betas=0.9,0.99,weight_decay=0.1"

ROWS: Mapping[str, Row] = {
    "published": Row(
        f"torch.optim.AdamW:{_SETTINGS},adamw:{_SETTINGS}",
        "warmup-cosine:warmup=0.05,floor=0.1",
        "AdamW, lr 1e-3 to 1e-4 by cosine after 100 steps of warm-up, betas (0.9, 0.99), decay 0.1 of matrices, clip 1",
    ),
    "best": Row(
        "nadam:lr=0.005,betas=0.9,0.99,weight_decay=0.1,decoupled_weight_decay=true",
        "warmup-linear:warmup=0.05,floor=0",
        "NAdam with decoupled decay, lr 5e-3 to 0 linearly after 100 steps of warm-up, other settings as published",
    ),
}
"""Published settings, and the best found at the same number of steps and the same batch size."""


def nanogpt_study(
    row: str, seeds: int, *, tier: str = "cpu", data_dir: Path | None = None, threads: int | None = None
) -> Study:
    """Return the study of a row.

    Args:
        row: Key of `ROWS`.
        seeds: Number of seeds; the seeds are 0, 1, ...
        tier: Item of `TIERS`.
        data_dir: First folder to search for the text.
        threads: Number of torch threads; None leaves the number unchanged.

    Raises:
        ArgumentError: If the row is unknown or an argument is out of range.
        DataError: If the text is not available.
    """
    if row not in ROWS:
        raise unknown("row", row, ROWS)
    return StudyNames(
        "shakespeare-char",
        {"tier": tier, "validation_size": 0},
        None if data_dir is None else str(data_dir),
        ROWS[row].methods,
        options={"max_norm": 1.0},
        schedule=ROWS[row].schedule,
        seeds=seeds,
        no_decay=MATRICES,
        design={"evaluate_every": 500, "threads": threads},
    ).study()


def reproduce_nanogpt(
    out: Path,
    rows: Sequence[str] = tuple(ROWS),
    seeds: int = 3,
    *,
    tier: str = "cpu",
    data_dir: Path | None = None,
    threads: int | None = None,
    jobs: int = 1,
    progress: Callable[[], StudyProgress] | None = None,
    log: Callable[[str], None] = print,
    command: str | None = None,
) -> Path:
    """Train the character model, and write `results.md` and `results.jsonl` with published and reproduced losses.

    Each row is a study in a subfolder of `out`. An interrupted reproduction resumes if it is called with the same
    `out`.

    Args:
        out: Folder for the records and results.
        rows: Keys of `ROWS`.
        seeds: Number of seeds, >= 1; the seeds are 0, 1, ...
        tier: Item of `TIERS`.
        data_dir: First folder to search for the text.
        threads: Number of torch threads of each process; None leaves the number unchanged.
        jobs: Number of worker processes, >= 1.
        progress: Function that creates the progress report of a row. Default: no report.
        log: Function that is called with the protocol, the title of each row, and the table.
        command: Command line that repeats the reproduction, recorded in `results.md`.

    Returns:
        Path of `results.md`.

    Raises:
        ArgumentError: If a row is unknown or an argument is out of range.
        DataError: If the text is not available.
        RunError: If a record cannot be read or written.
    """
    for name, value, allowed in (("seeds", seeds, COUNT), ("jobs", jobs, COUNT), ("tier", tier, OneOf(TIERS))):
        check("reproduce", name, value, allowed)
    studies = {row: nanogpt_study(row, seeds, tier=tier, data_dir=data_dir, threads=threads) for row in rows}
    log(PROTOCOL)
    runs: list[Run] = []
    for row, study in studies.items():
        log(f"Row {row}: {ROWS[row].label}.")
        report = progress() if progress else None
        runs += run_study(study, out / row, jobs=jobs, progress=report, command=command)
    lines = [{"table": "nanogpt", "tier": tier, **line} for line in figures(runs)]
    table = summary_table(lines)
    log(table)
    write_lines(lines, out / "results.jsonl")
    write_text(out / "results.md", _document(table, rows, command))
    return out / "results.md"


def _document(table: str, rows: Sequence[str], command: str | None) -> str:
    labels = "\n".join(f"- {row}: {ROWS[row].label}; schedule {ROWS[row].schedule}." for row in rows)
    return (
        "\n\n".join(
            [
                PROTOCOL,
                labels,
                table,
                f"Command: `{command or 'dashpot.comparison.nanogpt.reproduce_nanogpt(...)'}`\n\n"
                f"Date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}. "
                f"Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}. "
                "Machine: {processor}, {threads} of {cores} cores used, {system}.".format(**machine()),
            ]
        )
        + "\n"
    )
