"""Records of runs: JSON Lines files, written line by line during a run and readable after any interruption.

Each line is an object with a `kind`. The lines are, in order:

* `header`: format version, entry, seed, optimizer (call, recipe), task and its settings, versions, machine, command;
  in a comparison also the key of its item and the tuned settings, `values`;
* `initial`: evaluation of the untrained model, in a comparison;
* `steps`: loss and learning rate of every step of an epoch (`lr` is a single number if it was constant);
* `epoch`: number of steps so far, means of training and evaluation, CPU and wall seconds of training;
* `resumed`: position at which an interrupted run was resumed, with the versions and task settings at that time;
* `thinned`: in place of all `steps` lines, mean losses of runs of steps, numbered by the last step of each;
* `end`: `status`, which is `done`, `diverged`, `failed` or `pruned`; if it is `diverged`, also the step and the loss;
  if it is `failed`, the error. In a comparison also the evaluation on the test data (of the untrained model if the run
  has diverged), the memory, the size of the optimizer state, and the CPU and wall seconds of the whole training.

In a comparison, in a run whose length is given in steps, or with `evaluate_every`, an epoch is the interval between two
evaluations.
Non-finite numbers are written as the strings "nan", "inf" and "-inf", so that every line is strict JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashpot.constraints import Interval, OneOf
from dashpot.errors import RunError
from dashpot.utils.schema import (
    COUNT,
    PLAIN,
    POSITIVE_COUNT,
    SECONDS,
    TEXT,
    ListOf,
    MapOf,
    Maybe,
    Real,
    Record,
    Rule,
    SchemaError,
    Text,
    require,
)
from dashpot.utils.strict_json import decode, encode

FORMAT = 1

NAME = Text(r"[\w-][\w.-]*", "a name of letters, digits, '-', '_' and '.'")
"""Names of entries, which are parts of file names."""
SEED = Interval(0, 2**32, "left", integer=True)
NUMBER = Real(labels=True)
MEANS = MapOf(NUMBER)
TASK = Record({"config": MapOf(PLAIN)}, {"parameters": COUNT})
SCORE = Record(
    {
        "metric": TEXT,
        "direction": OneOf(("max", "min")),
        "phase": OneOf(("train", "eval")),
        "target": Maybe(NUMBER),
    },
    {"split": OneOf(("test", "validation", "train")), "margin": Maybe(Interval(0))},
)
LINES: dict[str, Rule] = {
    "header": Record({"entry": NAME, "seed": SEED}, {"run": MapOf(PLAIN), "item": TEXT, "values": MapOf(NUMBER)}),
    "initial": Record({"eval": MEANS}, {"test": MEANS, "train": MEANS}),
    "steps": Record({"first": COUNT, "loss": ListOf(NUMBER)}),
    "epoch": Record(
        {"epoch": POSITIVE_COUNT, "steps": COUNT, "train": MEANS, "eval": MEANS}, {"cpu_s": SECONDS, "wall_s": SECONDS}
    ),
    "thinned": Record({"steps": ListOf(COUNT), "loss": ListOf(NUMBER), "lr": ListOf(NUMBER)}),
    "end": Record(
        {"status": OneOf(("done", "diverged", "failed", "pruned"))},
        {
            "step": COUNT,
            "loss": TEXT,
            "reason": TEXT,
            "error": TEXT,
            "traceback": TEXT,
            "test": MEANS,
            "memory_bytes": Maybe(COUNT),
            "state_bytes": Maybe(COUNT),
            "cpu_s": SECONDS,
            "wall_s": SECONDS,
        },
    ),
    "resumed": Record({}, {"task": MapOf(PLAIN), "versions": MapOf(TEXT)}),
}
"""Rule of each kind of line; further keys are ignored."""
RESUMABLE = Record({"versions": MapOf(TEXT), "task": TASK})
"""Rule of the header of a run that can be resumed."""
COMPARABLE = Record(
    {
        "lr": NUMBER,
        "call": TEXT,
        "recipe": TEXT,
        "task": Record({"config": MapOf(PLAIN), "parameters": Maybe(COUNT)}, {"description": TEXT}),
        "score": SCORE,
        "epochs": POSITIVE_COUNT,
        "steps_per_epoch": POSITIVE_COUNT,
        "versions": MapOf(TEXT),
        "machine": Record({"processor": TEXT, "threads": COUNT, "cores": PLAIN, "system": TEXT}),
        "started": TEXT,
    }
)
"""Rule of the header of a run in a comparison."""


@dataclass(frozen=True)
class Divergence:
    """First step of a run (from 0) with a non-finite loss, and the kind of loss as a label, `"nan"` or `"inf"`."""

    step: int
    label: str


@dataclass(frozen=True)
class Epoch:
    """Measurements of one epoch, or of the interval between two evaluations in a run by steps.

    Attributes:
        number: Number of the epoch, from 1.
        steps: Number of steps since the start of the run.
        train: Mean loss and metrics over the training batches, computed while the weights change.
        evaluation: Mean loss and metrics over the evaluation set after the epoch; empty if there is no evaluation set
            or the epoch diverged.
        loss: Loss of each step.
        lr: Learning rate of each step.
        cpu_s: CPU seconds of training, without evaluation.
        wall_s: Wall-clock seconds of training, without evaluation.
        diverged: First step with a non-finite loss, or None.
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
    """Contents of a record; `end` is None if the run is unfinished, and `initial` if there is no such line.

    `loss` and `lr` contain a value per step, or in a thinned record a value per number in `thinned`.
    """

    path: Path
    header: dict[str, Any]
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    resumed: list[dict[str, Any]] = field(default_factory=list)
    initial: dict[str, Any] | None = None
    thinned: list[int] | None = None

    @property
    def steps(self) -> Sequence[int]:
        """Number of steps taken at each value of `loss`, from 1."""
        return range(1, len(self.loss) + 1) if self.thinned is None else self.thinned

    @property
    def task(self) -> dict[str, Any]:
        """Settings of the task at the last resume, or at the start if the run has never been resumed."""
        known = [line["task"] for line in self.resumed if "task" in line]
        return known[-1] if known else self.header["task"]["config"]

    @property
    def entry(self) -> str:
        """Name of the entry."""
        return self.header["entry"]

    @property
    def seed(self) -> int:
        """Seed of initial weights, batch order and training noise."""
        return self.header["seed"]

    @property
    def status(self) -> str:
        """Status of the run: `done`, `diverged`, `failed`, `pruned` or `unfinished`."""
        return "unfinished" if self.end is None else self.end["status"]


