"""Output folder of a comparison: file layout, settings and lock.

| file | content |
|---|---|
| `study.json` | format, settings, command, and the names from which a worker makes the study again |
| `study.journal` | outcomes of all items, unless a database stores them |
| `tuning/METHOD-trialN.jsonl` | records of the tuning trials |
| `runs/METHOD-seedN.jsonl` | records of the judged runs |
| `sensitivity/METHOD-xFACTOR-seedN.jsonl` | records of the runs at wrong learning rates |
| `summary.md`, `report.html` | summary and report |
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashpot.comparison.item_keys import rate_keys, record_path, trial_keys
from dashpot.errors import RunError
from dashpot.runs.files import make_folder, remove_partial_files, write_text
from dashpot.runs.lock import locked
from dashpot.runs.records import COMPARABLE, NAME, SCORE, SEED, Run, check_header, read_run
from dashpot.utils.diff import diff_data
from dashpot.utils.passwords import without_passwords
from dashpot.utils.schema import (
    COUNT,
    PLAIN,
    POSITIVE_COUNT,
    REAL,
    TEXT,
    ListOf,
    MapOf,
    Maybe,
    Record,
    SchemaError,
    require,
)
from dashpot.utils.strict_json import decode, encode

FORMAT = 2
MAX_DIFFERENCES = 6
LOCK_WAIT = 10.0
"""Seconds to wait for another process that prepares the folder."""
STALE = 600.0
"""Seconds after which a partial file belongs to no running process."""
FOLDERS = ("tuning", "runs", "sensitivity")
DIMENSION = Record({"low": REAL, "high": REAL, "log": PLAIN})
TUNING = Record(
    {
        "budget": COUNT,
        "seed": SEED,
        "sampler": TEXT,
        "pruner": TEXT,
        "spaces": MapOf(MapOf(DIMENSION), key=NAME),
    }
)
STUDY = Record(
    {
        "command": Maybe(TEXT),
        "settings": Record(
            {
                "task": TEXT,
                "config": MapOf(PLAIN),
                "score": SCORE,
                "epochs": POSITIVE_COUNT,
                "steps_per_epoch": POSITIVE_COUNT,
                "steps": POSITIVE_COUNT,
                "evaluate_every": POSITIVE_COUNT,
                "seeds": ListOf(SEED),
                "looks": ListOf(POSITIVE_COUNT),
                "methods": MapOf(TEXT, key=NAME, least=1),
                "tuning": TUNING,
                "rates": Record({"factors": ListOf(REAL), "seeds": ListOf(SEED)}),
            },
            optional={"recipes": MapOf(TEXT), "threads": PLAIN, "files": MapOf(TEXT, key=NAME)},
        ),
    },
    optional={"names": Maybe(MapOf(PLAIN))},
)
"""Rule of `study.json`."""


@dataclass(frozen=True)
class StudyFolder:
    """Output folder of a comparison; see the table of this module."""

    path: Path

    def item_record(self, key: str) -> Path:
        """Return the path of the record of an item."""
        return self.path / record_path(key)

    def record(self, entry: str, seed: int) -> Path:
        """Return the path of the record of a judged run."""
        return self.item_record(f"run/{entry}/{seed}")

    def checkpoint(self, entry: str, seed: int) -> Path:
        """Return the path of the checkpoint of an unfinished run."""
        return self.record(entry, seed).with_suffix(".ckpt")

    def prepare(
        self,
        settings: dict[str, Any],
        command: str | None,
        names: Mapping[str, Any] | None = None,
        *,
        wait: float | None = None,
    ) -> bool:
        """Create the folder and write `study.json`; an existing file must contain the same settings.

        Other processes may work in the folder at the same time.

        Args:
            settings: Settings of the study, as plain data.
            command: Command line that repeats the study, or None. A password in an address is not stored.
            names: Names from which a worker makes the study again, or None; see `dashpot.runs.study_names`.
            wait: Seconds to wait for another process that prepares the folder, >= 0. Default: 10.

        Returns:
            Whether `study.json` is new.

        Raises:
            RunError: If the folder contains other files, a study of an older version, or a study with different
                settings (the message lists the differences), is locked by another process, or cannot be written.
        """
        if not self.path.exists():
            make_folder(self.path)
        with self.locked(LOCK_WAIT if wait is None else wait):
            return self._prepare(settings, command, names)

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Check that the study of the folder has the given settings.

        Raises:
            RunError: If `study.json` is missing or damaged, or has other settings (the message lists the differences).
        """
        found = _without_redundant_recipes(diff_data(self.study()["settings"], json.loads(encode(settings))))
        if found:
            more = f" and {len(found) - MAX_DIFFERENCES} more" if len(found) > MAX_DIFFERENCES else ""
            raise RunError(
                f"{self.path} contains a comparison with different settings: "
                f"{'; '.join(found[:MAX_DIFFERENCES])}{more}. Nothing was changed; use a different folder or the same "
                "settings."
            )

    def discard(self) -> None:
        """Remove `study.json` after a failed start, so that the folder can be used for other settings.

        A folder with other files, such as records, remains unchanged.
        """
        study = self.path / "study.json"
        with contextlib.suppress(OSError):
            if all(item == study or _is_ours(item) for item in self.path.iterdir()):
                study.unlink(missing_ok=True)

    def _prepare(self, settings: dict[str, Any], command: str | None, names: Mapping[str, Any] | None) -> bool:
        is_new = not (self.path / "study.json").exists()
        if not is_new:
            self.check_settings(settings)
        elif self.path.is_dir() and any(not _is_ours(item) for item in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and has no study.json; use a different folder.")
        make_folder(self.path)  # rejects a path that is not a folder
        remove_partial_files(self.path, r"study\.json|summary\.md|report\.html", age=STALE)
        for name in FOLDERS:
            remove_partial_files(self.path / name, r".+\.(jsonl|ckpt)", age=STALE)
        if is_new:
            hidden = None if command is None else without_passwords(command)
            study = {"format": FORMAT, "command": hidden, "settings": settings, "names": names}
            write_text(self.path / "study.json", json.dumps(json.loads(encode(study)), indent=2) + "\n")
        make_folder(self.path / "runs")
        return is_new

    def study(self) -> dict[str, Any]:
        """Return the contents of `study.json`.

        Raises:
            RunError: If the file is missing, damaged, or of a different format.
        """
        path = self.path / "study.json"
        try:
            study = decode(path.read_bytes())
            _check_format(path, study)
            require(STUDY, study)
        except OSError as error:
            raise RunError(f"{self.path} is not a comparison: cannot read study.json ({error.strerror}).") from error
        except ValueError as error:
            reason = f": {error}" if isinstance(error, SchemaError) else ""
            raise RunError(f"{path} is damaged{reason}; restore it or use a different folder.") from error
        return study

    def runs(self) -> list[Run]:
        """Return all judged runs that have been started, ordered by method and then by seed.

        Raises:
            RunError: If a record is damaged.
        """
        settings = self.study()["settings"]
        return self._started(f"run/{name}/{seed}" for name in settings["methods"] for seed in settings["seeds"])

    def trials(self) -> list[Run]:
        """Return all tuning trials that have been started, ordered by method and then by number; see `runs`."""
        settings = self.study()["settings"]
        return self._started(key for name in settings["methods"] for key in trial_keys(settings, name))

    def rate_runs(self) -> list[Run]:
        """Return all runs at wrong learning rates that have been started; see `runs`."""
        return self._started(rate_keys(self.study()["settings"]))

    def _started(self, keys: Iterable[str]) -> list[Run]:
        return [self._read(key) for key in keys if self.item_record(key).exists()]

    def _read(self, key: str) -> Run:
        """Read a record, and check that it contains the values in the summary and the report."""
        run = check_header(read_run(self.item_record(key)), COMPARABLE)
        score = run.header["score"]
        if run.header.get("item") != key or run.entry != key.split("/")[1]:
            raise _damaged(run, f"it is not the record of {key}")
        for number, epoch in enumerate(run.epochs, start=1):
            missing = [f"{phase} loss" for phase in ("train", "eval") if epoch[phase] and "loss" not in epoch[phase]]
            missing += [name for name in ("cpu_s", "wall_s") if name not in epoch]
            if score["metric"] not in epoch[score["phase"]]:
                missing.append(f"{score['phase']} {score['metric']}")
            if missing:
                raise _damaged(run, f"epoch {number} lacks {', '.join(missing)}")
        return run

    def locked(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """Return a context manager that locks the folder against other processes, or a no-op if there is no folder.

        Raises:
            RunError: If another process has locked the folder and does not release it within `wait` seconds.
        """
        return locked(self.path, wait=wait) if self.path.is_dir() else nullcontext()


def _damaged(run: Run, reason: str) -> RunError:
    return RunError(f"The record {run.path} is damaged: {reason}; delete it to repeat that run.")


def _check_format(path: Path, study: Any) -> None:
    found = study.get("format") if isinstance(study, dict) else None
    if found == 1:
        raise RunError(
            f"{path} was written by an older version of dashpot; use a new folder, or read it with the version that "
            "wrote it."
        )
    if isinstance(found, int) and not isinstance(found, bool) and found > FORMAT:
        raise RunError(f"{path} was written by a newer version of dashpot; this version reads format {FORMAT}.")
    if found != FORMAT:
        raise SchemaError(f"format must be {FORMAT}")


def _is_ours(item: Path) -> bool:
    """Return whether `item` remains from a killed start: an empty `runs` folder or a partial `study.json`."""
    empty = item.name == "runs" and item.is_dir() and not any(item.iterdir())
    return empty or (item.name.startswith(".study.json") and item.name.endswith(".part"))


def _without_redundant_recipes(found: list[str]) -> list[str]:
    """Drop differences between recipes if the calls that build the recipes also differ."""
    calls = [phrase for phrase in found if phrase.startswith("methods.")]
    return [phrase for phrase in found if not (calls and phrase.startswith("recipes."))]
