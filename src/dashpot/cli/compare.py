"""The commands `dashpot compare` and `dashpot demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.study_command import compare_study
from dashpot.cli.study_options import (
    TUNING,
    VERDICT,
    Arguments,
    Epochs,
    EvaluateEvery,
    Jobs,
    Margin,
    NoDecay,
    Out,
    Pruner,
    Rates,
    Sampler,
    Schedule,
    Storage,
    TargetValue,
    Threads,
    Tune,
    check_counts,
    check_margin,
    check_threads,
    file_name,
    names,
    pairs,
    parse_looks,
    parse_rates,
    tuning_design,
)
from dashpot.cli.task_options import BatchSize, DataDir, TaskName, TaskOption, TaskOptions, named_task
from dashpot.cli.values import integer
from dashpot.constraints import Interval, check
from dashpot.runs.method_names import is_foreign
from dashpot.runs.method_specs import absolute_methods, parse_methods
from dashpot.utils.garbage import no_collection
from dashpot.utils.optional_packages import need

SEEDS = 3
"""Default number of seeds."""

Seeds = Annotated[
    int | None,
    Parameter(converter=integer, help="Number of seeds; runs of a seed share weights and batches. [default: 3]"),
]


def compare(
    name: TaskName = None,
    /,
    *,
    task: TaskOption = None,
    methods: Annotated[
        str | None,
        Parameter(
            help="Comma-separated methods, each with optional settings, e.g. sgd,adamw:weight_decay=0.1; also "
            "torch.optim.NAME and path/to/file.py:NAME; defaults to a standard list."
        ),
    ] = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    lr: Rates = None,
    set: Arguments = None,
    schedule: Schedule = None,
    no_decay: NoDecay = None,
    batch_size: BatchSize = None,
    task_options: TaskOptions = None,
    data_dir: DataDir = None,
    budget: Annotated[
        int, Parameter(converter=integer, help="Tuning trials per method; 0 uses the shipped settings.", group=TUNING)
    ] = 0,
    tune: Tune = None,
    sampler: Sampler = "qmc",
    pruner: Pruner = "none",
    sensitivity: Annotated[
        int | None,
        Parameter(
            converter=integer,
            help="Seeds of runs at 0.1, 0.5, 2 and 10 times the rate; defaults to 2 with a budget, else 0.",
            group=TUNING,
        ),
    ] = None,
    looks: Annotated[
        str | None,
        Parameter(
            help="Numbers of seeds at which the study may end early, e.g. 5,10,20, at the same total error rate.",
            group=VERDICT,
        ),
    ] = None,
    margin: Margin = None,
    target: TargetValue = None,
    evaluate_every: EvaluateEvery = None,
    jobs: Jobs = 1,
    storage: Storage = None,
    threads: Threads = None,
    out: Out = None,
) -> None:
    """Compare methods on one task over several seeds; print a verdict on every pair, and write a report."""
    plan = parse_looks("compare", looks, seeds)
    count = SEEDS if plan[1] is None else plan[1]
    check_counts("compare", seeds=count, epochs=epochs, evaluate_every=evaluate_every, jobs=jobs)
    check_margin("compare", margin, target)
    check_threads("compare", threads)
    if sensitivity is not None:
        check("compare", "--sensitivity", sensitivity, Interval(0, count, "both", integer=True))
    specs = () if methods is None else parse_methods(methods)
    design = tuning_design("compare", budget, tune, sampler, pruner, own=any(is_foreign(spec.method) for spec in specs))
    design |= {"looks": plan[0], "rate_seeds": sensitivity, "margin": margin, "evaluate_every": evaluate_every}
    need("compare", "optuna", "scipy", extra="study")
    arguments, rates = pairs("--set", set), parse_rates(lr or [])
    spec = named_task(name, task, batch_size, task_options)
    print_first_line(f"Comparing {methods or 'the standard methods'} on {spec['task']}.")
    with no_collection():
        from dashpot.runs.study_names import StudyNames

        study = StudyNames(
            **spec,
            data_dir=None if data_dir is None else str(data_dir),
            methods=None if methods is None else absolute_methods(methods),
            rates=rates,
            options=arguments,
            schedule=schedule,
            no_decay=names(no_decay),
            seeds=count,
            epochs=epochs,
            target=target,
            design={**design, "threads": threads},
        ).study()
        study.settings()  # creates every optimizer, which imports a large part of torch
    folder = out or Path("runs") / f"compare-{file_name(study.task.name)}"
    compare_study(study, folder, storage=storage, jobs=jobs)


def demo(*, jobs: Jobs = 2, out: Out = None, data_dir: DataDir = None) -> None:
    """Compare the standard methods on real data, within minutes."""
    check_counts("demo", jobs=jobs)
    need("demo", "optuna", "scipy", extra="study")
    print_first_line("Looking for Fashion-MNIST (downloads 30 MB if it is not on this machine) ...")
    from dashpot.comparison.demo import demo_study

    study, reason = demo_study(data_dir)
    print(reason)
    compare_study(study, out or Path("demo") / study.task.name, jobs=jobs)
