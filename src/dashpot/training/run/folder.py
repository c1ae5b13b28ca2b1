"""The folder of one training run: what is in it, and what may not be mixed in it."""

from __future__ import annotations

import datetime
import shlex
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.environment import versions
from dashpot.runs.files import make_folder, write_bytes
from dashpot.runs.lock import locked
from dashpot.runs.records import Run, read_run
from dashpot.tasks.user_file import is_file_spec
from dashpot.training.run.settings import LOGS, Settings, read_made_by, read_settings, write_settings

__all__ = ["RunFolder", "default_folder_name", "exists", "list_names", "path_argument", "shell_quoted"]


@dataclass(frozen=True)
class RunFolder:
    """`run.toml` (the settings that repeat it), `run.jsonl` (its record), `checkpoints/`, and logs where wanted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = RunFolder.create(Path(place, "run"), Settings(task="digits", optimizer="sgd"), command=None)
    ...     RunFolder.open(folder.path).settings().optimizer
    'sgd'
    """

    path: Path

    @property
    def settings_file(self) -> Path:
        """What `dashpot train --config` takes to repeat the run."""
        return self.path / "run.toml"

    @property
    def record(self) -> Path:
        """Header, losses, epochs and end, as `dashpot.comparison.read_run` reads them."""
        return self.path / "run.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where `Checkpoints` writes."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> dict[str, Path]:
        """Where each log is, of those that are wanted."""
        return {name: self.path / file for name, file in LOGS.items()}

    @property
    def restart_command(self) -> str:
        """The command that starts a new run like this one."""
        return f"dashpot train --config {shell_quoted(self.settings_file)}"

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return f"dashpot train --resume {shell_quoted(self.path)}"

    @classmethod
    def create(cls, out: Path | None, settings: Settings, *, command: str | None) -> RunFolder:
        """Make the folder of a new run and write its settings; by default a numbered one under `runs/`.

        Raises:
            RunError: `out` holds something already, or cannot be written.
        """
        folder = cls(_numbered(Path("runs") / default_folder_name(settings)) if out is None else _empty(out))
        folder.write(settings, command=command)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that has begun.

        Raises:
            RunError: there is no run in it, or it cannot be looked at.
        """
        folder = cls(path)
        if not exists(folder.settings_file):
            raise RunError(f"{path} holds no run: there is no run.toml in it.")
        return folder

    def settings(self) -> Settings:
        """What `run.toml` says."""
        return Settings.of(read_settings(self.settings_file))

    def command(self) -> str | None:
        """What was typed to make `run.toml`, as far as that tells it."""
        command = read_made_by(self.settings_file).get("command")
        return command if isinstance(command, str) else None

    def write(self, settings: Settings, *, command: str | None) -> None:
        """Write `run.toml`; an older one, whose settings were overridden, stays beside it under a number."""
        if exists(self.settings_file):
            _back_up(self.settings_file)
        write_settings(self.settings_file, settings, made_by(command))

    def back_up_record(self) -> Path:
        """Copy the record to a file beside it, with a number, before another one takes its place; that file."""
        return _back_up(self.record)

    def run(self) -> Run | None:
        """The record, where there is one."""
        return read_run(self.record, advice=f"{self.restart_command} starts a new run") if exists(self.record) else None

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out."""
        return locked(self.path)


def default_folder_name(settings: Settings) -> str:
    """What a run's folder is called where nobody says.

    >>> default_folder_name(Settings(task="my tasks/mine.py:build", optimizer="sgd", seed=3))
    'mine-sgd-seed3'
    """
    spec = settings.task
    if is_file_spec(spec):
        path, _, _ = spec.rpartition(":")
        spec = Path(path if path.endswith(".py") else spec).stem
    task = "".join(c if c.isalnum() or c in "-_." else "-" for c in spec)
    return f"{task}-{settings.optimizer}-seed{settings.seed}"


def made_by(command: str | None) -> dict[str, Any]:
    """The table of a settings file that says where it comes from."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {**versions(), "written": now, **({"command": command} if command else {})}


def path_argument(path: Path) -> str:
    """A path as it is typed on a command line, where a name that begins with a dash would be taken for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def shell_quoted(path: Path) -> str:
    """`path_argument` for a shell, whatever is in the name.

    >>> shell_quoted(Path("runs/one")), shell_quoted(Path("my runs")), shell_quoted(Path("-one"))
    ('runs/one', "'my runs'", './-one')
    """
    return shlex.quote(path_argument(path))


def exists(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        RunError: the system does not say, as in a folder that this user may not look into.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cannot_read(path, error) from error
    return True


def list_names(path: Path) -> list[str] | None:
    """The names in a folder; None where there is no such folder.

    Raises:
        RunError: it is no folder, or cannot be read.
    """
    try:
        return [item.name for item in path.iterdir()]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: OSError) -> RunError:
    return RunError(f"Cannot read {path}: {error.strerror or error}.")


def _back_up(path: Path) -> Path:
    """Copy a file to one beside it, with the first free number in its name; that file."""
    kept = next(file for k in count(1) if not exists(file := path.with_name(f"{path.stem}-{k}{path.suffix}")))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _cannot_read(path, error) from error
    write_bytes(kept, content)
    return kept


def _empty(path: Path) -> Path:
    """`path`, made where it is missing; what holds anything is refused."""
    if exists(path / "run.toml"):
        raise RunError(f"{path} holds a run; go on with it by --resume {shell_quoted(path)}, or choose another folder.")
    if path.is_dir() and list_names(path):
        raise RunError(f"{path} is not empty and holds no run; choose another folder.")
    return make_folder(path)


def _numbered(path: Path) -> Path:
    """A folder that is not there yet: `path`, or `path-2`, `path-3`, ..., made by nobody else."""
    make_folder(path.parent)
    for number in count(1):
        chosen = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            chosen.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"Cannot write {chosen}: {error.strerror or error}.") from error
        return chosen
    raise AssertionError
