"""Execution of one item of a study: training with a record and checkpoints, evaluation, and every way to end."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from dashpot.comparison.recorded_intervals import RecordedIntervals
from dashpot.comparison.run_plan import RunPlan
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import DataError, RunError
from dashpot.runs.compact_record import compact_record
from dashpot.runs.files import append_line, make_folder, write_text
from dashpot.runs.metadata import run_metadata
from dashpot.runs.passwords import without_passwords
from dashpot.runs.peak_memory import peak_memory, reset_peak_memory
from dashpot.runs.records import Run, epoch_lines, read_run, steps_line
from dashpot.runs.run_scores import validation_score, verdict_score
from dashpot.runs.signals import Interrupted
from dashpot.runs.state_size import state_bytes
from dashpot.runs.study import Study, StudyRun
from dashpot.tasks import Problem
from dashpot.training import CancelFit, Epoch, Learner
from dashpot.training.loop import single_device_learner
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.training.state import checkpoint_file
from dashpot.training.state.fit_schema import check_state
from dashpot.utils.rng_state import preserve_rng_state, seed_all
from dashpot.utils.strict_json import encode

P = ParamSpec("P")
R = TypeVar("R")
LONGEST_ERROR, LONGEST_TRACEBACK = 500, 4000


@dataclass(frozen=True)
class Ended:
    """End of an item.

    Attributes:
        status: "done", "diverged", "failed" or "pruned".
        score: For a trial, the final score on the validation data, which is None if it has not been done; otherwise the
            score on the data of the verdict, which for a diverged run is that of the untrained model, or None.
        data: The compact record as {"record": text}.
    """

    status: str
    score: float | None
    data: dict[str, Any] = field(default_factory=dict)


def execute(
    study: Study,
    plan: RunPlan,
    folder: StudyFolder,
    *,
    on_step: Callable[[int], None] | None = None,
    on_interval: Callable[[Epoch], None] | None = None,
    prune: Callable[[int, float], bool] | None = None,
    command: str | None = None,
) -> Ended:
    """Train one item of a study with a record, or return the end of its finished record.

    An unfinished record with a checkpoint is resumed after its last evaluation. On the same machine, with the same
    versions and number of threads, the results are bit-identical to those of an uninterrupted run. The global
    generators of torch, Python and numpy are seeded, and restored afterwards. A record of other settings is replaced.

    An exception of the task, the optimizer or the metrics ends the item as "failed"; the record contains its message.

    Args:
        study: Study with the item.
        plan: The item.
        folder: Prepared folder of the records.
        on_step: Function called after every step with the number of steps taken; it may raise `Interrupted`.
        on_interval: Function called after every evaluation.
        prune: Function of (number of steps, validation score), called after every evaluation except the last; if it
            returns True, the item ends as "pruned". In a resumed run, it is also called for the earlier evaluations.
        command: Command line that repeats the study, stored in the record.

    Raises:
        RunError: If the record or checkpoint cannot be written, or is damaged.
        DataError: If the data of the task are missing.
        Interrupted: If `on_step` has raised it. All evaluated intervals are kept.
    """
    calls = _Calls(on_step or _ignore, on_interval or _ignore, prune)
    record = folder.item_record(plan.key)
    make_folder(record.parent)
    run = _Execution(study, plan, record, calls, command)
    found = run.found()
    if found is None or found.end is None:
        with preserve_rng_state():
            run.train(found)
    run.checkpoint.unlink(missing_ok=True)
    return ended(read_run(record), plan.kind)


def record_failure(study: Study, plan: RunPlan, folder: StudyFolder, error: str, command: str | None = None) -> Ended:
    """Record an item as failed without an exception, for example if it has ended several worker processes.

    Args:
        study: Study with the item.
        plan: The item.
        folder: Prepared folder of the records.
        error: What has happened, in one line.
        command: Command line that repeats the study.

    Raises:
        RunError: If the record cannot be written.
    """
    record = folder.item_record(plan.key)
    make_folder(record.parent)
    run = _Execution(study, plan, record, _Calls(_ignore, _ignore, None), command)
    end = {"kind": "end", "status": "failed", "error": error}
    write_text(record, f"{encode(run.header(None, None))}\n{encode(end)}\n")
    run.checkpoint.unlink(missing_ok=True)
    return ended(read_run(record), plan.kind)


def ended(run: Run, kind: str) -> Ended:
    """Return the end of a finished record of an item of a kind, "trial", "run" or "rate"."""
    score = validation_score(run) if kind == "trial" else verdict_score(run)
    if kind == "trial" and run.status != "done":
        score = None
    return Ended(run.status, score, {"record": compact_record(run)})


def _ignore(_: Any) -> None:
    return None


@dataclass
class _Calls:
    """Functions of the caller, and of this module for files; their exceptions are not failures of the run."""

    on_step: Callable[[int], None]
    on_interval: Callable[[Epoch], None]
    prune: Callable[[int, float], bool] | None
    raised: BaseException | None = None

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function, and remember its exception."""
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            self.raised = error
            raise


