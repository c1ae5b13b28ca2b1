"""The command `dashpot verify`, which compares a method with a reference on the model and batches of a task."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.task_options import BatchSize, DataDir, TaskName, TaskOption, TaskOptions, select_task, task_spec
from dashpot.cli.values import integer, number, parse_pairs
from dashpot.constraints import OneOf, check
from dashpot.errors import ArgumentError

DISAGREES = 5
"""Exit code if weights or checkpoints differ by more than the tolerance."""
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
            help="Reference: torch (the equivalent class of torch.optim), torch.optim.NAME, another method, eager or "
            "compiled (the same method on that engine), package.Class, or path/to/file.py:Class."
        ),
    ] = "torch",
    lr: Annotated[
        float | None,
        Parameter(converter=number, help="Learning rate of both; defaults to the one tuned for the task."),
    ] = None,
    set: Annotated[
        list[str] | None,
        Parameter(
            help="Arguments NAME=VALUE for both, e.g. weight_decay=5e-4 or betas=0.9,0.99.", consume_multiple=True
        ),
    ] = None,
    steps: Annotated[int, Parameter(converter=integer, help="Number of compared steps, at least 2.")] = 20,
    tolerance: Annotated[
        float | None, Parameter(converter=number, help="Tolerance in ulps after all steps; defaults to 16 sqrt(steps).")
    ] = None,
    dtype: Annotated[
        str | None, Parameter(help="Data type of model and batches: float64, float32, bfloat16 or float16.")
    ] = None,
    timed_steps: Annotated[
        int, Parameter(converter=integer, help="Step whose time and memory are measured; 0 skips the measurement.")
    ] = 100,
    seed: Annotated[int, Parameter(converter=integer, help="Seed of weights, batch order and noise.")] = 0,
    batch_size: BatchSize = None,
    task_options: TaskOptions = None,
    data_dir: DataDir = None,
    threads: Annotated[int | None, Parameter(converter=integer, help="Number of torch threads.")] = None,
    json: Annotated[bool, Parameter(help="Print the result as a line of JSON.")] = False,
) -> int:
    """Compare the updates of a method and a reference on a task's model, and measure the cost of their steps.

    Both optimizers get the same gradients and exchange checkpoints after half of the steps.

    Exit codes: 0 agreement, 2 error, 5 deviation beyond the tolerance.
    """
    if optimizer is None:
        raise ArgumentError("verify: optimizer is missing; give one, such as --optimizer adamw.")
    check("verify", "dtype", dtype, OneOf((None, *DTYPES)))
    spec = task_spec(name, task)
    if not json:  # the output is a single line of JSON
        print_first_line(f"Comparing {optimizer} with {against} on {spec}.")
    import torch

    import dashpot as dp
    from dashpot.runs.entries import entry
    from dashpot.runs.environment import torch_threads
    from dashpot.utils.strict_json import encode
    from dashpot.verification.counterparts import factory_from_path, is_import_path, reference_factory

    chosen = select_task(name, task, data_dir, batch_size, task_options)
    options = parse_pairs("--set", set) if set is not None else {}
    if is_import_path(optimizer):
        ours = factory_from_path("--optimizer", optimizer, options if lr is None else {"lr": lr, **options})
    else:
        method = entry(optimizer, chosen.name, lr=lr, options=options)
        ours, lr, options = partial(method.optimizer, steps=steps), method.lr, method.options
    other = reference_factory(against, optimizer, lr, options)
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
