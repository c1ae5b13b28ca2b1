"""Final figures of a grid of zeros from the folder of its study."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.zero_cells import Cell, Grid, Values
from dashpot.errors import RunError
from dashpot.runs.records import Run
from dashpot.runs.run_scores import validation_score, verdict_score
from dashpot.runs.workload_names import NO_FILTER, TIERS, WORKLOADS

DIGITS = 6
"""Number of significant digits of final figures."""
_NAME = re.compile(r"autosgm-(\d)-(?:zero-(-?[\d.e-]+)|pole-0)")


def grid_folders(out: Path) -> list[tuple[str, str]]:
    """Return workload and tier of each study in the output folder that has records, in the order of the workloads."""
    pairs = [(workload, tier) for workload in WORKLOADS for tier in TIERS]
    return [pair for pair in pairs if _has_records(out / "-".join(pair))]


def _has_records(path: Path) -> bool:
    return (path / "study.json").exists() and any(path.glob("*/*.jsonl"))


def grid_of_folder(path: Path, workload: str, tier: str) -> Grid:
    """Return the final figures of a study, which may be unfinished.

    Args:
        path: Folder of a study of `zero_grid.grid_study`.
        workload: Name of the workload.
        tier: Name of the tier.

    Raises:
        RunError: If the folder does not contain such a study, none of its runs has started, or a file is damaged.
    """
    folder = StudyFolder(path)
    study = folder.study()
    settings = study["settings"]
    places = {name: _place(path, name) for name in settings["methods"]}
    runs, trials = folder.runs(), folder.trials()
    if not (runs or trials):
        raise RunError(f"{path} has no records to report; run the study first.")
    rates = sorted({run.header["values"]["lr"] for run in trials})
    cells = []
    for name, place in places.items():
        tried = {run.header["values"]["lr"]: _trial(run) for run in trials if run.entry == name}
        own = {run.seed: run for run in runs if run.entry == name}
        cells.append(_cell(place, own, [tried.get(rate) for rate in rates], settings))
    return Grid(workload, tier, _facts(study, [*runs, *trials], rates), tuple(cells))


def _place(path: Path, name: str) -> tuple[int, str]:
    """Return numerator and zero of an entry."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise RunError(f"{path} is not a study of zeros: it contains the method {name}.")
    return int(found[1]), found[2] or NO_FILTER


def _facts(study: Mapping[str, Any], records: Sequence[Run], rates: Sequence[float]) -> dict[str, Any]:
    settings, header = study["settings"], records[0].header
    return {
        "task": settings["task"],
        "description": header["task"].get("description", ""),
        "parameters": header["task"]["parameters"],
        "task_options": (study.get("names") or {}).get("task_options", {}),
        "config": settings["config"],
        **{name: settings["score"].get(name) for name in ("metric", "direction", "split", "margin")},
        **{name: settings[name] for name in ("epochs", "steps", "evaluate_every", "seeds")},
        "tuning_seed": settings["tuning"]["seed"],
        "rates": [_rounded(rate) for rate in rates],
        "call": next(iter(settings["methods"].values())),
        "command": study["command"],
        "cpu_s": _rounded(sum(_cpu_seconds(run) for run in records)),
        "versions": header["versions"],
        "machine": header["machine"],
        "started": min(run.header["started"] for run in records),
    }


def _cpu_seconds(run: Run) -> float:
    """Return the CPU seconds of training of a run so far."""
    return math.fsum(epoch["cpu_s"] for epoch in run.epochs)


def _cell(
    place: tuple[int, str], runs: Mapping[int, Run], trials: Sequence[float | None], settings: Mapping[str, Any]
) -> Cell:
    """Return a cell from its runs by seed and the scores of its trials."""
    from dashpot.stats.differences import mean_interval

    numerator, zero = place
    found = [runs.get(seed) for seed in settings["seeds"]]
    best = [_best(run, settings["score"]) for run in found]
    scores = _values(None if run is None else verdict_score(run) for run in found)
    known = [score for score in scores if score is not None]
    mean = mean_interval(known) if known else None
    return Cell(
        zero=zero,
        numerator=numerator,
        lr=next((_rounded(run.header["lr"]) for run in runs.values()), None),
        trials=_values(trials),
        status=tuple("unfinished" if run is None else run.status for run in found),
        score=scores,
        validation=_values(None if run is None else validation_score(run) for run in found),
        best=_values(None if item is None else item[1] for item in best),
        best_step=tuple(None if item is None else item[0] for item in best),
        train_loss=_values(_last_loss(run, "train") for run in found),
        test_loss=_values(_test_loss(run) for run in found),
        mean=None if mean is None else _rounded(mean.estimate),
        low=None if mean is None else _rounded(mean.low),
        high=None if mean is None else _rounded(mean.high),
    )


def _trial(run: Run) -> float | None:
    return validation_score(run) if run.status == "done" else None


def _best(run: Run | None, score: Mapping[str, Any]) -> tuple[int, float] | None:
    """Return step and value of the best evaluation after the first step; None without one."""
    metric, phase = score["metric"], score["phase"]
    points = [] if run is None else [(epoch["steps"], epoch[phase][metric]) for epoch in run.epochs]
    finite = [point for point in points if math.isfinite(point[1])]
    sign = 1.0 if score["direction"] == "max" else -1.0
    return max(finite, key=lambda point: (sign * point[1], -point[0])) if finite else None


def _last_loss(run: Run | None, phase: str) -> float | None:
    return None if run is None or not run.epochs else run.epochs[-1][phase].get("loss")


def _test_loss(run: Run | None) -> float | None:
    """Return the loss on the test data, else that of the last evaluation; None of an unfinished run."""
    if run is None or run.status != "done":
        return None
    return (run.end or {}).get("test", {}).get("loss", _last_loss(run, "eval"))


def _values(values: Any) -> Values:
    return tuple(None if value is None else _rounded(value) for value in values)


def _rounded(value: float) -> float | None:
    """Return a number with the significant digits of final figures; None if it is not finite.

    >>> _rounded(1.23456789), _rounded(math.inf)
    (1.23457, None)
    """
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
