"""Result of a search over settings, as a table and as commands that use the best settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dashpot.comparison.item_keys import trial_keys
from dashpot.comparison.study_items import selected_entry, selected_trial
from dashpot.errors import RunError
from dashpot.runs.method_specs import parse_methods
from dashpot.runs.search_space import settings_of
from dashpot.runs.study import Study
from dashpot.runs.table import text_table
from dashpot.scheduling.work_items import Outcome
from dashpot.utils.format import counted

SHOWN = 5
"""Number of best trials in the table; the default settings are always shown."""


def tuning_text(study: Study, outcomes: Mapping[str, Outcome]) -> str:
    """Return a table of the best trials of a study of one method, and commands that use the best settings.

    Args:
        study: Finished study of one method, made by `StudyNames`.
        outcomes: Outcomes of its trials.

    Raises:
        RunError: If no trial has been done.
    """
    name = study.entries[0].name
    best = selected_trial(study, name, outcomes)
    keys = trial_keys(study.settings(), name)
    done = [key for key in keys if outcomes[key].status == "done" and outcomes[key].score is not None]
    if not done or best is None:
        states = ", ".join(sorted({outcomes[key].status for key in keys}))
        raise RunError(f"No trial of {name} has a score ({states}); try a lower rate, such as --method {name}:lr=1e-5.")
    score = study.settings()["score"]
    sign = -1.0 if score["direction"] == "max" else 1.0
    ranked = sorted(done, key=lambda key: (sign * (outcomes[key].score or 0.0), keys.index(key)))
    shown = ranked[:SHOWN] + [key for key in keys[:1] if key not in ranked[:SHOWN]]
    names = list(settings_of(outcomes[keys[0]].values))
    split = "validation" if score["phase"] == "eval" else "train"
    header = ["trial", *names, f"{split} {score['metric']}"]
    table = text_table(header, [_row(key, names, outcomes[key]) for key in shown])
    failed = len(keys) - len(done)
    count = f"{counted(len(keys), 'trial')}{f', {failed} of them without a score' if failed else ''}"
    return f"{table}\n\n{count}. Best: trial {best}.\n{_commands(study, outcomes)}"


def _row(key: str, names: list[str], outcome: Outcome) -> list[str]:
    values = settings_of(outcome.values)
    number = key.rpartition("/")[2]
    score = outcome.status if outcome.score is None else f"{outcome.score:.4g}"
    label = f"{number} (default)" if number == "0" else number
    return [label, *(f"{values[name]:.4g}" if name in values else "-" for name in names), score]


def _commands(study: Study, outcomes: Mapping[str, Outcome]) -> str:
    """Return the commands that train and compare with the best settings."""
    [entry] = study.entries
    given: Mapping[str, Any] = study.names or {}
    spec = parse_methods(given["methods"])[0]
    best = selected_entry(study, entry.name, outcomes)
    common = ["--epochs", str(study.epochs)]
    if given.get("task_options"):
        common += ["--task-options", *_pairs(given["task_options"])]
    if given.get("no_decay"):
        common += ["--no-decay", ",".join(given["no_decay"])]
    if given.get("data_dir"):
        common += ["--data-dir", given["data_dir"]]
    schedule = ["--schedule", best.schedule_name] if best.schedule_name else []
    settings = _pairs(best.options)
    train = ["dashpot", "train", given["task"], "--optimizer", spec.method, "--lr", f"{best.lr!r}"]
    train += (["--set", *settings] if settings else []) + schedule + common
    other = "adamw" if spec.method == "sgd" else "sgd"
    compare = ["dashpot", "compare", given["task"], "--methods", f"{given['methods']},{other}"]
    compare += ["--budget", str(study.budget)] + (["--set", *_pairs(given["options"])] if given.get("options") else [])
    compare += (["--schedule", given["schedule"]] if given.get("schedule") else []) + common
    return f"Train: {shlex.join(train)}\nCompare, with equal tuning: {shlex.join(compare)}"


def _pairs(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_text(value)}" for name, value in options.items()]


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, (bool, type(None))) else f"{value}"
