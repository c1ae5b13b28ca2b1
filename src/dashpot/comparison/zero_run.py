"""Reproduction of the grids of zeros of AutoSGM on several workloads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dashpot.comparison.score_text import names_text
from dashpot.comparison.study_cost import check_memory, confirm, study_cost
from dashpot.comparison.zero_cells import Grid, read_grids, write_grids
from dashpot.comparison.zero_findings import GridFindings, grid_findings
from dashpot.comparison.zero_grid import PLANS, grid_study
from dashpot.comparison.zero_results import grid_folders, grid_of_folder
from dashpot.comparison.zero_table import markdown_summary, text_summary
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError, DataError
from dashpot.names import TASKS, load
from dashpot.runs.files import write_text
from dashpot.runs.study import Study
from dashpot.runs.workload_names import WORKLOADS

RESULTS, PAGE, TABLE = "results.jsonl", "autosgm.html", "results.md"
"""Files of the output folder: final figures, page, and tables in Markdown."""
FIXED = {"tier": "--tier", "network": "--workload", "data_dir": "--data-dir"}
"""Options of tasks that other options of the command determine."""
NO_ACCELERATOR = "The tier gpu is meant for an accelerator, and torch finds none on this machine."


@dataclass(frozen=True)
class GridRequest:
    """Workloads and settings of a reproduction.

    Args:
        workloads: Names of workloads; None selects all whose data are available.
        tier: Tier of all workloads.
        zeros: Zeros of the filter; None selects those of the plan.
        numerators: Numerators.
        seeds: Number of seeds; None selects that of the plan.
        task_options: Further options of the tasks. Each applies to the workloads whose task has it, and at least one of
            the workloads has it.
        data_dir: First folder to search for data sets.
        threads: Number of torch threads; None leaves the number unchanged.
        jobs: Number of processes.

    Raises:
        ArgumentError: If no workload has an option of `task_options`, or the workload or the tier determines it.
    """

    workloads: tuple[str, ...] | None = None
    tier: str = "cpu"
    zeros: tuple[str, ...] | None = None
    numerators: tuple[int, ...] = (0, 1)
    seeds: int | None = None
    task_options: Mapping[str, object] = field(default_factory=dict)
    data_dir: Path | None = None
    threads: int | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        names = self.names
        for option in self.task_options:
            if option in FIXED:
                raise ArgumentError(f"reproduce: --task-options must not contain {option}; use {FIXED[option]}.")
            if not any(option in _options(workload, self.tier) for workload in names):
                known = {name for workload in names for name in _options(workload, self.tier)} - {*FIXED}
                raise unknown(f"task option of {names_text(names, most=len(names))}", option, sorted(known))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the workloads, including those whose data are not available."""
        return WORKLOADS if self.workloads is None else self.workloads

    def study(self, workload: str) -> Study:
        """Return the study of a workload; at the tier gpu on an accelerator, if torch finds one."""
        plan = PLANS[workload][self.tier]
        return grid_study(
            plan,
            plan.zeros if self.zeros is None else self.zeros,
            self.numerators,
            plan.seeds if self.seeds is None else self.seeds,
            task_options={
                name: value for name, value in self.task_options.items() if name in _options(workload, self.tier)
            },
            data_dir=self.data_dir,
            threads=self.threads,
            device="cuda" if self.tier == "gpu" and torch.cuda.is_available() else None,
        )

    def folder(self, out: Path, workload: str) -> Path:
        """Return the folder of the study of a workload."""
        return out / f"{workload}-{self.tier}"


def _options(workload: str, tier: str) -> tuple[str, ...]:
    """Return the names of the options of the task of a workload."""
    return tuple(inspect.signature(load(TASKS[PLANS[workload][tier].task])).parameters)


def reproduce_autosgm(
    out: Path,
    request: GridRequest,
    *,
    execute: Callable[[Study, Path], object],
    yes: bool = False,
    ask: Callable[[str], bool] | None = None,
    log: Callable[[str], None] = print,
    command: str | None = None,
) -> Path:
    """Train the grids of all workloads, and write their final figures, tables and page.

    Each workload is a study in a subfolder of `out`; an interrupted reproduction resumes with the same `out`. The files
    describe all workloads in `out`, those of earlier calls included.

    Args:
        out: Folder of the studies and files.
        request: Workloads and settings.
        execute: Function that executes a study in a folder.
        yes: Whether long studies start without a confirmation.
        ask: Function that asks a question on the terminal; None without a terminal.
        log: Function that is called with each line of text.
        command: Command line, shown on the page.

    Returns:
        Path of the page.

    Raises:
        DataError: If the data of a named workload, or of all workloads, are not available.
        RunError: If the memory does not suffice, a study is not confirmed, or `out` contains a damaged or foreign
            study; in this case, nothing is written.
    """
    _grids(out)
    workloads = _check_costs(out, request, yes=yes, ask=ask, log=log)
    for workload in workloads:
        execute(request.study(workload), request.folder(out, workload))
        write_grids(_grids(out), out / RESULTS)
    return write_summary(out / RESULTS, out, log=log, command=command)


def _grids(out: Path) -> list[Grid]:
    """Return the final figures of all studies in the output folder that have started a run."""
    return [grid_of_folder(out / "-".join(pair), *pair) for pair in grid_folders(out)]


def _check_costs(
    out: Path,
    request: GridRequest,
    *,
    yes: bool,
    ask: Callable[[str], bool] | None,
    log: Callable[[str], None],
) -> list[str]:
    """State memory and time of all workloads, and return those whose data are available."""
    found, seconds, missing = [], 0.0, None
    for workload in request.names:
        try:
            study = request.study(workload)
        except DataError as error:
            if request.workloads is not None:
                raise
            log(f"{workload} is left out: {error}")
            missing = error
            continue
        name = f"{workload} at the tier {request.tier}"
        cost = study_cost(study, request.folder(out, workload), name, jobs=request.jobs)
        log(str(cost))
        check_memory(cost)
        found.append(workload)
        seconds += cost.seconds
    if missing is not None and not found:
        raise missing
    slow = request.tier == "gpu" and not torch.cuda.is_available() and seconds > 0
    confirm(seconds, NO_ACCELERATOR if slow else None, yes=yes, ask=ask)
    return found


def write_summary(source: Path, out: Path, *, log: Callable[[str], None] = print, command: str | None = None) -> Path:
    """Write tables and page of a file of final figures, and log the tables as text; return the path of the page.

    Raises:
        RunError: If the file is damaged, or a file cannot be written.
    """
    from dashpot.comparison.zero_page import write_grid_page

    findings = findings_of_file(source)
    log("\n" + text_summary(findings) + "\n")
    write_text(out / TABLE, markdown_summary(findings))
    return write_grid_page(findings, out / PAGE, command=command)


def findings_of_file(source: Path) -> Sequence[GridFindings]:
    """Return the findings on all workloads of a file of final figures."""
    return [grid_findings(grid) for grid in read_grids(source)]
