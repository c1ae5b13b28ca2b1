"""Execution of one item of a study: training with a record and checkpoints, evaluation, and every way to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from dashpot.comparison.ended import Ended, ended
from dashpot.comparison.guarded_calls import GuardedCalls, ignore
from dashpot.comparison.item_lines import call_text, costs, diverged_line, failed_line, header_line, non_finite
from dashpot.comparison.recorded_intervals import RecordedIntervals
from dashpot.comparison.run_plan import RunPlan
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import DataError, RunError
from dashpot.runs.files import append_line, make_folder, write_text
from dashpot.runs.peak_memory import reset_peak_memory
from dashpot.runs.records import Run, epoch_lines, read_run, steps_line
from dashpot.runs.signals import Interrupted
from dashpot.runs.study import Study
from dashpot.tasks import Problem
from dashpot.training import CancelFit, Epoch, Learner
from dashpot.training.entry_callbacks import entry_callbacks
from dashpot.training.loop import single_device_learner
from dashpot.training.state import checkpoint_file
from dashpot.training.state.fit_schema import check_state
from dashpot.utils.rng_state import preserve_rng_state, seed_all
from dashpot.utils.strict_json import encode


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
    record = folder.item_record(plan.key)
    make_folder(record.parent)
    calls = GuardedCalls(on_step or ignore, on_interval or ignore, prune)
    item = _Item(study, plan, record, calls, command)
    found = item.found()
    if found is None or found.end is None:
        with preserve_rng_state():
            item.train(found)
    item.checkpoint.unlink(missing_ok=True)
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
    header = header_line(study, plan, None, None, command)
    write_text(record, f"{encode(header)}\n{encode(failed_line(error))}\n")
    record.with_suffix(".ckpt").unlink(missing_ok=True)
    return ended(read_run(record), plan.kind)


class _Item:
    """Training of one item in this session."""

    def __init__(self, study: Study, plan: RunPlan, record: Path, calls: GuardedCalls, command: str | None) -> None:
        self.study, self.plan, self.record, self.calls, self.command = study, plan, record, calls, command
        self.checkpoint = record.with_suffix(".ckpt")
        self.total, self.score = study.settings()["steps"], study.settings()["score"]
        self.tested = plan.kind != "trial" and self.score["split"] == "test"  # tuning never uses the test data
        self.begun = False  # whether this session has written to the record
        self.pruned = False

    def found(self) -> Run | None:
        """Return the existing record; None if there is none, or it is of other settings."""
        if not self.record.exists():
            return None
        run = read_run(self.record)
        same = run.seed == self.plan.seed and run.header.get("call") == call_text(self.plan.entry, self.total)
        return run if same and run.header.get("values", {}) == dict(self.plan.values) else None

    def train(self, found: Run | None) -> None:
        """Start the run, or resume the record `found` if it has a checkpoint; record a failure."""
        try:
            self._train(found)
        except (Exception, SystemExit) as error:
            own = isinstance(error, checkpoint_file.ContentError)  # a fault of the optimizer or a callback
            outer = not own and (error is self.calls.raised or isinstance(error, (Interrupted, DataError)))
            if outer or (isinstance(error, RunError) and not self.begun):
                raise
            if not self.begun:
                self._write_header(None, None)
            append_line(self.record, encode(failed_line(error)))

    def _train(self, found: Run | None) -> None:
        state = None
        if found is not None and self.checkpoint.exists():
            state = self.calls(_read_checkpoint, self.checkpoint)
        problem, learner = self._learner()
        reset_peak_memory(learner.engine.device)
        if state is None:
            self._begin(problem, learner)
        elif found is not None:
            for line in found.epochs[: state["progress"]["position"][0]]:
                self._is_pruned(line["steps"], line[self.score["phase"]])
        recorder = RecordedIntervals(self.record, self._on_step, lambda epoch: self._on_interval(learner, epoch))
        every, added = self.study.settings()["evaluate_every"], entry_callbacks(self.plan.entry, self.total)
        learner.fit(steps=self.total, evaluate_every=every, callbacks=[*added, recorder], resume=state)
        last = recorder.epochs[-1] if recorder.epochs else None
        self._append({**self._end(problem, learner, last), **costs(learner, read_run(self.record), last)})

    def _learner(self) -> tuple[Problem, Learner]:
        """Build the problem, and seed all generators."""
        problem = self.study.task.build(self.plan.seed)
        seed_all(self.plan.seed)
        return problem, single_device_learner(problem, partial(self._optimizer, problem))

    def _optimizer(self, problem: Problem, params: Iterable[Any]) -> Optimizer:
        """Create the optimizer of the model, or of the child of the model that has these parameters."""
        given = [*map(id, params)]
        modules = (problem.model, *problem.model.children())
        module = next(module for module in modules if [*map(id, module.parameters())] == given)
        return self.plan.entry.optimizer_of(module, self.total)

    def _begin(self, problem: Problem, learner: Learner) -> None:
        """Write the header and the evaluation of the untrained model."""
        self._write_header(problem, self.plan.entry.optimizer_of(problem.model, self.total))
        self.begun = True
        if problem.evaluation is None:
            initial = {"eval": {}, "train": learner.evaluate(problem.train)}
        else:
            initial = {"eval": learner.evaluate()}
        self._append({"kind": "initial", **initial})

    def _write_header(self, problem: Problem | None, optimizer: Any) -> None:
        header = header_line(self.study, self.plan, problem, optimizer, self.command)
        self.calls(write_text, self.record, encode(header) + "\n")

    def _on_step(self, steps: int) -> None:
        self.begun = True
        self.calls(self.calls.on_step, steps)

    def _on_interval(self, learner: Learner, epoch: Epoch) -> None:
        """Record an interval, and save a checkpoint unless it is the last one."""
        if epoch.diverged is not None:
            self._write(steps_line(epoch))
            return
        self._write(epoch_lines(epoch))
        last = epoch.steps >= self.total
        if not last:
            self.calls(checkpoint_file.write, self.checkpoint, learner.state_dict())
        self.calls(self.calls.on_interval, epoch)
        if not last and self._is_pruned(epoch.steps, self._means(epoch)):
            self.pruned = True
            raise CancelFit

    def _is_pruned(self, steps: int, means: Mapping[str, float]) -> bool:
        """Report a validation score, and return whether the trial is to end now."""
        if self.calls.prune is None:
            return False
        return self.calls(self.calls.prune, steps, float(means[self.score["metric"]]))

    def _means(self, epoch: Epoch) -> Mapping[str, float]:
        return epoch.evaluation if self.score["phase"] == "eval" else epoch.train

    def _end(self, problem: Problem, learner: Learner, last: Epoch | None) -> dict[str, Any]:
        """Return the last line, with the evaluation on the test data."""
        steps = self.total if last is None else last.steps
        if self.pruned:
            return {"kind": "end", "status": "pruned", "step": steps}
        if last is not None and last.diverged is not None:
            return self._diverged(diverged_line(last.diverged.step, last.diverged.label))
        test = {"test": learner.evaluate(problem.test)} if self.tested else {}
        values = test.get("test", {} if last is None else self._means(last))
        label = non_finite(values, self.score["metric"])
        if label is not None:
            return self._diverged(diverged_line(steps, label, f"the final score is {label}"))
        return {"kind": "end", "status": "done", "steps": steps, **test}

    def _diverged(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return the line with the evaluation of the untrained model on the test data."""
        if not self.tested:
            return line
        problem, learner = self._learner()
        return {**line, "test": learner.evaluate(problem.test)}

    def _append(self, line: dict[str, Any]) -> None:
        self._write(encode(line))

    def _write(self, lines: str) -> None:
        self.calls(append_line, self.record, lines)


def _read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    try:
        state = checkpoint_file.read(checkpoint)
        check_state(state)
    except RunError as error:
        raise RunError(f"{error} Delete it to restart the run.") from error
    return state