def steps_line(epoch: Epoch) -> str:
    """Return the `steps` line of an epoch."""
    steps = {
        "kind": "steps",
        "first": epoch.steps - len(epoch.loss),
        "loss": epoch.loss,
        "lr": epoch.lr[0] if len(set(epoch.lr)) == 1 else epoch.lr,
    }
    return encode(steps)


def epoch_lines(epoch: Epoch) -> str:
    """Return the `steps` and `epoch` lines of an epoch; if it diverged, an `end` line replaces the `epoch` line."""
    if epoch.diverged is not None:
        end = {"kind": "end", "status": "diverged", "step": epoch.diverged.step, "loss": epoch.diverged.label}
        return steps_line(epoch) + "\n" + encode(end)
    measured = {
        "kind": "epoch",
        "epoch": epoch.number,
        "steps": epoch.steps,
        "train": epoch.train,
        "eval": epoch.evaluation,
        "cpu_s": round(epoch.cpu_s, 4),
        "wall_s": round(epoch.wall_s, 4),
    }
    return steps_line(epoch) + "\n" + encode(measured)


def read_run(path: Path, *, advice: str = "delete it to repeat that run") -> Run:
    """Read a record, ignoring an incomplete last line.

    Args:
        path: Path of the record.
        advice: Advice at the end of the error message for a damaged record.

    Raises:
        RunError: If the file cannot be read, is damaged before its last line, or has a different format version.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RunError(f"Cannot read the record {path}: {error.strerror}.") from error
    return parse_run(text, path, advice=advice)


def parse_run(text: bytes, path: Path, *, advice: str = "delete it to repeat that run") -> Run:
    """Read the content of a record; `path` appears in messages. See `read_run`."""
    run = Run(path, {})
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            _add_line(run, decode(line))
        except (ValueError, OverflowError) as error:
            raise RunError(f"The record {path} is damaged at line {number}; {advice}.") from error
    if not run.header:
        raise RunError(f"The record {path} is damaged: it has no header; {advice}.")
    return run


def check_header(run: Run, rule: Rule, *, advice: str = "delete it to repeat that run") -> Run:
    """Check that the header of a record has the keys that a command requires, and return the run.

    Raises:
        RunError: If a key is missing or has a wrong value, or the run is done without an epoch.
    """
    try:
        require(rule, run.header, "header")
    except SchemaError as error:
        raise RunError(f"The record {run.path} is damaged: {error}; {advice}.") from error
    if run.status == "done" and not run.epochs:
        raise RunError(f"The record {run.path} is damaged: it is done without an epoch; {advice}.")
    return run


def _add_line(run: Run, line: Any) -> None:
    require(Record({"kind": OneOf(tuple(LINES))}), line)
    kind = line["kind"]
    if (kind == "header") == bool(run.header) or run.end is not None:
        raise ValueError("the header is not the first line, or the end is not the last line")
    if kind == "header":
        _check_format(run.path, line.get("format"))
    require(LINES[kind], line)
    if kind == "header":
        run.header = line
    elif kind == "steps":
        rates = line.get("lr")
        require(ListOf(NUMBER) if isinstance(rates, list) else NUMBER, rates, "lr")
        if line["first"] != len(run.loss):
            raise ValueError("steps out of order")
        run.loss += map(float, line["loss"])
        run.lr += map(float, rates if isinstance(rates, list) else [rates] * len(line["loss"]))
    elif kind == "epoch":
        run.epochs.append(_with_numbers(line))
    elif kind == "initial":
        if run.loss or run.initial is not None:
            raise ValueError("the evaluation of the untrained model is not before the first step")
        run.initial = _with_numbers(line)
    elif kind == "thinned":
        _add_thinned(run, line)
    elif kind == "end":
        required = {"diverged": {"step": COUNT, "loss": TEXT}, "failed": {"error": TEXT}}
        require(Record(required.get(line["status"], {})), line)
        run.end = _with_numbers(line)
    else:
        run.resumed.append(line)


def _with_numbers(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line with the labels of non-finite means replaced by numbers."""
    means = {name: line[name] for name in ("train", "eval", "test") if name in line}
    return {**line, **{name: {key: float(value) for key, value in item.items()} for name, item in means.items()}}


def _add_thinned(run: Run, line: dict[str, Any]) -> None:
    if run.loss or not len(line["steps"]) == len(line["loss"]) == len(line["lr"]):
        raise ValueError("the thinned losses are not the only ones, or differ in number from their steps")
    run.thinned = list(line["steps"])
    run.loss, run.lr = (list(map(float, line[name])) for name in ("loss", "lr"))


def _check_format(path: Path, found: Any) -> None:
    if found != FORMAT:
        raise RunError(f"The record {path} has format {found!r}; this version of dashpot reads format {FORMAT}.")
