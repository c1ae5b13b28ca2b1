"""First and last line of the record of an item of a study."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from typing import Any

from dashpot.comparison.run_plan import RunPlan
from dashpot.runs.entry import Entry
from dashpot.runs.metadata import run_metadata
from dashpot.runs.peak_memory import peak_memory
from dashpot.runs.records import Epoch, Run
from dashpot.runs.state_size import state_bytes
from dashpot.runs.study import Study
from dashpot.tasks import Problem
from dashpot.training import Learner
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.utils.passwords import without_passwords

LONGEST_ERROR, LONGEST_TRACEBACK = 500, 4000


def header_line(
    study: Study, plan: RunPlan, problem: Problem | None, optimizer: Any, command: str | None
) -> dict[str, Any]:
    """Return the first line of the record; `problem` and `optimizer` are None if they cannot be built."""
    settings = study.settings()
    header = run_metadata(
        study,
        plan.entry,
        plan.seed,
        problem,
        optimizer,
        None if command is None else without_passwords(command),
        call=call_text(plan.entry, settings["steps"]),
        steps_per_epoch=settings["steps_per_epoch"],
    )
    lengths = {name: settings[name] for name in ("steps", "evaluate_every")}
    return {**header, **lengths, "item": plan.key, "values": dict(plan.values)}


def call_text(entry: Entry, steps: int) -> str:
    """Return the expression that creates the optimizer, or only its name if its arguments raise an error."""
    try:
        return entry.call(steps)
    except Exception:  # of the function that makes the schedule; training reports it
        return getattr(entry.make, "__name__", type(entry.make).__name__)


def diverged_line(step: int, loss: str, reason: str | None = None) -> dict[str, Any]:
    """Return the last line of a diverged run; `loss` is "nan" or "inf"."""
    line = {"kind": "end", "status": "diverged", "step": step, "loss": loss}
    return line if reason is None else {**line, "reason": reason}


def failed_line(error: BaseException | str) -> dict[str, Any]:
    """Return the last line of a run that has ended with an error, given by the exception or as text."""
    if isinstance(error, str):
        return {"kind": "end", "status": "failed", "error": error}
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    trace = "".join(traceback.format_exception(error))
    failed = {"error": text[:LONGEST_ERROR], "traceback": trace[-LONGEST_TRACEBACK:]}
    return {"kind": "end", "status": "failed", **failed}


def non_finite(values: Mapping[str, float], metric: str) -> str | None:
    """Return "nan" or "inf" if the value of the metric is not finite, else None."""
    value = values.get(metric, 0.0)
    return None if math.isfinite(value) else "nan" if math.isnan(value) else "inf"


def costs(learner: Learner, run: Run, last: Epoch | None) -> dict[str, Any]:
    """Return memory, size of the optimizer state, and the times of the whole training, for the last line.

    Args:
        learner: Learner after the fit.
        run: The record so far, with the times of all evaluated intervals.
        last: Last interval; if it has diverged, the record does not contain its times.
    """
    spent = [(line.get("cpu_s", 0.0), line.get("wall_s", 0.0)) for line in run.epochs]
    if last is not None and last.diverged is not None:
        spent.append((last.cpu_s, last.wall_s))
    return {
        "memory_bytes": peak_memory(learner.engine.device),
        "state_bytes": state_bytes(named_optimizers(learner.opt).values()),
        "cpu_s": round(sum(cpu for cpu, _ in spent), 4),
        "wall_s": round(sum(wall for _, wall in spent), 4),
    }
