"""Loggers for experiment trackers: Weights & Biases and trackio."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import shown
from dashpot.errors import ArgumentError, RunError
from dashpot.training.callbacks.epoch_summary import EpochSummary
from dashpot.training.callbacks.logger import Logger
from dashpot.training.callbacks.wandb_files import stored_entries
from dashpot.utils.format import reason
from dashpot.utils.schema import COUNT, REAL, TEXT, ListOf, MapOf, Maybe, Record, Row, Rule, extended
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

RECENT = 1024
"""Number of latest entries in a checkpoint. A tracker may lose entries of the last seconds if the process is killed."""
STORE_INTERVAL = 1.0
"""Seconds after which trackio has stored all entries; it stores them every half second."""


class TrackingLogger(Logger):
    """Base class of loggers for experiment trackers.

    Every entry has a number. A resumed fit continues the tracker's run, omits the entries that the run already has, and
    logs those that the tracker has lost again, from the latest entries in the checkpoint. Subclasses define `start`,
    `identity`, `log` and `finish`.

    Args:
        project: Name of the project, or None for the tracker's default.
        name: Name of the run, or None for a generated name.
        config: Settings of the run, as plain data.
        every: Number of steps between step entries, an integer >= 1, or None for epoch entries only.
        values: Names of the values in a step entry, in addition to the loss; see `Recorder` for the names.
        options: Further arguments of the tracker's function `init`.
    """

    state_schema: ClassVar[Rule] = extended(
        Logger.state_schema,
        {
            "run": Maybe(Record({"project": Maybe(TEXT), "name": Maybe(TEXT), "id": TEXT})),
            "entries": COUNT,
            "recent": ListOf(Row((COUNT, MapOf(REAL)))),
        },
    )
    reserved: tuple[str, ...] = ()

    def __init__(
        self,
        project: str | None,
        name: str | None,
        config: Mapping[str, Any] | None,
        every: int | None,
        values: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(every, values)
        kind = type(self).__name__
        for label, text in (("project", project), ("name", name)):
            if text is not None and (not isinstance(text, str) or not text):
                raise ArgumentError(f"{kind}: {label} must be None or a non-empty string, got {text!r}.")
        if config is not None and not isinstance(config, Mapping):
            raise ArgumentError(
                f"{kind}: config must be None or a mapping of names to plain data, got {shown(config)}."
            )
        for option in options:
            if option in self.reserved:
                raise ArgumentError(f"{kind}: {option} must not be given, because {kind} sets it.")
        self.project, self.name, self.config, self.options = project, name, dict(config or {}), dict(options)

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def start(self, saved: Mapping[str, Any] | None) -> int:
        """Start a run, or continue the run that `saved` identifies; return the number of entries that the run has."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return plain data that identify the run."""
        raise NotImplementedError

    def log(self, values: Mapping[str, float], step: int, number: int) -> None:
        """Log the entry `number`, counted from 0, of an optimizer step."""
        raise NotImplementedError

    def finish(self, failed: bool) -> None:
        """End the run."""
        raise NotImplementedError

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._saved: dict[str, Any] | None = None
        self._entries, self._stored, self._failed = 0, 0, False
        self._recent: deque[tuple[int, dict[str, float]]] = deque(maxlen=RECENT)  # step and values

    def open(self) -> None:
        self._stored = self.start(self._saved)
        self._saved = self.identity()
        first = self._entries - len(self._recent)
        if self._stored < first:
            warn(
                f"{type(self).__name__}: the entries {self._stored + 1} to {first} of the run are missing in the "
                "tracker and in the checkpoint."
            )
        for number, (step, values) in enumerate(self._recent, first):
            if number >= self._stored:
                self.log(values, step, number)

    def write_epoch(self, summary: EpochSummary) -> None:
        means = {f"{phase}/{name}": v for phase, values in summary.phases.items() for name, v in values.items()}
        rest = {"epoch": summary.number, "epoch/lr": summary.lr, "epoch/seconds": summary.seconds}
        self._add(means | {name: value for name, value in rest.items() if value is not None}, summary.steps)

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._add({"epoch": epoch, **{f"step/{name}": value for name, value in values.items()}}, step)

    def _add(self, values: Mapping[str, float], step: int) -> None:
        if self._entries >= self._stored:
            self.log(values, step, self._entries)
        self._entries += 1
        self._recent.append((step, dict(values)))

    def cleanup_fit(self, learner: Learner) -> None:
        self._failed = learner.loop.unwinding is not None
        super().cleanup_fit(learner)

    def close(self) -> None:
        self.finish(self._failed)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the logger, with the identity and the number of entries of the run."""
        inherited = super().state_dict()  # writes pending entries
        recent = [[step, values] for step, values in self._recent]
        return {**inherited, "run": self._saved, "entries": self._entries, "recent": recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the identity and the number of entries of the run.

        Raises:
            RunError: If the run of the checkpoint belongs to a different project.
        """
        super().load_state_dict(state)
        self._saved, self._entries = state["run"], state["entries"]
        self._recent.extend((step, values) for step, values in state["recent"])
        if self._saved is not None and self._saved["project"] != self.project:
            kind, saved = type(self).__name__, self._saved["project"]
            raise RunError(f"{kind}: project must be that of the checkpoint, {saved!r}, got {self.project!r}.")


