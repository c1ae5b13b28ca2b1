"""The folder of one training run: what is in it, and what may not be mixed in it."""

from __future__ import annotations

import datetime
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dashpot.comparison.environment import versions
from dashpot.comparison.records import Run, read_run
from dashpot.errors import RunError
from dashpot.training.files import make_folder
from dashpot.training.lock import locked
from dashpot.training.settings import Settings, read_settings, write_settings

__all__ = ["RunFolder", "default_name"]


@dataclass(frozen=True)
class RunFolder:
    """`run.toml` (the settings that repeat it), `run.jsonl` (its record), `checkpoints/`, and logs where wanted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = RunFolder.new(Path(place, "run"), Settings(task="digits", optimizer="sgd"), command=None)
    ...     RunFolder.existing(folder.path).settings().optimizer
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

    @classmethod
    def new(cls, out: Path | None, settings: Settings, *, command: str | None) -> RunFolder:
        """Make the folder of a new run and write its settings; by default a numbered one under `runs/`.

        Raises:
            RunError: `out` holds something already, or cannot be written.
        """
        folder = cls(_numbered(Path("runs") / default_name(settings)) if out is None else _empty(out))
        folder.write(settings, command=command)
        return folder

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The folder of a run that has begun.

        Raises:
            RunError: there is no run in it.
        """
        folder = cls(path)
        if not folder.settings_file.is_file():
            raise RunError(f"{path} holds no run: there is no run.toml in it.")
        return folder

    def settings(self) -> Settings:
        """What `run.toml` says."""
        return Settings.of(read_settings(self.settings_file))

    def write(self, settings: Settings, *, command: str | None) -> None:
        """Write `run.toml`; an older one, whose settings were overridden, stays beside it under a number."""
        if self.settings_file.exists():
            kept = next(path for k in count(1) if not (path := self.path / f"run-{k}.toml").exists())
            kept.write_bytes(self.settings_file.read_bytes())
        write_settings(self.settings_file, settings, made_by(command))

    def run(self) -> Run | None:
        """The record, where there is one."""
        return read_run(self.record) if self.record.exists() else None

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out."""
        return locked(self.path)


def default_name(settings: Settings) -> str:
    """What a run's folder is called where nobody says.

    >>> default_name(Settings(task="my tasks/mine.py:build", optimizer="sgd", seed=3))
    'mine-sgd-seed3'
    """
    spec = Path(settings.task.rpartition(":")[0]).stem if ".py" in settings.task else settings.task
    task = "".join(c if c.isalnum() or c in "-_." else "-" for c in spec)
    return f"{task}-{settings.optimizer}-seed{settings.seed}"


def made_by(command: str | None) -> dict[str, Any]:
    """The table of a settings file that says where it comes from."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {**versions(), "written": now, **({"command": command} if command else {})}


def _empty(path: Path) -> Path:
    """`path`, made where it is missing; what holds anything is refused."""
    if (path / "run.toml").exists():
        raise RunError(f"{path} holds a run; go on with it by --resume {path}, or choose another folder.")
    if path.is_dir() and any(path.iterdir()):
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
