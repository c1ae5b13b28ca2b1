"""`dashpot verify`: a method beside a reference, on a task's own model and batches."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from cyclopts import Parameter

from dashpot.cli.task_options import DataDir, TaskName, TaskOption, chosen_task
from dashpot.cli.train import number, pairs, whole
from dashpot.constraints import OneOf, check
from dashpot.errors import ArgumentError
from dashpot.runs.entries import entry
from dashpot.runs.environment import torch_threads
from dashpot.utils.strict_json import encode
from dashpot.verification.counterparts import by_path, is_path, reference

__all__ = ["DISAGREES", "verify"]

DISAGREES = 5
"""The exit code where weights or checkpoints deviate by more than the tolerance."""
DTYPES = ("float64", "float32", "bfloat16", "float16")


def verify(
    name: TaskName = None,
    /,
    *,
    task: TaskOption = None,
    optimizer: Annotated[
        str | None,
        Parameter(help="Name of a method (see `dashpot methods`), package.Class, or path/to/file.py:Class."),
    ] = None,
    against: Annotated[
        str,
        Parameter(
            help="torch (the class of torch.optim that equals the method), torch.optim.NAME, another method, eager or "
            "compiled (the method itself on that engine), package.Class, or path/to/file.py:Class."
        ),
    ] = "torch",
    lr: Annotated[
        float | None,
        Parameter(converter=number, help="Learning rate of both; that of a method is tuned for the task by default."),
    ] = None,
    set: Annotated[
        list[str] | None,
        Parameter(help="NAME=VALUE of both, e.g. weight_decay=5e-4 or betas=0.9,0.99.", consume_multiple=True),
    ] = None,
    steps: Annotated[int, Parameter(converter=whole, help="Steps whose weights are compared, at least 2.")] = 20,
    tolerance: Annotated[
        float | None, Parameter(converter=number, help="Ulps allowed after all steps; 16 sqrt(steps) by default.")
    ] = None,
    dtype: Annotated[
        str | None, Parameter(help="Convert model and batches: float64, float32, bfloat16 or float16.")
    ] = None,
    timed_steps: Annotated[
        int, Parameter(converter=whole, help="The late step whose time is measured; 0 measures no cost.")
    ] = 100,
    seed: Annotated[int, Parameter(converter=whole, help="Of the weights, the batch order and the noise.")] = 0,
    data_dir: DataDir = None,
    threads: Annotated[int | None, Parameter(converter=whole, help="Threads torch computes with.")] = None,
    json: Annotated[bool, Parameter(help="Print the result as one line of JSON.")] = False,
) -> int:
    """Check on a task's model that a method does what a reference does, and measure what a step of each costs.

    Both get the same gradients and exchange checkpoints after half of the steps.

    Exit codes: 0 they agree, 2 a mistake, 5 they disagree by more than the tolerance.
    """
    import dashpot as dp

    if optimizer is None:
        raise ArgumentError("verify: the optimizer is missing; name one, such as --optimizer adamw.")
    check("verify", "dtype", dtype, OneOf((None, *DTYPES)))
    chosen = chosen_task(name, task, data_dir)
    options = pairs(set) if set is not None else {}
    if is_path(optimizer):
        ours = by_path("--optimizer", optimizer, options if lr is None else {"lr": lr, **options})
    else:
        line = entry(optimizer, chosen.name, lr=lr, options=options)
        ours, lr, options = partial(line.optimizer, steps=steps), line.lr, line.options
    other = reference(against, optimizer, lr, options)
    with torch_threads(threads):
        result = dp.verify(
            ours,
            other,
            chosen.build(seed),
            steps,
            dtype=None if dtype is None else getattr(torch, dtype),
            tolerance=tolerance,
            timed_steps=timed_steps,
            seed=seed,
        )
    print(encode(result.to_dict()) if json else result)
    return 0 if result.agrees else DISAGREES
