"""The commands `dashpot train` and `dashpot lr-find`, with the settings of a run as options."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter

from dashpot.cli.command_words import command_line
from dashpot.cli.first_line import print_first_line
from dashpot.cli.task_options import TaskName
from dashpot.cli.values import parse_pairs, parse_token
from dashpot.errors import ArgumentError
from dashpot.runs.files import check_writable
from dashpot.runs.method_names import absolute_method
from dashpot.runs.settings import LISTS, TABLES, Settings, is_none, read_settings, setting_names
from dashpot.runs.signals import SAVE_SIGNAL, ignored_signal
from dashpot.utils.file_spec import is_file_spec

if TYPE_CHECKING:
    from dashpot.training.lr_finder import LRCurve

DIVERGED = 3
"""Exit code of a run that ended at a non-finite loss or gradient."""
SMOKE_ONLY = "DASHPOT_SMOKE_ONLY"
"""Environment variable of launched processes that run a smoke test and nothing else."""
UNSET: Any = type("Unset", (str,), {})("0")  # if pydantic is imported, cyclopts also checks that it is a number or text
"""Value of an option that is given as none, whereas None denotes an option that is not given."""


def options(class_name: str, chosen: Sequence[str]) -> type:
    """Return a dataclass whose fields are the chosen settings as options of a command; None means not given."""
    hints = get_type_hints(Settings)
    fields = {item.name: item for item in dataclasses.fields(Settings)}
    made = [(name, _annotation(hints[name], fields[name]), dataclasses.field(default=None)) for name in chosen]
    # Without __module__, the class would belong to the standard module `types`.
    return dataclasses.make_dataclass(class_name, made, frozen=True, kw_only=True, namespace={"__module__": __name__})


def _annotation(hint: Any, item: dataclasses.Field[Any]) -> Any:
    """Return the annotation of an option, with its type, help and converter."""
    nullable = NoneType in get_args(hint)
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if nullable else [hint]
    kind = kinds[0] if kinds[0] in (int, float, str, bool) else str
    default = item.default
    known = "" if default in (None, (), dataclasses.MISSING) else f" [default: {default}]"
    text = item.metadata["help"] + known
    if item.name in TABLES:
        return Annotated[list[str] | None, Parameter(help=text, consume_multiple=True)]
    if kind is bool and item.metadata["parse"] is None:  # a flag, without a value
        return Annotated[bool | None, Parameter(help=text, negative=f"--no-{item.name.replace('_', '-')}")]
    kind = str if kind is bool else kind
    convert = _parser(item.metadata["parse"]) if item.metadata["parse"] is not None else partial(parse_token, kind)
    converter = _nullable(convert) if nullable or item.name in LISTS else convert
    return Annotated[kind | None, Parameter(help=text, converter=converter)]


def _nullable(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return a converter that parses "none" as `UNSET` and other values by `convert`."""
    return lambda hint, tokens: UNSET if is_none(tokens[0].value) else convert(hint, tokens)


