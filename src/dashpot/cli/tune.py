"""The command `dashpot tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.study_command import execute_study
from dashpot.cli.study_options import (
    TUNING,
    Arguments,
    Epochs,
    EvaluateEvery,
    Jobs,
    NoDecay,
    Out,
    Pruner,
    Sampler,
    Schedule,
    Storage,
    Threads,
    Tune,
    check_counts,
    check_threads,
    file_name,
    names,
    pairs,
    parse_rate,
    tuning_design,
)
from dashpot.cli.task_options import BatchSize, DataDir, TaskName, TaskOption, TaskOptions, named_task
from dashpot.cli.values import integer
from dashpot.errors import ArgumentError
from dashpot.runs.method_names import absolute_method, is_foreign
from dashpot.runs.method_specs import absolute_methods, parse_methods
from dashpot.runs.tuning_options import POSITIVE_BUDGET
from dashpot.utils.optional_packages import need


def tune(
    name: TaskName = None,
    /,
    *,
    method: Annotated[
        str,
        Parameter(
            help="Method with optional settings, e.g. adamw or adamw:betas=0.9,0.98; also torch.optim.NAME and "
            "path/to/file.py:NAME."
        ),
    ],
    task: TaskOption = None,
    budget: Annotated[int, Parameter(converter=integer, help="Number of trials.", group=TUNING)] = 16,
    tune: Tune = None,
    sampler: Sampler = "qmc",
    pruner: Pruner = "none",
    epochs: Epochs = None,
    lr: Annotated[
        str | None, Parameter(help="Learning rate of trial 0, or range LOW..HIGH to search.", group=TUNING)
    ] = None,
    set: Arguments = None,
    schedule: Schedule = None,
    no_decay: NoDecay = None,
    batch_size: BatchSize = None,
    task_options: TaskOptions = None,
    evaluate_every: EvaluateEvery = None,
    jobs: Jobs = 1,
    storage: Storage = None,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Search for the best settings of a method on the validation data of a task.

    Trial 0 uses the default settings. The same command resumes an interrupted search.
    """
    check_counts("tune", epochs=epochs, evaluate_every=evaluate_every, jobs=jobs)
    check_threads("tune", threads)
    need("tune", "optuna", "scipy", extra="study")
    first, *others = parse_methods(method)
    if others:
        raise ArgumentError(
            f"tune: --method must be one method, got {method!r}; dashpot compare --methods {method} --budget {budget} "
            "tunes several."
        )
    design = {
        **tuning_design("tune", budget, tune, sampler, pruner, budgets=POSITIVE_BUDGET, own=is_foreign(first.method)),
        "evaluate_every": evaluate_every,
    }
    rates = {} if lr is None else {absolute_method(first.method): parse_rate(lr)}
    arguments, spec = pairs("--set", set), named_task(name, task, batch_size, task_options)
    print_first_line(f"Tuning {method} on {spec['task']}.")
    from dashpot.comparison.tuned_settings import tuning_text
    from dashpot.runs.search_space import default_values, settings_of
    from dashpot.runs.study_names import StudyNames

    study = StudyNames(
        **spec,
        data_dir=None if data_dir is None else str(data_dir),
        methods=absolute_methods(method),
        rates=rates,
        options=arguments,
        schedule=schedule,
        no_decay=names(no_decay),
        seeds=0,
        epochs=epochs,
        design={**design, "threads": threads},
    ).study()
    [entry] = study.entries
    if not study.trials(entry.name):
        raise ArgumentError(
            f"tune: {entry.name} has none of the settings {', '.join(study.tune)}; known: "
            f"{', '.join(settings_of(default_values(entry)))}."
        )
    target = out or Path("runs") / f"tune-{file_name(study.task.name)}-{file_name(method)}"
    outcomes = execute_study(study, target, storage=storage, jobs=jobs)
    print(f"\n{tuning_text(study, outcomes)}")
