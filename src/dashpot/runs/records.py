"""Records: one JSON-lines file a run, written as the run goes, readable after any interruption.

Lines, in order, each an object with a `kind`:

* `header`: format version, entry, seed, optimizer (call, recipe), task with its settings, versions, machine, command;
* `steps`: loss and learning rate of every step of one epoch (`lr` is one number where it did not change);
* `epoch`: steps so far, means of the train and evaluation phase, CPU and wall seconds of training;
* `resumed`: where an interrupted run went on, with which versions and settings of the task;
* `end`: `status` is `done` or `diverged`, the latter with the step and its loss.

Numbers that are not finite are written as the strings "nan", "inf" and "-inf", so every line is strict JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.utils.strict_json import encode

__all__ = ["FORMAT", "Divergence", "Epoch", "Run", "encode", "epoch_lines", "read_run"]

FORMAT = 1


@dataclass(frozen=True)
class Divergence:
    """The step (0 for the first of the run) whose loss was not finite, and what it was: `"nan"` or `"inf"`."""

    step: int
    label: str


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured.

    `number` counts from 1, `steps` from the start of the run. `train` holds running means taken while the weights
    change, `evaluation` the means after the epoch (empty without an evaluation set, and for a diverged epoch).
    `loss` and `lr` have one entry a step; `lr` is the rate the step used. `cpu_s` and `wall_s` are seconds of training,
    evaluation left out.
    """

    number: int
    steps: int
    train: dict[str, float]
    evaluation: dict[str, float]
    loss: list[float]
    lr: list[float]
    cpu_s: float
    wall_s: float
    diverged: Divergence | None = None


@dataclass
class Run:
    """One run as its record tells it; `end` is None while it is unfinished."""

    path: Path
    header: dict[str, Any]
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    resumed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def task(self) -> dict[str, Any]:
        """The task's settings: those of the header, or of where the run last went on."""
        known = [line["task"] for line in self.resumed if "task" in line]
        return known[-1] if known else self.header["task"]["config"]

    @property
    def entry(self) -> str:
        """Name of the method as compared."""
        return self.header["entry"]

    @property
    def seed(self) -> int:
        """Seed of the initial weights, the batch order and the training noise."""
        return self.header["seed"]

    @property
    def status(self) -> str:
        """`done`, `diverged` or `unfinished`."""
        return "unfinished" if self.end is None else self.end["status"]


def epoch_lines(epoch: Epoch) -> str:
    """The `steps` and `epoch` lines of one epoch; a diverged epoch has no means, so only its steps and its end."""
    steps = {
        "kind": "steps",
        "first": epoch.steps - len(epoch.loss),
        "loss": epoch.loss,
        "lr": epoch.lr[0] if len(set(epoch.lr)) == 1 else epoch.lr,
    }
    if epoch.diverged is not None:
        end = {"kind": "end", "status": "diverged", "step": epoch.diverged.step, "loss": epoch.diverged.label}
        return encode(steps) + "\n" + encode(end)
    measured = {
        "kind": "epoch",
        "epoch": epoch.number,
        "steps": epoch.steps,
        "train": epoch.train,
        "eval": epoch.evaluation,
        "cpu_s": round(epoch.cpu_s, 4),
        "wall_s": round(epoch.wall_s, 4),
    }
    return encode(steps) + "\n" + encode(measured)


def read_run(path: Path, *, advice: str = "delete it to repeat that run") -> Run:
    """Read one record; a last line that an interruption cut short is left out.

    Args:
        path: the record.
        advice: what a user can do where it is damaged.

    Raises:
        RunError: the file cannot be read, is damaged before its last line, or is of another format.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RunError(f"Cannot read the record {path}: {error.strerror}.") from error
    run = Run(path, {})
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            _take(run, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"The record {path} is damaged at line {number}; {advice}.") from error
    if not run.header:
        raise RunError(f"The record {path} is damaged: it has no header; {advice}.")
    return run


REQUIRED = ("entry", "seed")
"""What names a run."""


def _take(run: Run, line: dict[str, Any]) -> None:
    """Add one line to `run`."""
    kind = line["kind"]
    if (kind == "header") == bool(run.header) or run.end is not None:
        raise ValueError("the header is not the first line, or the end not the last")
    if kind == "header":
        _check_format(run.path, line["format"])
        missing = [key for key in REQUIRED if key not in line]
        if missing:
            raise ValueError(f"the header lacks {', '.join(missing)}")
        run.header = line
    elif kind == "steps":
        if line["first"] != len(run.loss):
            raise ValueError("steps out of order")
        run.loss += [float(loss) for loss in line["loss"]]
        run.lr += line["lr"] if isinstance(line["lr"], list) else [line["lr"]] * len(line["loss"])
    elif kind == "epoch":
        for phase in ("train", "eval"):
            line[phase] = {name: float(value) for name, value in line[phase].items()}
        run.epochs.append(line)
    elif kind == "end":
        run.end = line
    elif kind == "resumed":
        run.resumed.append(line)
    else:
        raise ValueError(f"unknown kind {kind!r}")


def _check_format(path: Path, found: Any) -> None:
    if found != FORMAT:
        raise RunError(f"The record {path} is of format {found!r}; this version of dashpot reads format {FORMAT}.")