def _parser(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a converter that applies `parse` to the text of an option."""
    return lambda hint, tokens: parse(tokens[0].value)


LR_FIND_SETTINGS = (
    *("task", "optimizer", "seed", "precision", "accumulate", "max_norm", "clip_value"),
    *("accelerator", "threads", "data_dir", "batch_size", "task_options", "no_decay", "set"),
)
"""Settings that are options of `dashpot lr-find`."""
if TYPE_CHECKING:
    TrainOptions = LRFindOptions = Settings
else:
    TrainOptions = options("TrainOptions", setting_names())
    LRFindOptions = options("LRFindOptions", LR_FIND_SETTINGS)

Config = Annotated[
    Path | None, Parameter(help="TOML file with settings, such as the run.toml of a run; options take precedence.")
]


def train(
    name: TaskName = None,
    /,
    *,
    given: Annotated[TrainOptions | None, Parameter(name="*")] = None,
    config: Config = None,
    out: Annotated[
        Path | None, Parameter(help="Folder of the run; defaults to a numbered runs/TASK-OPTIMIZER-seedN.")
    ] = None,
    resume: Annotated[Path | None, Parameter(help="Resume the run in this folder.")] = None,
    override: Annotated[bool, Parameter(help="With --resume, allow changes to the settings.")] = False,
    smoke: Annotated[
        bool, Parameter(help="First run two steps, an evaluation, a checkpoint and a resume in a temporary folder.")
    ] = False,
    plot: Annotated[bool, Parameter(help="Draw the loss while the run trains.", negative="")] = False,
) -> int:
    """Train one method; settings, record and checkpoints are written to a folder.

    --config FOLDER/run.toml repeats a run, and --resume FOLDER resumes an
    interrupted one from its latest checkpoint, bit for bit.

    Exit codes: 0 success (also at --max-time), 2 error, 3 training diverged, 4 a
    training process died, 130 stopped by Ctrl-C (143 SIGTERM, 129 SIGHUP).
    """
    values = _settings(config, name, given)
    if override and resume is None:
        raise ArgumentError("train: --override requires --resume.")
    if resume is not None and out is not None:
        raise ArgumentError("train: --out cannot be combined with --resume, which writes to the folder of the run.")
    if resume is not None and smoke:
        raise ArgumentError("train: --smoke cannot be combined with --resume.")
    with ignored_signal(SAVE_SIGNAL):  # before and after the fit, there is nothing to save
        if resume is None:
            settings = Settings.of(values)
            print_first_line(f"Training {settings.optimizer} on {name or settings.task}.")
        else:
            print_first_line(f"Opening {resume}.")
        return _train(values, resume, out, override=override, smoke=smoke, plot=plot)


def _train(
    values: Mapping[str, Any], resume: Path | None, out: Path | None, *, override: bool, smoke: bool, plot: bool
) -> int:
    """Start or resume a run in this process or, with several devices, in new ones; return the exit code."""
    from dashpot.training.distributed import process_group
    from dashpot.training.run import run
    from dashpot.training.run.folder import RunFolder
    from dashpot.training.run.resume import merge_settings

    if resume is not None:
        settings = merge_settings(RunFolder.open(resume).settings(), values, resume, override=override)
    else:
        settings = Settings.of(values)
    if settings.devices > 1 and process_group.launcher_ranks() is None:
        return _launch(settings, resume, out, smoke=smoke, plot=plot)
    if SMOKE_ONLY in os.environ:
        run.smoke_test(settings)
        return 0
    if resume is not None:
        result = run.resume(resume, values, override=override, plot=plot, command=command_line())
    else:
        result = run.start(settings, out, smoke=smoke, plot=plot, command=command_line())
    return DIVERGED if result.status == "diverged" else 0


def _launch(settings: Settings, resume: Path | None, out: Path | None, *, smoke: bool, plot: bool) -> int:
    """Launch the processes of a distributed run, each with --resume; the folder of a new run is created first.

    The processes of a smoke test are launched before.
    """
    from dashpot.training.distributed import launcher
    from dashpot.training.distributed.engine import check_devices
    from dashpot.training.run.folder import RunFolder, path_argument
    from dashpot.training.run.plan import RunPlan

    check_devices(settings.accelerator, settings.devices)
    words = [word for word in sys.argv[1:] if word != "--debug"]
    program = [sys.executable, "-m", "dashpot_command"]
    folder = RunFolder(resume) if resume is not None else None
    if folder is None:
        plan = RunPlan.of(settings)  # rejects invalid settings before a process is started
        if smoke and (code := _launch_smoke_test([*program, *words], settings.devices)):
            return code
        folder = RunFolder.create(out, plan.settings, command=command_line())
        words = ["train", "--resume", path_argument(folder.path), *(["--plot"] if plot else [])]
    return launcher.launch([*program, *words], settings.devices, lambda: folder.resume_command)


def _launch_smoke_test(command: Sequence[str], devices: int) -> int:
    """Run only the smoke test of a command in several processes; return the exit code."""
    from dashpot.training.distributed import launcher

    os.environ[SMOKE_ONLY] = "1"
    try:
        return launcher.launch(command, devices, lambda: None)
    finally:
        del os.environ[SMOKE_ONLY]


def lr_find(
    name: TaskName = None,
    /,
    *,
    given: Annotated[LRFindOptions | None, Parameter(name="*")] = None,
    config: Config = None,
    out: Annotated[Path | None, Parameter(help="File of the curve: .html, .png, .pdf or .svg.")] = None,
) -> None:
    """Run a learning-rate range test: increase the rate with every batch and record the loss."""
    if out is not None:
        _check_out(out)
    values = {key: value for key, value in _settings(config, name, given).items() if key in LR_FIND_SETTINGS}
    settings = Settings.of(values)
    print_first_line(f"Running a learning-rate range test of {settings.optimizer} on {name or settings.task}.")
    from dashpot.training.run import run

    curve = run.lr_range_test(settings)
    print(curve.text())
    if out is not None:
        _write_curve(curve, settings, out)
        print(f"Plot: {out}")


def _check_out(out: Path) -> None:
    from dashpot.figures.exporting import check_export

    check_writable(out)
    check_export("lr-find", out)


def _write_curve(curve: LRCurve, settings: Settings, out: Path) -> None:
    from dashpot.figures import Page, Section
    from dashpot.figures.exporting import export

    def page() -> Page:
        section = Section("Loss against learning rate", figure=curve.plot(), key="curve")
        title = f"Learning-rate range test of {settings.optimizer} on {settings.task}"
        return Page(title, curve.sentences(), command_line(), [section])

    export(out, curve.plot, page)


def _settings(config: Path | None, name: str | None, options: Any) -> dict[str, Any]:
    """Return the settings from the file, overridden by the command line, with absolute paths."""
    given = {key: value for key, value in (vars(options) if options is not None else {}).items() if value is not None}
    if name is not None and "task" in given:
        raise ArgumentError("Give one task, such as digits or --task path/to/file.py:function.")
    if name is not None:
        given["task"] = name
    for key in LISTS:
        if key in given:
            text = "" if given[key] is UNSET else given[key]
            given[key] = tuple(part for part in text.split(",") if part)
    for table in TABLES:
        if table in given:
            given[table] = parse_pairs(f"--{table.replace('_', '-')}", given[table])
    values = {} if config is None else read_settings(config)
    for length, alternative in (("steps", "epochs"), ("epochs", "steps")):
        if length in given:
            values.pop(alternative, None)
    return _absolute_paths({**values, **{key: None if value is UNSET else value for key, value in given.items()}})


def _absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make the paths in `task`, `optimizer` and `data_dir` absolute, so that the run can be resumed from any folder."""
    resolved = dict(values)
    if isinstance(resolved.get("task"), str) and is_file_spec(resolved["task"]):
        path, colon, function = resolved["task"].rpartition(":")
        path, rest = (path, colon + function) if colon and path.endswith(".py") else (resolved["task"], "")
        resolved["task"] = str(Path(path).expanduser().resolve()) + rest
    if isinstance(resolved.get("optimizer"), str):
        resolved["optimizer"] = absolute_method(resolved["optimizer"])
    if isinstance(resolved.get("data_dir"), str):
        resolved["data_dir"] = str(Path(resolved["data_dir"]).expanduser().resolve())
    return resolved
