"""`dashpot train` and `dashpot lr-find`: the settings of a run as options, and what happens with them."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter, Token

from dashpot.cli.task_options import TaskName
from dashpot.errors import ArgumentError
from dashpot.tasks.user_file import is_file_spec
from dashpot.training.run.settings import Settings, is_none, parse_value, read_settings, setting_names

__all__ = ["DIVERGED", "lr_find", "number", "pairs", "train", "typed_command", "whole"]

DIVERGED = 3
"""The exit code of a run whose loss or gradients were no longer finite."""
UNSET = object()
"""What an option holds whose value is typed as none: it is given, and says that the setting is not set."""


def typed_as(kind: type, _: type, tokens: Sequence[Token]) -> Any:
    """The word as that kind; cyclopts, which puts the option's name before an error, takes "none" for not given."""
    text = tokens[0].value
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{'an integer' if kind is int else 'a number'} is needed, got {text!r}.") from error


whole = partial(typed_as, int)
number = partial(typed_as, float)


def options(title: str, chosen: Sequence[str]) -> type:
    """A dataclass with those settings as options of a command, each None where it is not given."""
    hints = get_type_hints(Settings)
    fields = {item.name: item for item in dataclasses.fields(Settings)}
    made = [(name, _option(hints[name], fields[name]), dataclasses.field(default=None)) for name in chosen]
    # In the module `types`, where it would be by itself, it looks like a part of Python.
    return dataclasses.make_dataclass(title, made, frozen=True, kw_only=True, namespace={"__module__": __name__})


def _option(hint: Any, item: dataclasses.Field[Any]) -> Any:
    """The annotation of one option: its type on the command line, its help, and how it is read."""
    nullable = NoneType in get_args(hint)
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if nullable else [hint]
    kind = kinds[0] if kinds[0] in (int, float, str) else str
    default = item.default
    known = "" if default in (None, (), dataclasses.MISSING) else f" [default: {default}]"
    text = item.metadata["help"] + known
    if item.name == "set":
        return Annotated[list[str] | None, Parameter(help=text, consume_multiple=True)]
    read = _or_none(kind) if nullable or item.name == "log" else partial(typed_as, kind)
    return Annotated[kind | None, Parameter(help=text, converter=read)]


def _or_none(kind: type) -> Callable[[type, Sequence[Token]], Any]:
    """Reads a word as `typed_as` does, and none as `UNSET`."""
    return lambda hint, tokens: UNSET if is_none(tokens[0].value) else typed_as(kind, hint, tokens)


FOUND_WITH = (
    *("task", "optimizer", "seed", "precision", "accumulate", "max_norm", "clip_value"),
    *("accelerator", "threads", "data_dir", "set"),
)
"""The settings that matter to a search for a learning rate."""
if TYPE_CHECKING:
    TrainOptions = FindOptions = Settings
else:
    TrainOptions, FindOptions = options("TrainOptions", setting_names()), options("FindOptions", FOUND_WITH)

Config = Annotated[
    Path | None, Parameter(help="TOML file with settings, such as a run's run.toml; options given besides come first.")
]


def train(
    name: TaskName = None,
    /,
    *,
    given: Annotated[TrainOptions | None, Parameter(name="*")] = None,
    config: Config = None,
    out: Annotated[
        Path | None, Parameter(help="Folder of the run; a numbered runs/TASK-OPTIMIZER-seedN by default.")
    ] = None,
    resume: Annotated[Path | None, Parameter(help="Go on with the run in that folder.")] = None,
    override: Annotated[bool, Parameter(help="With --resume: go on with other settings than the run's.")] = False,
) -> int:
    """Train one method, in a folder that keeps settings, record and checkpoints.

    The folder's run.toml repeats the run (--config run.toml); from its checkpoints
    --resume FOLDER goes on to the same bits as without the interruption.

    Exit codes: 0 done, 2 a mistake, 3 the run has diverged, 4 one of several
    processes has died, 130 stopped by Ctrl-C (143 SIGTERM, 129 SIGHUP).
    """
    from dashpot.training.distributed import process_group
    from dashpot.training.run import run
    from dashpot.training.run.folder import RunFolder

    values = {**({} if config is None else _local(read_settings(config))), **_values(name, given)}
    if override and resume is None:
        raise ArgumentError("train: --override goes with --resume, which names the run to go on with.")
    if resume is not None and out is not None:
        raise ArgumentError("train: --resume goes on in the run's own folder; leave --out away.")
    if resume is not None:
        settings = run.merge_settings(RunFolder.open(resume).settings(), values, resume, override=override)
    else:
        settings = Settings.of(values)
    if settings.devices > 1 and process_group.launcher_ranks() is None:
        return _supervise(settings, resume, out)
    if resume is not None:
        result = run.resume(resume, values, override=override, command=typed_command())
    else:
        result = run.start(settings, out, command=typed_command())
    return DIVERGED if result.status == "diverged" else 0


