"""The settings of a training run: plain data, written on a command line or in a TOML file, that repeat the run."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashpot.constraints import NONNEGATIVE, POSITIVE, Constraint, Interval, OneOf, Optional, check, unknown
from dashpot.errors import ArgumentError
from dashpot.runs.files import write_text
from dashpot.training.distributed.engine import PRECISIONS, STRATEGIES
from dashpot.utils.format import typed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

__all__ = [
    "LOGS",
    "MADE_BY",
    "Settings",
    "diff_settings",
    "is_none",
    "parse_value",
    "read_made_by",
    "read_settings",
    "setting_names",
    "write_settings",
]

COUNT = Interval(1, math.inf, "left", integer=True)
THREADS = Optional(Interval(1, max(64, 4 * (os.cpu_count() or 1)), "both", integer=True))
"""Far above what helps; torch's thread library crashes on absurd numbers."""
LOGS = {"csv": "log.csv", "jsonl": "log.jsonl", "tensorboard": "tensorboard"}
"""The logs, and where each is in a run's folder."""
ABSENT = object()
MADE_BY = "made_by"
"""The table of a settings file that tells who wrote it; it is not read."""


def setting(default: Any, allowed: Constraint | None, text: str) -> Any:
    """A field with its allowed values and the sentence that explains it on the command line."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "help": text})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What makes a run; every field is an option of `dashpot train` and a key of its settings file.

    Raises:
        ArgumentError: a value is out of range or of the wrong type.

    >>> run = Settings(task="digits", optimizer="adamw", epochs=2)
    >>> run.precision, run.accumulate, run.lr is None
    ('fp32', 1, True)
    >>> Settings(task="digits", optimizer="adamw", epochs=0)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: train: epochs must be None or an integer in [1, inf), got 0.
    """

    task: str = setting(dataclasses.MISSING, None, "Name of a task (see `dashpot tasks`), or path/to/file.py:function.")
    optimizer: str = setting(dataclasses.MISSING, None, "Name of a method (see `dashpot methods`).")
    lr: float | None = setting(None, Optional(NONNEGATIVE), "Base learning rate; tuned for the task by default.")
    schedule: str | None = setting(None, None, "Learning-rate schedule over the whole run, e.g. cosine or 1cycle.")
    epochs: int | None = setting(None, Optional(COUNT), "Epochs; the task's own number by default.")
    seed: int = setting(
        0, Interval(0, 2**32, "left", integer=True), "Of the weights, the batch order and the training noise."
    )
    precision: str = setting("fp32", PRECISIONS, "fp32, or bf16 or fp16: autocast, with weights in float32.")
    accumulate: int = setting(1, COUNT, "Batches whose gradients make one step.")
    max_norm: float | None = setting(None, Optional(POSITIVE), "Scale the gradients down to this norm.")
    clip_value: float | None = setting(None, Optional(POSITIVE), "Cut every element of a gradient to this size.")
    nonfinite: str = setting(
        "stop", OneOf(("stop", "skip")), "What to do where gradients are not finite: stop the run, or skip that step."
    )
    ema: float | None = setting(
        None, Optional(Interval(0, 1)), "Decay of an average of the weights, which evaluation then uses."
    )
    patience: int | None = setting(
        None, Optional(COUNT), "Stop once that many epochs in a row have not improved the evaluation."
    )
    checkpoint_every: int | None = setting(
        None, Optional(COUNT), "Steps between two checkpoints, beside the one after every epoch."
    )
    keep: int = setting(3, COUNT, "Checkpoints to keep, beside the best one.")
    log: tuple[str, ...] = setting((), None, "Logs to write, separated by commas: csv, jsonl, tensorboard.")
    devices: int = setting(1, Interval(1, 1024, "both", integer=True), "Processes, each with a device of its own.")
    strategy: str = setting("auto", STRATEGIES, "How processes share a model: ddp, or fsdp (each holds a part).")
    accelerator: str = setting("auto", OneOf(("auto", "cpu", "cuda", "mps")), "auto, cpu, cuda or mps.")
    threads: int | None = setting(None, THREADS, "Threads torch computes with.")
    data_dir: str | None = setting(None, None, "Folder to look for data sets in first.")
    set: Mapping[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"allowed": None, "help": "NAME=VALUE of the optimizer, e.g. weight_decay=5e-4 or betas=0.9,0.99."},
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, allowed = getattr(self, item.name), item.metadata["allowed"]
            if allowed is not None:
                check("train", item.name, value, allowed)
        for name in ("task", "optimizer", "schedule", "data_dir"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in ("schedule", "data_dir")):
                raise ArgumentError(f"train: {name} must be a string, got {value!r}.")
        if not isinstance(self.log, tuple):
            raise ArgumentError(f"train: log must be a list of names, got {self.log!r}.")
        for log in self.log:
            if log not in LOGS:
                raise unknown("log", log, LOGS)
        if len(set(self.log)) < len(self.log):
            raise ArgumentError(f"train: log must name each log once, got {', '.join(self.log)}.")
        if not isinstance(self.set, Mapping):
            raise ArgumentError(f"train: set must be a table of the optimizer's settings, got {self.set!r}.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From the values that are given.

        Raises:
            ArgumentError: a name is unknown, task or optimizer is missing, or a value is out of range.

        >>> Settings.of({"task": "digits", "optimiser": "adamw"})
        Traceback (most recent call last):
        dashpot.errors.ArgumentError: Unknown setting 'optimiser': did you mean 'optimizer'? Known: ...
        """
        for name in given:
            if name not in setting_names():
                raise unknown("setting", name, setting_names())
        for name, hint in (("task", "digits (see `dashpot tasks`)"), ("optimizer", "adamw (see `dashpot methods`)")):
            if name not in given:
                raise ArgumentError(f"train: the {name} is missing; name one, such as {hint}.")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Every setting that is not None, as plain data in the order of the fields."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None}


def setting_names() -> tuple[str, ...]:
    """The names of all settings."""
    return tuple(item.name for item in dataclasses.fields(Settings))


def read_settings(path: Path) -> dict[str, Any]:
    """What a settings file says, lists as tuples; `Settings.of` takes it.

    Raises:
        ArgumentError: it cannot be read, is no TOML, or holds a name that is no setting.
    """
    given = _read(path)
    given.pop(MADE_BY, None)
    for name in given:
        if name not in setting_names():
            raise unknown(f"setting in {path}:", name, setting_names())
    return {name: _mapped(value, tuple, _read_none if name == "set" else _same) for name, value in given.items()}


def read_made_by(path: Path) -> dict[str, Any]:
    """The table of a settings file that tells who wrote it; empty where there is none.

    Raises:
        ArgumentError: the file cannot be read, or is no TOML.
    """
    table = _read(path).get(MADE_BY)
    return table if isinstance(table, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"Cannot read the settings file {path}: {error.strerror or error}.") from error
    except ValueError as error:  # of the text's encoding, or of its syntax
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ArgumentError(f"The settings file {path} is no TOML: {reason}.") from error


def write_settings(path: Path, settings: Settings, made_by: Mapping[str, Any]) -> None:
    """Write the file that repeats a run, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    import tomli_w

    # Tables come last, or what follows them would be theirs.
    plain = settings.to_dict()
    values = {name: value for name, value in plain.items() if name != "set"}
    tables = {"set": _mapped(plain["set"], list, _write_none)} if plain["set"] else {}
    head = f"# `dashpot train --config {path.name}` repeats this run; [{MADE_BY}] is not read.\n"
    write_text(path, head + tomli_w.dumps({**values, **tables, MADE_BY: dict(made_by)}))


def parse_value(text: str) -> Any:
    """A value as typed on a command line: a number, true, false, none, several of them with commas, or a word.

    >>> [parse_value(text) for text in ("5e-4", "3", "true", "0.9,0.99", "coupled")]
    [0.0005, 3, True, (0.9, 0.99), 'coupled']
    """
    if "," in text:
        return tuple(parse_value(part) for part in text.split(",") if part)
    return None if is_none(text) else typed(text)


def is_none(text: str) -> bool:
    """Whether a word stands for None, on a command line or among the optimizer's own in a file: TOML has no null."""
    return text.lower() in ("none", "null")


def diff_settings(there: Settings, given: Mapping[str, Any]) -> list[str]:
    """The settings that are given and differ from a run's, one phrase each.

    >>> diff_settings(Settings(task="digits", optimizer="sgd", epochs=6), {"epochs": 8, "optimizer": "sgd"})
    ['epochs is 6 there and 8 here']
    """
    found = []
    for name, value in given.items():
        own = getattr(there, name)
        if name == "set":
            pairs = [(key, own.get(key, ABSENT), item) for key, item in value.items()]
        else:
            pairs = [(name, *(ABSENT if end is None else end for end in (own, value)))]
        found += [f"{key} is {_text(old)} there and {_text(new)} here" for key, old, new in pairs if old != new]
    return found


def _text(value: Any) -> str:
    return "not set" if value is ABSENT else f"{_write_none(_plain(value))}"


def _plain(value: Any) -> Any:
    """`value` with tuples as lists."""
    return _mapped(value, list, _same)


def _mapped(value: Any, kind: Callable[[Iterable[Any]], Any], change: Callable[[Any], Any]) -> Any:
    """`value` with every tuple and list as that kind, and everything in them changed."""
    if isinstance(value, Mapping):
        return {key: _mapped(item, kind, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return kind(_mapped(item, kind, change) for item in value)
    return change(value)


def _same(value: Any) -> Any:
    return value


def _read_none(value: Any) -> Any:
    return None if isinstance(value, str) and is_none(value) else value


def _write_none(value: Any) -> Any:
    return "none" if value is None else value
