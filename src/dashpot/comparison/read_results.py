"""Results of comparisons from their folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dashpot.comparison.pairing import pairing_remarks
from dashpot.comparison.protocol import facts, protocol
from dashpot.comparison.record_results import judged_run, rate_run, score_rule, tuning_trial
from dashpot.comparison.results import Results
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import RunError
from dashpot.runs.records import Run


def results_of_folder(path: Path) -> Results:
    """Read the results of a study from its folder, which may be unfinished.

    Args:
        path: Output folder of `dashpot compare`.

    Raises:
        RunError: If the folder does not contain a study of this version, or none of its runs has started, or a file is
            damaged.
    """
    folder = StudyFolder(Path(path))
    study = folder.study()
    settings = study["settings"]
    records, trials, rates = folder.runs(), folder.trials(), folder.rate_runs()
    if not (records or trials):
        raise RunError(f"{folder.path} has no records to report; run the comparison first.")
    _check_methods([*records, *trials, *rates], settings["methods"])
    rule = score_rule(settings["score"])
    runs = tuple(judged_run(run, settings["steps"]) for run in records)
    chosen = _selected(records)
    everything = [*records, *trials, *rates]
    return Results(
        task=settings["task"],
        description=everything[0].header["task"].get("description", ""),
        rule=rule,
        methods=tuple(settings["methods"]),
        seeds=tuple(settings["seeds"]),
        runs=runs,
        trials=tuple(tuning_trial(run, _number(run), chosen.get(run.entry)) for run in trials),
        rate_runs=tuple(rate_run(run, _factor(run)) for run in rates),
        recipes=_recipes(settings, records),
        protocol=protocol(settings, rule),
        facts=facts(settings["config"], everything, runs),
        command=study["command"],
        looks=tuple(settings["looks"]),
        source=str(folder.path),
        remarks=pairing_remarks(everything),
    )


def _check_methods(records: Sequence[Run], methods: Collection[str]) -> None:
    """Raise an error for a record of a method that is not in the study."""
    for run in records:
        if run.entry not in methods:
            raise RunError(f"{run.path} is a record of {run.entry!r}, which is not a method of the study.")


def _selected(records: Sequence[Run]) -> dict[str, Mapping[str, float]]:
    """Return the tuned settings of each method that has a judged run."""
    return {run.entry: {key: float(value) for key, value in run.header.get("values", {}).items()} for run in records}


def _number(run: Run) -> int:
    return int(run.header["item"].split("/")[2])


def _factor(run: Run) -> float:
    return float(run.header["item"].split("/")[2])


def _recipes(settings: Mapping[str, Any], records: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Return call and recipe of each method: those of its judged runs, else of its default settings."""
    default = {name: (call, settings.get("recipes", {}).get(name, "")) for name, call in settings["methods"].items()}
    return default | {run.entry: (run.header["call"], run.header["recipe"]) for run in records}