def _supervise(settings: Settings, resume: Path | None, out: Path | None) -> int:
    """Start the processes of a run, each of which goes on with its folder."""
    from dashpot.training.distributed import launcher
    from dashpot.training.distributed.engine import check_devices
    from dashpot.training.run import run
    from dashpot.training.run.folder import RunFolder, path_argument

    check_devices(settings.accelerator, settings.devices)
    words = [word for word in sys.argv[1:] if word != "--debug"]
    folder = RunFolder(resume) if resume is not None else None
    if folder is None:
        plan = run.RunPlan.of(settings)  # finds mistakes before anything is started
        folder = RunFolder.create(out, plan.settings, command=typed_command())
        words = ["train", "--resume", path_argument(folder.path)]
    command = [sys.executable, "-m", "dashpot_command", *words]
    return launcher.launch(command, settings.devices, lambda: folder.resume_command)


def lr_find(
    name: TaskName = None,
    /,
    *,
    given: Annotated[FindOptions | None, Parameter(name="*")] = None,
    config: Config = None,
    out: Annotated[Path | None, Parameter(help="HTML file for the curve.")] = None,
) -> None:
    """Find a learning rate: let it grow with every batch, and see where the loss falls and where it explodes."""
    from dashpot.runs.files import check_writable, write_text
    from dashpot.training.run import run

    if out is not None:
        check_writable(out)
    values = {**({} if config is None else _local(read_settings(config))), **_values(name, given)}
    chosen = {key: value for key, value in values.items() if key in FOUND_WITH}
    curve = run.lr_range_test(Settings.of(chosen))
    print(curve.text())
    if out is not None:
        write_text(out, curve.plot().to_html(include_plotlyjs=True))
        print(f"Plot: {out}")


def typed_command() -> str:
    """The command line as typed, to be kept in records and repeated."""
    return shlex.join(["dashpot", *sys.argv[1:]])


def _values(name: str | None, given: Any) -> dict[str, Any]:
    """The settings that were given on the command line."""
    values = {key: value for key, value in (vars(given) if given is not None else {}).items() if value is not None}
    if name is not None and "task" in values:
        raise ArgumentError("Name one task, such as digits, or give --task path/to/file.py:function.")
    if name is not None:
        values["task"] = name
    if "log" in values:
        typed = "" if values["log"] is UNSET else values["log"]
        values["log"] = tuple(part for part in typed.split(",") if part)
    if "set" in values:
        values["set"] = pairs(values["set"])
    return _local({key: None if value is UNSET else value for key, value in values.items()})


def pairs(items: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` items as a mapping."""
    found = {}
    for item in items or [""]:  # the bare option
        key, sign, value = item.partition("=")
        if not key or not sign or not value:
            raise ArgumentError(f"--set must be NAME=VALUE, such as weight_decay=5e-4, got {item!r}.")
        found[key] = parse_value(value)
    return found


def _local(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with paths that hold wherever the run is continued from."""
    found = dict(values)
    if isinstance(found.get("task"), str) and is_file_spec(found["task"]):
        path, colon, function = found["task"].rpartition(":")
        path, rest = (path, colon + function) if colon and path.endswith(".py") else (found["task"], "")
        found["task"] = str(Path(path).expanduser().resolve()) + rest
    if isinstance(found.get("data_dir"), str):
        found["data_dir"] = str(Path(found["data_dir"]).expanduser().resolve())
    return found
