"""Settings of a training run: plain data from the command line or a TOML file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dashpot.constraints import (
    FLAG,
    NONNEGATIVE,
    POSITIVE,
    Constraint,
    Interval,
    OneOf,
    Optional,
    check,
    shown,
    unknown,
)
from dashpot.errors import ArgumentError
from dashpot.runs.choices import COUNT, PRECISIONS, STRATEGIES, THREADS
from dashpot.runs.files import write_text
from dashpot.utils.durations import parse_duration
from dashpot.utils.format import reason, typed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

LOGS = {"csv": "log.csv", "jsonl": "log.jsonl", "tensorboard": "tensorboard", "wandb": "wandb"}
"""Kinds of logs in the folder of a run, and their paths relative to this folder."""
LOG_NAMES = (*LOGS, "trackio")
"""Kinds of logs."""
TRACKERS = ("wandb", "trackio")
"""Kinds of logs in experiment trackers, outside of the folder of a run."""
UNSET = object()
LISTS = ("no_decay", "freeze", "log")
"""Settings that are comma-separated on the command line and lists of strings in files."""
TABLES = ("task_options", "set")
"""Settings that are tables of names and values."""
MADE_BY = "made_by"
"""Table of a settings file with its provenance; ignored by `read_settings`."""


def setting(default: Any, allowed: Constraint | None, text: str, parse: Callable[[str], Any] | None = None) -> Any:
    """Return a dataclass field for a setting, with its default, allowed values and help text on the command line.

    `parse` converts a string on the command line or in a settings file; it raises `ValueError`.
    """
    return dataclasses.field(default=default, metadata={"allowed": allowed, "help": text, "parse": parse})


def table(text: str) -> Any:
    """Return a dataclass field for a setting that is a table of names and values."""
    return dataclasses.field(default_factory=dict, metadata={"allowed": None, "help": text, "parse": None})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run; every field is an option of `dashpot train` and a key of the settings file.

    Raises:
        ArgumentError: If a value is out of range or has the wrong type.

    >>> run = Settings(task="digits", optimizer="adamw", epochs=2)
    >>> run.precision, run.accumulate, run.lr is None
    ('fp32', 1, True)
    >>> Settings(task="digits", optimizer="adamw", epochs=0)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: train: epochs must be None or an integer in [1, inf), got 0.
    """

    task: str = setting(dataclasses.MISSING, None, "Name of a task (see `dashpot tasks`), or path/to/file.py:function.")
    optimizer: str = setting(
        dataclasses.MISSING,
        None,
        "Name of a method (see `dashpot methods`), torch.optim.NAME, or path/to/file.py:NAME.",
    )
    lr: float | None = setting(
        None, Optional(NONNEGATIVE), "Base learning rate; defaults to the one tuned for the task."
    )
    schedule: str | None = setting(
        None, None, "Schedule over the whole run, e.g. cosine or warmup-cosine:warmup=0.05 (see `dashpot schedules`)."
    )
    batch_size: int | None = setting(None, Optional(COUNT), "Batch size; defaults to the task's.")
    epochs: int | None = setting(None, Optional(COUNT), "Number of epochs; defaults to the task's, without --steps.")
    steps: int | None = setting(None, Optional(COUNT), "Number of optimizer steps, as an alternative to --epochs.")
    evaluate_every: int | None = setting(
        None, Optional(COUNT), "Steps between evaluations; defaults to one pass over the data."
    )
    max_time: float | None = setting(
        None,
        Optional(POSITIVE),
        "Time limit in seconds, or e.g. 90s, 30m or 1h30m; the run then ends with an evaluation and a checkpoint.",
        parse_duration,
    )
    seed: int = setting(0, Interval(0, 2**32, "left", integer=True), "Seed of weights, batch order and training noise.")
    precision: str = setting("fp32", PRECISIONS, "fp32, or bf16 or fp16 for autocast with float32 weights.")
    accumulate: int = setting(1, COUNT, "Number of batches per optimizer step (gradient accumulation).")
    max_norm: float | None = setting(None, Optional(POSITIVE), "Clip the gradients to this global norm.")
    clip_value: float | None = setting(
        None, Optional(POSITIVE), "Clip the elements of the gradients to this absolute value."
    )
    no_decay: tuple[str, ...] = setting(
        (),
        None,
        "Parameters without weight decay, comma-separated: norms, bias, embeddings, or patterns of names.",
    )
    freeze: tuple[str, ...] = setting(
        (), None, "Patterns of names of frozen parameters, comma-separated; PATTERN:N freezes for the first N epochs."
    )
    frozen_batchnorm: str = setting(
        "train", OneOf(("train", "eval")), "Mode of batch-norm layers whose parameters are frozen."
    )
    nonfinite: str = setting(
        "stop", OneOf(("stop", "skip")), "On non-finite gradients: stop the run, or skip the step."
    )
    ema: float | None = setting(
        None, Optional(Interval(0, 1)), "Decay of an exponential moving average of the weights, used for evaluation."
    )
    patience: int | None = setting(
        None, Optional(COUNT), "Stop after this many consecutive epochs without improvement in the evaluation."
    )
    checkpoint_every: int | None = setting(
        None, Optional(COUNT), "Steps between checkpoints, in addition to one after every epoch."
    )
    keep: int = setting(3, COUNT, "Number of latest checkpoints to keep, in addition to the best one.")
    log: tuple[str, ...] = setting((), None, f"Logs to write, comma-separated: {', '.join(LOG_NAMES)}.")
    watch: bool = setting(
        False, FLAG, "Measure the run beside what theory predicts, for `dashpot watch`; the training is unaffected."
    )
    watch_budget: float = setting(
        0.03, Interval(0, 1, "right"), "Largest share of the run's time that --watch may take."
    )
    devices: int = setting(1, Interval(1, 1024, "both", integer=True), "Number of processes, each with its own device.")
    strategy: str = setting("auto", STRATEGIES, "Distributed strategy: ddp, or fsdp (sharded weights).")
    find_unused_parameters: bool = setting(
        False, FLAG, "With ddp, true accepts parameters on which the loss does not depend, at a cost per step.", typed
    )
    accelerator: str = setting("auto", OneOf(("auto", "cpu", "cuda", "mps")), "Device type: auto, cpu, cuda or mps.")
    threads: int | None = setting(None, THREADS, "Number of torch threads.")
    data_dir: str | None = setting(None, None, "First folder to search for data sets.")
    task_options: Mapping[str, Any] = table("Options NAME=VALUE of the task, e.g. shuffle=false.")
    set: Mapping[str, Any] = table("Optimizer arguments NAME=VALUE, e.g. weight_decay=5e-4 or betas=0.9,0.99.")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, allowed = getattr(self, item.name), item.metadata["allowed"]
            if allowed is not None:
                check("train", item.name, value, allowed)
        if self.epochs is not None and self.steps is not None:
            raise ArgumentError(f"train: give either epochs or steps, got epochs={self.epochs} and steps={self.steps}.")
        for name in ("task", "optimizer", "schedule", "data_dir"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in ("schedule", "data_dir")):
                raise ArgumentError(f"train: {name} must be a string, got {shown(value)}.")
        self._check_lists()
        self._check_tables()

    def _check_lists(self) -> None:
        for name in LISTS:
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) and item for item in value):
                raise ArgumentError(f"train: {name} must be a list of names, got {shown(value)}.")
        self.frozen()  # checks the numbers of epochs
        for log in self.log:
            if log not in LOG_NAMES:
                raise unknown("log", log, LOG_NAMES)
        if len(set(self.log)) < len(self.log):
            raise ArgumentError(f"train: log must not repeat a name, got {', '.join(self.log)}.")

    def _check_tables(self) -> None:
        for name, noun in (("set", "optimizer arguments"), ("task_options", "task options")):
            if not isinstance(getattr(self, name), Mapping):
                raise ArgumentError(f"train: {name} must be a table of {noun}, got {shown(getattr(self, name))}.")
        if "data_dir" in self.task_options:
            raise ArgumentError("train: task_options must not contain data_dir; use the setting data_dir.")
        size = self.task_options.get("batch_size", self.batch_size)
        if self.batch_size not in (None, size):
            raise ArgumentError(
                f"train: batch_size must be given once, got {self.batch_size} and, in task_options, {size}."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Create settings from a mapping of names to values.

        Raises:
            ArgumentError: If a name is unknown, task or optimizer is missing, or a value is out of range.

        >>> Settings.of({"task": "digits", "optimiser": "adamw"})
        Traceback (most recent call last):
        dashpot.errors.ArgumentError: Unknown setting 'optimiser': did you mean 'optimizer'? Known: ...
        """
        for name in given:
            if name not in setting_names():
                raise unknown("setting", name, setting_names())
        for name, hint in (("task", "digits (see `dashpot tasks`)"), ("optimizer", "adamw (see `dashpot methods`)")):
            if name not in given:
                raise ArgumentError(f"train: {name} is missing; give one, such as {hint}.")
        return cls(**given)

    def frozen(self) -> list[tuple[str, int | None]]:
        """Return the patterns of frozen parameters, each with its number of epochs; None means all epochs.

        Raises:
            ArgumentError: If a number of epochs is not a positive integer.

        >>> Settings(task="digits", optimizer="sgd", freeze=("0.*", "3.weight:2")).frozen()
        [('0.*', None), ('3.weight', 2)]
        """
        found: list[tuple[str, int | None]] = []
        for item in self.freeze:
            pattern, colon, epochs = item.partition(":")
            if not pattern or (colon and not (epochs.isdecimal() and int(epochs) > 0)):
                raise ArgumentError(f"train: freeze must be PATTERN or PATTERN:EPOCHS, such as 0.*:2, got {item!r}.")
            found.append((pattern, int(epochs) if colon else None))
        return found

    def options_of_task(self) -> dict[str, Any]:
        """Return the options of the task, including the batch size."""
        size = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return {**self.task_options, **size}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are not None as plain data, in field order."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: _convert(value, list) for name, value in values.items() if value is not None}


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings."""
    return tuple(item.name for item in dataclasses.fields(Settings))


def read_settings(path: Path) -> dict[str, Any]:
    """Read a settings file into a dict for `Settings.of`, with lists converted to tuples.

    Raises:
        ArgumentError: If the file cannot be read, is not valid TOML, or has an unknown name.
    """
    given = _read(path)
    given.pop(MADE_BY, None)
    for name in given:
        if name not in setting_names():
            raise unknown(f"setting in {path}:", name, setting_names())
    return {
        name: _convert(value, tuple, _none_from_text if name in TABLES else partial(_parsed, name))
        for name, value in given.items()
    }


def _parsed(name: str, value: Any) -> Any:
    """Return the value of a setting in a file, parsed if the setting has a parser and the value is a string."""
    [parse] = [item.metadata["parse"] for item in dataclasses.fields(Settings) if item.name == name]
    if parse is None or not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise ArgumentError(f"train: {name} {error}") from error


def read_made_by(path: Path) -> dict[str, Any]:
    """Read the provenance table of a settings file; return an empty dict if the file has no such table.

    Raises:
        ArgumentError: If the file cannot be read or is not valid TOML.
    """
    table = _read(path).get(MADE_BY)
    return table if isinstance(table, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"Cannot read the settings file {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # invalid UTF-8, invalid syntax, or deep nesting
        raise ArgumentError(f"The settings file {path} is not valid TOML: {reason(error)}.") from error


def write_settings(path: Path, settings: Settings, made_by: Mapping[str, Any]) -> None:
    """Write a settings file atomically.

    Raises:
        RunError: If the file cannot be written.
    """
    import tomli_w

    # Tables come last: in TOML, keys after a table header belong to that table.
    plain = settings.to_dict()
    values = {name: value for name, value in plain.items() if name not in TABLES}
    tables = {name: _convert(plain[name], list, _none_to_text) for name in TABLES if plain[name]}
    head = f"# `dashpot train --config {path.name}` repeats this run; [{MADE_BY}] is ignored.\n"
    write_text(path, head + tomli_w.dumps({**values, **tables, MADE_BY: dict(made_by)}))


def parse_value(text: str) -> Any:
    """Parse a value from the command line: a number, true, false, none, a string, or a comma-separated tuple.

    >>> [parse_value(text) for text in ("5e-4", "3", "true", "0.9,0.99", "coupled")]
    [0.0005, 3, True, (0.9, 0.99), 'coupled']
    """
    if "," in text:
        return tuple(parse_value(part) for part in text.split(",") if part)
    return None if is_none(text) else typed(text)


def is_none(text: str) -> bool:
    """Return whether `text` denotes None on the command line or in a table of a settings file (TOML has no null)."""
    return text.lower() in ("none", "null")


def diff_settings(saved: Settings, given: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each given setting that differs from the saved setting.

    >>> diff_settings(Settings(task="digits", optimizer="sgd", epochs=6), {"epochs": 8, "optimizer": "sgd"})
    ['epochs: saved 6, given 8']
    """
    found = []
    for name, value in given.items():
        own = getattr(saved, name)
        if name in TABLES:
            pairs = [(key, own.get(key, UNSET), item) for key, item in value.items()]
        else:
            pairs = [(name, *(UNSET if side is None else side for side in (own, value)))]
        found += [f"{key}: saved {_text(old)}, given {_text(new)}" for key, old, new in pairs if old != new]
    return found


def _text(value: Any) -> str:
    return "not set" if value is UNSET else f"{_none_to_text(_convert(value, list))}"


def _identity(value: Any) -> Any:
    return value


def _convert(value: Any, sequence: Callable[[Iterable[Any]], Any], convert: Callable[[Any], Any] = _identity) -> Any:
    """Convert nested tuples and lists with `sequence`, and their elements with `convert`."""
    if isinstance(value, Mapping):
        return {key: _convert(item, sequence, convert) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return sequence(_convert(item, sequence, convert) for item in value)
    return convert(value)


def _none_from_text(value: Any) -> Any:
    return None if isinstance(value, str) and is_none(value) else value


def _none_to_text(value: Any) -> Any:
    return "none" if value is None else value