class _Execution:
    """Training of one item in this session."""

    def __init__(self, study: Study, plan: RunPlan, record: Path, calls: _Calls, command: str | None) -> None:
        self.study, self.plan, self.record, self.calls, self.command = study, plan, record, calls, command
        self.checkpoint = record.with_suffix(".ckpt")
        self.total, self.every = study.shape["steps"], study.shape["evaluate_every"]
        self.score = study.shape["score"]
        self.begun = False  # whether the record belongs to this session
        self.recorder: RecordedIntervals | None = None

    def found(self) -> Run | None:
        """Return the existing record; None if there is none, or it is of other settings."""
        if not self.record.exists():
            return None
        run = read_run(self.record)
        same = run.seed == self.plan.seed and run.header.get("call") == self.plan.entry.call(self.total)
        return run if same and run.header.get("values", {}) == dict(self.plan.values) else None

    def train(self, found: Run | None) -> None:
        """Start the run, or resume the record `found` if it has a checkpoint; record a failure."""
        try:
            self._train(found)
        except (Exception, SystemExit) as error:
            own = error is self.calls.raised or isinstance(error, (Interrupted, DataError))
            if own or (isinstance(error, RunError) and not self.begun):
                raise
            self._fail(error)

    def _train(self, found: Run | None) -> None:
        state = None
        if found is not None and self.checkpoint.exists():
            state = self.calls(_read_checkpoint, self.checkpoint)
        problem = self.study.task.build(self.plan.seed)
        seed_all(self.plan.seed)
        learner = single_device_learner(problem, partial(self.plan.entry.optimizer, steps=self.total))
        reset_peak_memory(learner.engine.device)
        if state is None:
            self._begin(problem, learner)
        elif found is not None:
            for line in found.epochs[: state["progress"]["position"][0]]:
                self._report(line["steps"], line[self.score["phase"]])
        self._fit(learner, state)
        self._end(problem, learner)

    def _begin(self, problem: Problem, learner: Learner) -> None:
        """Write the header and the evaluation of the untrained model."""
        optimizer = self.plan.entry.optimizer(problem.model.parameters(), self.total)
        self.calls(write_text, self.record, encode(self.header(problem, optimizer)) + "\n")
        self.begun = True
        if problem.evaluation is None:
            initial = {"eval": {}, "train": learner.evaluate(problem.train)}
        else:
            initial = {"eval": learner.evaluate()}
        self._append({"kind": "initial", **initial})

    def header(self, problem: Problem | None, optimizer: Any) -> dict[str, Any]:
        """Return the first line of the record; without a problem or an optimizer if they cannot be built."""
        run = StudyRun(self.plan.entry, self.plan.seed)
        header = run_metadata(
            self.study,
            run,
            problem,
            optimizer,
            None if self.command is None else without_passwords(self.command),
            call=self.plan.entry.call(self.total),
            steps_per_epoch=self.study.shape["steps_per_epoch"],
        )
        lengths = {"steps": self.total, "evaluate_every": self.every}
        return {**header, **lengths, "item": self.plan.key, "values": dict(self.plan.values)}

    def _fit(self, learner: Learner, state: Mapping[str, Any] | None) -> None:
        calls = self.calls

        def on_step(steps: int) -> None:
            self.begun = True
            calls(calls.on_step, steps)

        def on_interval(epoch: Epoch) -> None:
            if epoch.diverged is not None:
                calls(append_line, self.record, steps_line(epoch))
                return
            calls(append_line, self.record, epoch_lines(epoch))
            last = epoch.steps >= self.total
            if not last:
                calls(self._save, learner)
            calls(calls.on_interval, epoch)
            means = epoch.evaluation if self.score["phase"] == "eval" else epoch.train
            if not last and self._report(epoch.steps, means):
                self.pruned = epoch.steps
                raise CancelFit

        self.pruned: int | None = None
        self.recorder = RecordedIntervals(self.record, on_step, on_interval)
        learner.fit(steps=self.total, evaluate_every=self.every, callbacks=[self.recorder], resume=state)

    def _save(self, learner: Learner) -> None:
        checkpoint_file.write(self.checkpoint, learner.state_dict())

    def _report(self, steps: int, means: Mapping[str, float]) -> bool:
        """Return whether the trial is to end now."""
        if self.calls.prune is None:
            return False
        return self.calls(self.calls.prune, steps, float(means[self.score["metric"]]))

    def _end(self, problem: Problem, learner: Learner) -> None:
        """Append the `end` line."""
        assert self.recorder is not None
        last = self.recorder.epochs[-1] if self.recorder.epochs else None
        costs = self._costs(learner, last)
        if self.pruned is not None:
            end: dict[str, Any] = {"status": "pruned", "step": self.pruned}
        elif last is not None and last.diverged is not None:
            end = {"status": "diverged", "step": last.diverged.step, "loss": last.diverged.label}
        else:
            end = {
                "status": "done",
                "steps": self.total if last is None else last.steps,
                **self._test(learner, problem),
            }
            bad = self._bad_score(end, last)
            if bad is not None:
                reason = f"the final score is {bad}"
                end = {"status": "diverged", "step": end["steps"], "loss": bad, "reason": reason}
        if end["status"] == "diverged" and self.tested:
            end |= self._untrained()
        self._append({"kind": "end", **end, **costs})

    @property
    def tested(self) -> bool:
        """Whether the test data are evaluated, which tuning never does."""
        return self.plan.kind != "trial" and self.score["split"] == "test"

    def _test(self, learner: Learner, problem: Problem) -> dict[str, Any]:
        return {"test": learner.evaluate(problem.test)} if self.tested else {}

    def _untrained(self) -> dict[str, Any]:
        """Return the evaluation of the untrained model on the test data."""
        problem = self.study.task.build(self.plan.seed)
        seed_all(self.plan.seed)
        learner = single_device_learner(problem, partial(self.plan.entry.optimizer, steps=self.total))
        return self._test(learner, problem)

    def _bad_score(self, end: Mapping[str, Any], last: Epoch | None) -> str | None:
        """Return the final score as a label if it is not finite."""
        found = end.get("test")
        if found is None and last is not None:
            found = last.evaluation if self.score["phase"] == "eval" else last.train
        value = (found or {}).get(self.score["metric"], 0.0)
        return None if math.isfinite(value) else "nan" if math.isnan(value) else "inf"

    def _costs(self, learner: Learner, last: Epoch | None) -> dict[str, Any]:
        spent = [(line.get("cpu_s", 0.0), line.get("wall_s", 0.0)) for line in read_run(self.record).epochs]
        if last is not None and last.diverged is not None:
            spent.append((last.cpu_s, last.wall_s))
        return {
            "memory_bytes": peak_memory(learner.engine.device),
            "state_bytes": state_bytes(named_optimizers(learner.opt).values()),
            "cpu_s": round(sum(cpu for cpu, _ in spent), 4),
            "wall_s": round(sum(wall for _, wall in spent), 4),
        }

    def _fail(self, error: BaseException) -> None:
        """Record the error that has ended the run."""
        if not self.begun:
            write_text(self.record, encode(self.header(None, None)) + "\n")
        text = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
        failed = {"error": text[:LONGEST_ERROR], "traceback": trace[-LONGEST_TRACEBACK:]}
        append_line(self.record, encode({"kind": "end", "status": "failed", **failed}))

    def _append(self, line: dict[str, Any]) -> None:
        self.calls(append_line, self.record, encode(line))


def _read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    try:
        state = checkpoint_file.read(checkpoint)
        check_state(state)
    except RunError as error:
        raise RunError(f"{error} Delete it to restart the run.") from error
    return state
