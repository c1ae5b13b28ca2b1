"""Memory and time of a study, estimated before it starts."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.worker_process import threads_per_worker
from dashpot.errors import RunError
from dashpot.runs.environment import torch_threads
from dashpot.runs.free_memory import available_memory, resident_memory
from dashpot.runs.state_size import state_bytes
from dashpot.runs.study import Study
from dashpot.tasks import Problem
from dashpot.utils.format import counted, duration, size
from dashpot.utils.rng_state import preserve_rng_state

STEP_SECONDS, EVALUATION_SECONDS = 3.0, 1.5
"""Time of the measurement."""
MOST_STEPS = 12
LEAST = 2
"""Smallest part of a batch: batch normalization requires two examples."""
SLOW = 30.0
"""Time of a step in seconds that is not measured twice."""
PART = 16
"""Divisor of the batch of the first measured step, since a step of a large network takes minutes on a CPU."""
LONG = 3600.0
"""Duration in seconds from which a study requires a confirmation."""
_PROBE = 1024


@dataclass(frozen=True)
class StudyCost:
    """Estimated cost of the unfinished part of a study.

    Attributes:
        name: Name of the study in messages.
        runs: Number of runs and trials that are not finished.
        jobs: Number of processes.
        memory: Memory of one process in bytes.
        available: Available memory of the device in bytes, or None if unknown.
        seconds: Duration, with all processes at work.
    """

    name: str
    runs: int
    jobs: int
    memory: int
    available: int | None
    seconds: float

    def __str__(self) -> str:
        """Return the cost in words.

        >>> print(StudyCost("digits at the tier cpu", 96, 2, 3 * 2**28, 2**33, 300.0))
        digits at the tier cpu: 96 runs, about 5 min 0 s with 2 processes of 768 MiB.
        """
        if not self.runs:
            return f"{self.name}: all runs are finished."
        processes = f"{counted(self.jobs, 'process', 'es')} of {size(self.memory)}"
        return f"{self.name}: {counted(self.runs, 'run')}, about {duration(self.seconds)} with {processes}."


def study_cost(study: Study, folder: Path, name: str, *, jobs: int = 1) -> StudyCost:
    """Estimate the cost of the unfinished part of a study by a few steps of its first method.

    Memory of a process: that of this process, which has loaded the data; 4 bytes for each parameter and its gradient;
    the optimizer state; the tensors that a training step stores for its backward pass, and twice the largest of them
    for the backward pass. The stored tensors are counted in a forward pass on the device "meta".

    Time: the median of at most 12 steps and the mean of some evaluation batches, at most about five seconds in all. A
    step that would take longer is measured with a 16th of its batch, in proportion.

    Args:
        study: Study of a task whose model maps a tensor to a tensor.
        folder: Its folder, in which runs may be finished.
        name: Name of the study in messages.
        jobs: Number of processes.

    Raises:
        RunError: If the folder contains a damaged study or one with other settings.
    """
    runs = _unfinished(study, folder)
    if not runs:
        return StudyCost(name, 0, jobs, 0, None, 0.0)
    problem = study.task.build(study.tuning_seed)
    device = next(problem.model.parameters()).device
    threads = study.threads or (threads_per_worker(jobs) if jobs > 1 else None)
    with preserve_rng_state(), torch_threads(threads):
        seconds = _run_seconds(study, problem, device)
    memory = _memory(study, problem) + (0 if device.type == "cuda" else resident_memory())
    workers = min(jobs, runs)
    return StudyCost(name, runs, workers, memory, available_memory(device), -(-runs // workers) * seconds)


def _unfinished(study: Study, folder: Path) -> int:
    """Return the number of items of a study that are not finished."""
    total = len(study.entries) * len(study.seeds) + sum(study.trials(entry.name) for entry in study.entries)
    if not (folder / "study.json").exists():
        return total
    found = StudyFolder(folder)
    found.check_settings(study.settings())
    return total - sum(run.status != "unfinished" for run in [*found.runs(), *found.trials()])


def _run_seconds(study: Study, problem: Problem, device: torch.device) -> float:
    """Return the time of one run: its steps and its evaluations."""
    settings = study.settings()
    optimizer = study.entries[0].optimizer_of(problem.model, settings["steps"])
    evaluations = -(-settings["steps"] // settings["evaluate_every"]) + 1
    step = _step_seconds(problem, optimizer, device)
    return settings["steps"] * step + evaluations * _evaluation_seconds(problem, device)


def _step_seconds(problem: Problem, optimizer: Any, device: torch.device) -> float:
    batches = itertools.chain.from_iterable(problem.train.epoch(k) for k in itertools.count())  # pyright: ignore
    x, y = next(batches)
    part = max(LEAST, len(x) // PART)

    def estimate() -> float:
        return _timed(lambda: _step(problem, optimizer, x[:part], y[:part]), device) * len(x) / min(part, len(x))

    whole = estimate()
    if whole <= SLOW:
        whole = estimate()  # the first step allocates the state
    if whole > STEP_SECONDS:
        return whole
    return statistics.median(
        _until(STEP_SECONDS, MOST_STEPS, (lambda b=b: _step(problem, optimizer, *b) for b in batches), device)
    )


def _step(problem: Problem, optimizer: Any, x: Tensor, y: Tensor) -> None:
    problem.model.train()
    optimizer.zero_grad()
    _loss(problem, x, y).backward()
    optimizer.step()


def _loss(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    assert callable(problem.loss)
    return problem.loss(problem.model(x), y)


def _evaluation_seconds(problem: Problem, device: torch.device) -> float:
    """Return the time of an evaluation; 0 without evaluation data."""
    if problem.evaluation is None:
        return 0.0

    def evaluate(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            float(_loss(problem, x, y))

    problem.model.eval()
    total = len(problem.evaluation)  # pyright: ignore[reportArgumentType]
    x, y = next(iter(problem.evaluation.epoch(0)))  # pyright: ignore[reportAttributeAccessIssue]
    part = max(1, len(x) // PART)
    short = _timed(lambda: evaluate(x[:part], y[:part]), device) * len(x) / part
    if short > EVALUATION_SECONDS:
        return short * total
    batches = problem.evaluation.epoch(0)  # pyright: ignore[reportAttributeAccessIssue]
    return (
        statistics.fmean(_until(EVALUATION_SECONDS, total, (lambda b=b: evaluate(*b) for b in batches), device)) * total
    )


def _until(limit: float, most: int, calls: Iterator[Callable[[], None]], device: torch.device) -> list[float]:
    """Return the times of calls until their sum exceeds a limit, at most `most` of them and at least one."""
    times: list[float] = []
    for call in itertools.islice(calls, most):
        times.append(_timed(call, device))
        if sum(times) > limit:
            break
    return times


def _timed(call: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _memory(study: Study, problem: Problem) -> int:
    """Return the bytes of parameters, gradients, optimizer state and stored tensors of a training step."""
    parameters = sum(parameter.numel() for parameter in problem.model.parameters())
    x, y = next(iter(problem.train.epoch(0)))  # pyright: ignore[reportAttributeAccessIssue]
    stored = stored_bytes(problem.model, problem.loss, x, y)
    return round(parameters * (8 + _state_share(study))) + sum(stored) + 2 * max(stored, default=0)


def _state_share(study: Study) -> float:
    """Return the largest number of bytes of optimizer state per parameter."""
    sizes = []
    for entry in study.entries:
        probe = nn.Parameter(torch.zeros(_PROBE))
        probe.grad = torch.ones(_PROBE)
        optimizer = entry.optimizer([probe], study.settings()["steps"])  # of the CPU, on which its state is as large
        optimizer.step()
        sizes.append(state_bytes([optimizer]) or 0)
    return max(sizes) / _PROBE


def stored_bytes(model: nn.Module, loss: Any, x: Tensor, y: Tensor) -> list[int]:
    """Return the bytes of each tensor that a training step stores for its backward pass.

    Parameters are excluded, and transposed parameters, which share their memory, are not: the sum is an upper estimate.
    The model is moved to the device "meta", on which nothing is computed.

    >>> layer = nn.Linear(3, 2)
    >>> stored_bytes(layer, lambda output, y: (output * y).sum(), torch.zeros(5, 3), torch.zeros(5, 2))
    [60, 40]
    """
    moved = model.to("meta").train()
    found: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            found.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss(moved(x.to("meta")), y.to("meta"))
    return found


def check_memory(cost: StudyCost) -> None:
    """Check that a study fits into the available memory.

    Raises:
        RunError: If it does not.
    """
    needed = cost.jobs * cost.memory
    if cost.runs and cost.available is not None and needed > cost.available:
        less = " Fewer --jobs need less." if cost.jobs > 1 and cost.memory <= cost.available else ""
        raise RunError(
            f"{cost.name} needs about {size(needed)} of memory, and {size(cost.available)} are available; nothing was "
            f"started.{less}"
        )


def confirm(
    seconds: float, reason: str | None = None, *, yes: bool = False, ask: Callable[[str], bool] | None = None
) -> None:
    """Ask for a confirmation of a study that takes more than an hour, or that has another reason.

    Args:
        seconds: Estimated duration.
        reason: Sentence with a further reason for a confirmation; without a terminal, it requires `yes`.
        yes: Whether the user has confirmed already.
        ask: Function that asks a question on the terminal; None without a terminal.

    Raises:
        RunError: If the user does not confirm.
    """
    if yes or (seconds <= LONG and reason is None):
        return
    if ask is None:
        if reason is not None:
            raise RunError(f"{reason} Nothing was started; --yes starts it, for about {duration(seconds)}.")
        return
    text = "" if reason is None else f"{reason} "
    if not ask(f"{text}This takes about {duration(seconds)}. Start? [y/N] "):
        raise RunError("Nothing was started.")
