"""Folder of one training run: its files, and checks that prevent overwriting other runs."""

from __future__ import annotations

import datetime
import re
import shlex
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.environment import versions
from dashpot.runs.files import make_folder, remove_partial_files, write_bytes
from dashpot.runs.method_names import entry_name
from dashpot.runs.records import RESUMABLE, Run, check_header, read_run
from dashpot.runs.settings import LOGS, Settings, read_made_by, read_settings, write_settings
from dashpot.utils.file_spec import is_file_spec

_PARTIAL_SETTINGS = re.compile(r"\.run\.toml\.[0-9a-f]+\.part")
"""Names of the files that a process leaves if it is killed while it writes the settings of a new run."""


@dataclass(frozen=True)
class RunFolder:
    """Folder of a run: `run.toml` (its settings), `run.jsonl` (its record), `checkpoints/` and optional logs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     folder = RunFolder.create(Path(directory, "run"), Settings(task="digits", optimizer="sgd"), command=None)
    ...     RunFolder.open(folder.path).settings().optimizer
    'sgd'
    """

    path: Path

    @property
    def settings_file(self) -> Path:
        """Settings file, which can be passed to `dashpot train --config`."""
        return self.path / "run.toml"

    @property
    def record(self) -> Path:
        """Record of the run, in the format read by `dashpot.comparison.read_run`."""
        return self.path / "run.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> dict[str, Path]:
        """Path of each kind of log."""
        return {name: self.path / file for name, file in LOGS.items()}

    @property
    def watch_file(self) -> Path:
        """Measurements of a run with the setting `watch`."""
        return self.path / "watch.jsonl"

    @property
    def repeat_command(self) -> str:
        """Command that starts a new run with the same settings."""
        return f"dashpot train --config {shell_quoted(self.settings_file)}"

    @property
    def resume_command(self) -> str:
        """Command that resumes this run."""
        return f"dashpot train --resume {shell_quoted(self.path)}"

    @classmethod
    def create(cls, out: Path | None, settings: Settings, *, command: str | None) -> RunFolder:
        """Create the folder of a new run and write its settings.

        Args:
            out: Path of the folder, which must be missing or empty; None creates a numbered folder under `runs/`.
            settings: Settings of the run.
            command: Command line that starts the run, stored in `run.toml`.

        Raises:
            RunError: If `out` is not empty or cannot be written.
        """
        folder = cls(_make_numbered(Path("runs") / default_folder_name(settings)) if out is None else _make_empty(out))
        folder.write(settings, command=command)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            RunError: If the folder has no `run.toml` or cannot be read.
        """
        folder = cls(path)
        if not exists(folder.settings_file):
            raise RunError(f"{path} is not the folder of a run: it has no run.toml.")
        return folder

    def settings(self) -> Settings:
        """Read `run.toml`."""
        return Settings.of(read_settings(self.settings_file))

    def command(self) -> str | None:
        """Read the command line from `run.toml`; return None if the command line is missing."""
        command = read_made_by(self.settings_file).get("command")
        return command if isinstance(command, str) else None

    def write(self, settings: Settings, *, command: str | None) -> None:
        """Write `run.toml`, after copying an existing one to a numbered file."""
        if exists(self.settings_file):
            _back_up(self.settings_file)
        write_settings(self.settings_file, settings, made_by(command))

    def back_up_record(self) -> Path:
        """Copy the record to a numbered file in the same folder and return its path."""
        return _back_up(self.record)

    def remove_partial_files(self) -> None:
        """Remove files that a killed process has not completed; the folder must be locked."""
        remove_partial_files(self.path, r"run(-\d+)?\.(toml|jsonl)|(log|watch)\.(csv|jsonl)|nonfinite-.+\.pt")

    def run(self) -> Run | None:
        """Read the record; return None if the record does not exist."""
        if not exists(self.record):
            return None
        advice = f"{self.repeat_command} starts a new run"
        return check_header(read_run(self.record, advice=advice), RESUMABLE, advice=advice)


def default_folder_name(settings: Settings) -> str:
    """Return the name of the folder of a run that is started without `--out`.

    >>> default_folder_name(Settings(task="my tasks/mine.py:build", optimizer="sgd", seed=3))
    'mine-sgd-seed3'
    """
    spec = settings.task
    if is_file_spec(spec):
        path, _, _ = spec.rpartition(":")
        spec = Path(path if path.endswith(".py") else spec).stem
    task = "".join(c if c.isalnum() or c in "-_." else "-" for c in spec)
    return f"{task}-{entry_name(settings.optimizer)}-seed{settings.seed}"


def made_by(command: str | None) -> dict[str, Any]:
    """Return the provenance table of a settings file: software versions, current time and command line."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {**versions(), "written": now, **({"command": command} if command else {})}


def path_argument(path: Path) -> str:
    """Format a path as a command-line argument; `./` is put before a leading dash, which would mark an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def shell_quoted(path: Path) -> str:
    """Format a path as an argument of a shell command.

    >>> shell_quoted(Path("runs/one")), shell_quoted(Path("my runs")), shell_quoted(Path("-one"))
    ('runs/one', "'my runs'", './-one')
    """
    return shlex.quote(path_argument(path))


def exists(path: Path) -> bool:
    """Return whether a file or folder exists.

    Raises:
        RunError: If this cannot be determined, for example because of missing search permission.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _read_error(path, error) from error
    return True


def list_names(path: Path) -> list[str] | None:
    """Return the names of the items in a folder, or None if the folder does not exist.

    Raises:
        RunError: If `path` is not a folder or cannot be read.
    """
    try:
        return [item.name for item in path.iterdir()]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _read_error(path, error) from error


def _read_error(path: Path, error: OSError) -> RunError:
    return RunError(f"Cannot read {path}: {error.strerror or error}.")


def _back_up(path: Path) -> Path:
    """Copy a file to the first free numbered name, such as `run-1.toml`, and return that path."""
    copy = next(file for k in count(1) if not exists(file := path.with_name(f"{path.stem}-{k}{path.suffix}")))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _read_error(path, error) from error
    write_bytes(copy, content)
    return copy


def _make_empty(path: Path) -> Path:
    """Create the folder `path` if it is missing, and check that it is empty, except for files of a killed start."""
    if exists(path / "run.toml"):
        raise RunError(f"{path} contains a run; resume it with --resume {shell_quoted(path)}, or use another folder.")
    if path.is_dir() and not all(map(_PARTIAL_SETTINGS.fullmatch, list_names(path) or [])):
        raise RunError(f"{path} is neither empty nor the folder of a run; choose another folder.")
    return make_folder(path)


def _make_numbered(path: Path) -> Path:
    """Create the first of `path`, `path-2`, `path-3`, ... that does not exist; safe for concurrent runs."""
    make_folder(path.parent)
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"Cannot write {candidate}: {error.strerror or error}.") from error
        return candidate
    raise AssertionError
