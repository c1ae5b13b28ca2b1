"""Statements of the protocol and of the environment of a study, for reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dashpot.comparison.results import JudgedRun, ScoreRule
from dashpot.runs.records import Run
from dashpot.utils.format import counted, duration, ranges

SAMPLERS = {
    "qmc": "a scrambled Sobol sequence",
    "tpe": "Optuna's TPE sampler",
    "grid": "evenly spaced values",
}
PRUNERS = {
    "none": "none",
    "median": "a trial ends early if its score is worse than the median of the others at the same step",
}
VERDICT_DATA = {
    "test": "verdict on test data, evaluated once at the end; tuning and target on validation data",
    "validation": "verdict, tuning and target on validation data; there are no test data",
    "train": "verdict, tuning and target on training data; there are no other data",
}

Statements = tuple[tuple[str, str], ...]


def protocol(settings: Mapping[str, Any], rule: ScoreRule) -> Statements:
    """Return the statements on data, length, seeds, tuning and sensitivity of a study.

    Args:
        settings: Settings in `study.json`.
        rule: Metric that ranks the methods.
    """
    return (
        ("Data", VERDICT_DATA[rule.split]),
        ("Length", f"{counted(settings['epochs'], 'epoch')}, {settings['steps']} steps"),
        ("Evaluation", f"at step 0 and every {counted(settings['evaluate_every'], 'step')}"),
        ("Seeds", _seeds(settings)),
        *_target(rule),
        *_tuning(settings, rule),
        *_rates(settings),
    )


def _seeds(settings: Mapping[str, Any]) -> str:
    seeds = ranges(sorted(settings["seeds"]))
    plan = ""
    if settings["looks"]:
        looks = ", ".join(map(str, settings["looks"]))
        plan = f"; analysed after {looks} seeds with a shared error rate, stopped when every pair is decided"
    return f"{seeds}, fixed before the study{plan}; equal initial weights, batches and noise for all methods of a seed"


def _target(rule: ScoreRule) -> Iterator[tuple[str, str]]:
    if rule.target is not None:
        yield "Target", f"{rule.metric} {rule.target:g}, fixed before the study"
    if rule.margin is not None:
        yield "Margin", f"differences in {rule.metric} below {rule.margin:g} are irrelevant"


def _tuning(settings: Mapping[str, Any], rule: ScoreRule) -> Iterator[tuple[str, str]]:
    tuning = settings["tuning"]
    if not tuning["budget"]:
        yield "Tuning", "none: given settings or the defaults of dashpot for the task"
        return
    points = SAMPLERS.get(tuning["sampler"], tuning["sampler"])
    points = points if tuning["sampler"] == "grid" else f"the given settings, then {points}"
    yield (
        "Tuning",
        f"{counted(tuning['budget'], 'trial')} per method with seed {tuning['seed']}: {points}; selected by the final "
        f"{rule.metric} on validation data",
    )
    yield "Pruning", PRUNERS.get(tuning["pruner"], str(tuning["pruner"]))
    for space, methods in _spaces(tuning["spaces"]).items():
        yield f"Search space of {', '.join(methods)}", space


def _spaces(spaces: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the methods of each search space."""
    found: dict[str, list[str]] = {}
    for method, space in spaces.items():
        parts = [f"{name} {_range(item)}" for name, item in space.items()]
        found.setdefault(", ".join(parts) or "nothing to tune", []).append(method)
    return found


def _range(item: Mapping[str, Any]) -> str:
    return f"{item['low']:g} to {item['high']:g}{' (log)' if item['log'] else ''}"


def _rates(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rates = settings["rates"]
    if rates["seeds"] and rates["factors"]:
        factors = ", ".join(f"{factor:g}" for factor in rates["factors"])
        yield "Sensitivity", f"learning rate times {factors}, seeds {ranges(sorted(rates['seeds']))}"


def facts(config: Mapping[str, Any], records: Sequence[Run], runs: Sequence[JudgedRun]) -> Statements:
    """Return the statements on task, times, versions and machines; values that differ between runs are all listed.

    Args:
        config: Settings of the task.
        records: Records of all runs, at least one.
        runs: Judged runs, for the time of training.
    """
    headers = [run.header for run in records]
    sizes = {header["task"].get("parameters") for header in headers} - {None}
    parts = [*(f"{size} parameters" for size in sorted(sizes)), *(f"{key} {_plain(config[key])}" for key in config)]
    versions = {", ".join(f"{name} {version}" for name, version in header["versions"].items()) for header in headers}
    machines = {
        "{processor}, {threads} of {cores} cores used, {system}".format(**header["machine"]) for header in headers
    }
    wall = sum(run.wall_s or 0.0 for run in runs)
    return (
        ("Task", "; ".join(parts)),
        ("Training time", f"{duration(wall)} for the judged runs, without evaluation"),
        ("Versions", " | ".join(sorted(versions))),
        ("Machine", " | ".join(sorted(machines))),
        ("Started", min(header["started"] for header in headers)),
    )


def _plain(value: Any) -> str:
    """Return a setting as text, with checksums shortened to 12 digits."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)