class WandB(TrackingLogger):
    """Logger for Weights & Biases.

    The names are `train/loss`, `eval/loss`, ..., `epoch/lr` and `epoch/seconds` for epochs and, if `every` is given,
    `step/loss`, `step/lr`, ... for steps. The x axis of all charts is the optimizer step. A resumed fit continues the
    run with the same id; entries that the run already has are not logged again, so entries after the checkpoint that
    differ, because the fit was resumed with other settings, keep their first values. Entries that W&B has lost, because
    the process was killed, are logged again.

    Without network access, set the environment variable WANDB_MODE to "offline" or pass `mode="offline"`: entries are
    then written to files, which `wandb sync` uploads. Only rank 0 logs.

    Args:
        project: Name of the project. Default: WANDB_PROJECT or that of W&B.
        name: Name of the run. Default: generated.
        folder: Folder in which W&B creates its folder `wandb`. Default: WANDB_DIR or the current folder.
        config: Settings of the run, as plain data.
        every: Number of steps between step entries, an integer >= 1; None for epoch entries only.
        values: Names of the values in step entries, in addition to the loss; see `Recorder` for the names.
        options: Further arguments of `wandb.init`, such as `entity`, `tags` and `mode`.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range.
        RunError: If wandb is not installed or, when the fit begins, W&B cannot start the run.
    """

    reserved = ("id", "resume", "resume_from", "fork_from", "reinit", "dir")

    def __init__(
        self,
        project: str | None = None,
        *,
        name: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        every: int | None = None,
        values: Sequence[str] = ("lr",),
        **options: Any,
    ) -> None:
        super().__init__(project, name, config, every, values, options)
        if folder is not None and not isinstance(folder, (str, os.PathLike)):
            raise ArgumentError(f"WandB: folder must be None or a path, got {folder!r}.")
        self.folder = None if folder is None else Path(folder)
        self._wandb = _import("WandB", "wandb")

    def start(self, saved: Mapping[str, Any] | None) -> int:
        offline = self.options.get("mode", os.environ.get("WANDB_MODE")) in ("offline", "dryrun")
        again = {} if saved is None else {"id": saved["id"], **({} if offline else {"resume": "allow"})}
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = self._wandb.init(
                project=self.project,
                name=self.name if saved is None else saved["name"],
                dir=None if self.folder is None else str(self.folder),
                config=self.config,
                reinit="create_new",
                **again,
                **self.options,
            )
        except self._wandb.errors.Error as error:
            raise RunError(
                f"WandB: the run cannot be started: {reason(error)}; set WANDB_MODE=offline to log without "
                "network access."
            ) from error
        self.run.define_metric("*", step_metric="step")
        if saved is None or self.run.disabled:
            return 0 if saved is None else self._entries
        if not offline:
            return self.run.starting_step
        folder = Path(self.run.dir).parent
        return stored_entries(folder.parent, saved["id"], own=folder / f"run-{saved['id']}.wandb")

    def identity(self) -> dict[str, Any]:
        return {"project": self.project, "name": self.run.name, "id": self.run.id}

    def log(self, values: Mapping[str, float], step: int, number: int) -> None:
        self.run.log({**values, "step": step}, step=number, commit=True)

    def finish(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackio(TrackingLogger):
    """Logger for trackio, whose runs are stored locally; `trackio show` displays them.

    The names are those of `WandB`, and the step of an entry is the optimizer step. A resumed fit continues the run;
    entries that the run already has are not logged again. Only rank 0 logs.

    Args:
        project: Name of the project.
        name: Name of the run. Default: generated by trackio.
        config: Settings of the run, as plain data.
        every: Number of steps between step entries, an integer >= 1; None for epoch entries only.
        values: Names of the values in step entries, in addition to the loss; see `Recorder` for the names.
        options: Further arguments of `trackio.init`, such as `group` and `space_id`. In a Space, a resumed fit logs the
            entries after the checkpoint again.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range.
        RunError: If trackio is not installed or, when the fit begins, the run cannot be started or continued.
    """

    reserved = ("resume",)

    def __init__(
        self,
        project: str,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        every: int | None = None,
        values: Sequence[str] = ("lr",),
        **options: Any,
    ) -> None:
        super().__init__(project, name, config, every, values, options)
        if project is None:
            raise ArgumentError("Trackio: project must be a non-empty string, got None.")
        self._trackio = _import("Trackio", "trackio")
        self._is_remote = any(options.get(option) for option in ("space_id", "server_url"))

    def start(self, saved: Mapping[str, Any] | None) -> int:
        name, resume = (self.name, "never") if saved is None else (saved["name"], "allow")
        given = {"embed": False, **self.options}
        try:
            self.run = self._trackio.init(self.project, name=name, config=self.config, resume=resume, **given)
        except (ValueError, OSError) as error:
            raise RunError(f"Trackio: the run cannot be started: {error}") from error
        if saved is None:
            return 0
        stored = self._entries if self._is_remote else self._count()
        if self.run.id != saved["id"] and stored and not self._is_remote:
            self._trackio.finish()
            raise RunError(
                f"Trackio: the latest run {name!r} of the project {self.project!r} is not the run of the checkpoint; "
                "delete or rename it to resume."
            )
        return stored

    def identity(self) -> dict[str, Any]:
        return {"project": self.project, "name": self.run.name, "id": self.run.id}

    def log(self, values: Mapping[str, float], step: int, number: int) -> None:
        self.run.log(dict(values), step=step)

    def sync(self) -> None:
        """Store all entries, which trackio otherwise does in a thread, every half second."""
        store = getattr(self.run, "_flush_queues_inline", None)
        if self._is_remote or store is None:
            time.sleep(0.0 if self._is_remote else STORE_INTERVAL)
            return
        with self.run._client_lock:
            store()

    def _count(self) -> int:
        """Return the number of stored entries of the run."""
        from trackio.sqlite_storage import SQLiteStorage

        return len(SQLiteStorage.get_logs(self.run.project, self.run.name, run_id=self.run.id))

    def finish(self, failed: bool) -> None:
        self._trackio.finish()


def _import(owner: str, package: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise RunError(f"{owner} needs {package}: pip install 'dashpot[{package}]'.") from error
