"""Smoke test of a run: a few batches of each phase, a checkpoint and a resume, in a temporary folder."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

from dashpot.errors import RunError
from dashpot.runs.settings import TRACKERS
from dashpot.runs.signals import Interrupted
from dashpot.training.callback import Callback, CancelEpoch
from dashpot.training.callbacks.checkpoints import read_newest
from dashpot.training.distributed.engine import Engine
from dashpot.training.learner import Learner
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.plan import RunPlan
from dashpot.training.run.result import RunResult
from dashpot.utils.format import counted, duration
from dashpot.utils.rng_state import random_state, set_random_state

BATCHES = 2
"""Number of optimizer steps and of evaluation batches of a smoke test."""


class FirstBatches(Callback):
    """Cancel each phase after a number of batches, and end the fit after the first epoch.

    Attributes:
        counts: Numbers of batches by phase.
    """

    order: ClassVar[int] = 1000
    essential: ClassVar[bool] = False

    def __init__(self) -> None:
        self.counts = {"train": 0, "eval": 0}

    def before_epoch(self, learner: Learner) -> None:
        learner.stop_reason = "smoke test"

    def before_batch(self, learner: Learner) -> None:
        if learner.batch.index >= BATCHES * (learner.loop.accumulate if learner.training else 1):
            raise CancelEpoch
        self.counts[learner.loop.phase] += 1


def smoke_test(plan: RunPlan, engine: Engine, train: Callable[..., RunResult]) -> str:
    """Run a smoke test, which changes neither the random state nor any file outside of a temporary folder.

    The first fit runs two optimizer steps and two evaluation batches, with all callbacks and logs of the run except
    experiment trackers, and saves a checkpoint after every step. The second fit resumes from the first checkpoint.

    Args:
        plan: Plan of the run; its problem is not used.
        engine: Engine of the run.
        train: Function that trains in a folder, called as `train(plan, folder, engine, run, extra)`.

    Returns:
        A line that describes the checks.

    Raises:
        DashpotError: If the fits raise an error or diverge, or a checkpoint cannot be saved or resumed.
    """
    started, before = time.perf_counter(), random_state()
    with tempfile.TemporaryDirectory(prefix="dashpot-smoke-") as name:
        path = Path(engine.broadcast(name)) / "run"
        try:
            counts, difference = _fits(plan, engine, path, train)
        except Interrupted as stop:
            raise Interrupted("Stopped.", stop.code) from None
        finally:
            set_random_state(before)
        engine.broadcast(None)  # no process removes its folder while others use the folder of rank 0
    batches = f"{counted(counts['train'], 'training batch', 'es')}, "
    batches += f"{counted(counts['eval'], 'evaluation batch', 'es')}, " if counts["eval"] else ""
    weights = "the same weights" if difference == 0 else f"weights that differ by up to {difference:.1g}"
    seconds = duration(time.perf_counter() - started)
    return f"Smoke test passed in {seconds}: {batches}a checkpoint, and a resume with {weights}."


def _fits(plan: RunPlan, engine: Engine, path: Path, train: Callable[..., RunResult]) -> tuple[dict[str, int], float]:
    """Run both fits; return the numbers of batches and the largest difference between the final weights."""
    folder = RunFolder(path)
    if engine.is_rank_zero:
        RunFolder.create(path, plan.settings, command=None)
    engine.broadcast(None)
    limit = FirstBatches()
    _fit(plan, folder, engine, train, limit)
    expected = read_newest(folder.checkpoints)["model"]
    engine.broadcast(None)
    if engine.is_rank_zero:
        for later in sorted(folder.checkpoints.glob("step-*.ckpt"))[1:]:
            later.unlink()
    engine.broadcast(None)
    _fit(plan, folder, engine, train, FirstBatches())
    return limit.counts, _difference(expected, read_newest(folder.checkpoints)["model"])


def _fit(
    plan: RunPlan, folder: RunFolder, engine: Engine, train: Callable[..., RunResult], limit: FirstBatches
) -> None:
    logs = tuple(name for name in plan.settings.log if name not in TRACKERS)
    settings = dataclasses.replace(plan.settings, checkpoint_every=1, keep=BATCHES + 1, log=logs)
    fresh = dataclasses.replace(plan, settings=settings, problem=plan.task.build(settings.seed))
    with contextlib.redirect_stdout(io.StringIO()):
        result = train(fresh, folder, _without_scale(engine), folder.run() if folder.record.exists() else None, [limit])
    if result.status == "diverged":
        raise RunError(f"Smoke test: {result.text().partition(' Repeat with:')[0]}")


def _without_scale(engine: Engine) -> Engine:
    """Return the engine with a new loss scale, so that the scale of the run is unchanged."""
    other = copy.copy(engine)
    if engine.scaler is not None:
        other.scaler = torch.amp.GradScaler(engine.device.type)
    return other


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> float:
    """Return the largest absolute difference between two models."""
    pairs = [(value, found[name]) for name, value in expected.items() if isinstance(value, torch.Tensor)]
    return max(((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel()), default=0.0)
