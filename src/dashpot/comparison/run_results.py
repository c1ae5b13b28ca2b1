"""Results of separate runs of `dashpot train` on one task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dashpot.comparison.diverged_scores import diverged_remarks, with_diverged_scores
from dashpot.comparison.protocol import VERDICT_DATA, facts
from dashpot.comparison.record_results import PHASES, judged_run, score_rule
from dashpot.comparison.results import JudgedRun, Results
from dashpot.comparison.run_groups import method_names
from dashpot.errors import RunError
from dashpot.runs.records import COMPARABLE, Run, check_header
from dashpot.utils.format import ranges


def results_of_runs(paths: Sequence[Path]) -> Results:
    """Read the results of runs of `dashpot train` on one task.

    Runs with the same settings apart from the seed are runs of one method. The final evaluation, on the validation
    data, is the score. A diverged run has the score of its first evaluation, or, without one, the worst first
    evaluation of all runs.

    Args:
        paths: Folders of runs, at least one.

    Raises:
        RunError: If a folder is not that of a run, a record is damaged, a method has two runs with the same seed, or
            the runs have different tasks, settings of the task, or scores.
    """
    from dashpot.training.run.folder import shell_quoted  # reports of studies need no training loop

    records = [_record(Path(path)) for path in paths]
    _check_same_task(records)
    names = method_names(records)
    score = {**records[0].header["score"], "split": PHASES[records[0].header["score"]["phase"]]}
    for run in records:
        run.header["score"] = score
    rule = score_rule(score)
    runs = [judged_run(run, _length(run), method=name) for run, name in zip(records, names, strict=True)]
    runs = with_diverged_scores(runs, rule, f"{rule.split} {rule.metric}")
    seeds = sorted({run.seed for run in records})
    task = records[0].header["task"]
    recipes = {name: (run.header["call"], run.header["recipe"]) for run, name in zip(records, names, strict=True)}
    return Results(
        task=task["name"],
        description=task.get("description", ""),
        rule=rule,
        methods=tuple(dict.fromkeys(names)),
        seeds=tuple(seeds),
        runs=tuple(runs),
        recipes=recipes,
        protocol=(
            ("Data", VERDICT_DATA[rule.split]),
            ("Seeds", f"{ranges(seeds)}; equal initial weights, batches and noise for all runs of a seed"),
            ("Tuning", "not recorded: separate runs of dashpot train"),
        ),
        facts=facts(records[0].task, records, runs),
        command=f"dashpot report {' '.join(shell_quoted(Path(path)) for path in paths)}",
        source=str(paths[0]),
        remarks=(*_lengths(runs), *diverged_remarks(runs)),
    )


def _record(path: Path) -> Run:
    from dashpot.training.run.folder import RunFolder

    run = RunFolder.open(path).run()
    if run is None:
        raise RunError(f"{path} has no record to report; the run has not started.")
    check_header(run, COMPARABLE, advice="leave the run out")
    return run


def _check_same_task(records: Sequence[Run]) -> None:
    """Check that all records have the same task, with the same settings and the same score."""
    first = records[0]
    for run in records[1:]:
        names = first.header["task"].get("name"), run.header["task"].get("name")
        if names[0] != names[1]:
            raise RunError(
                f"Runs of different tasks cannot be compared: {first.path.parent} is on {names[0]}, {run.path.parent} "
                f"on {names[1]}; give the folders of `dashpot compare` for a profile of several tasks."
            )
        for key in dict.fromkeys([*first.task, *run.task]):
            if first.task.get(key) != run.task.get(key):
                raise RunError(
                    f"Runs with different settings of the task cannot be compared: {key} is {first.task.get(key)} in "
                    f"{first.path.parent} and {run.task.get(key)} in {run.path.parent}."
                )
        if first.header["score"] != run.header["score"]:
            raise RunError(
                f"Runs with different scores cannot be compared: {first.header['score']} in {first.path.parent}, "
                f"{run.header['score']} in {run.path.parent}."
            )


def _length(run: Run) -> int:
    """Return the number of steps of a run that has ended, else the planned number."""
    if run.status == "done" and run.epochs:
        return run.epochs[-1]["steps"]
    return run.header.get("run", {}).get("steps") or run.header["epochs"] * run.header["steps_per_epoch"]


def _lengths(runs: Sequence[JudgedRun]) -> tuple[str, ...]:
    ends = sorted({run.steps for run in runs if run.status == "done"})
    if len(ends) < 2:
        return ()
    return (f"The runs have different lengths, {ends[0]} to {ends[-1]} steps; each score is the last value.",)
