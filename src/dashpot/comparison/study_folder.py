"""Output folder of a comparison: file layout, settings and lock."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.files import make_folder, remove_partial_files, write_text
from dashpot.runs.lock import locked
from dashpot.runs.records import COMPARABLE, NAME, SCORE, SEED, Run, check_header, read_run
from dashpot.utils.diff import diff_data
from dashpot.utils.schema import PLAIN, POSITIVE_COUNT, TEXT, ListOf, MapOf, Maybe, Record, SchemaError, require
from dashpot.utils.strict_json import decode, encode

MAX_DIFFERENCES = 6
STUDY = Record(
    {
        "command": Maybe(TEXT),
        "settings": Record(
            {
                "task": TEXT,
                "config": MapOf(PLAIN),
                "epochs": POSITIVE_COUNT,
                "steps_per_epoch": POSITIVE_COUNT,
                "seeds": ListOf(SEED, least=1),
                "methods": MapOf(TEXT, key=NAME, least=1),
            },
            optional={"score": SCORE, "recipes": MapOf(TEXT), "threads": PLAIN},
        ),
    }
)
"""Rule of `study.json`."""


@dataclass(frozen=True)
class StudyFolder:
    """Output folder with `study.json`, `runs/ENTRY-seedN.jsonl`, `summary.md` and `report.html`."""

    path: Path

    def record(self, entry: str, seed: int) -> Path:
        """Return the path of the record of a run."""
        return self.path / "runs" / f"{entry}-seed{seed}.jsonl"

    def checkpoint(self, entry: str, seed: int) -> Path:
        """Return the path of the checkpoint of an unfinished run."""
        return self.path / "runs" / f"{entry}-seed{seed}.ckpt"

    def prepare(self, settings: dict[str, Any], command: str | None) -> None:
        """Create the folder and write `study.json`; an existing file must contain the same settings.

        Args:
            settings: Settings of the study, as plain data.
            command: Command line that repeats the study, or None.

        Raises:
            RunError: If the folder contains other files or a study with different settings (the message lists the
                differences), is locked by another process, or cannot be written.
        """
        if not self.path.exists():
            make_folder(self.path)
        with self.locked():
            self._prepare(settings, command)

    def _prepare(self, settings: dict[str, Any], command: str | None) -> None:
        if (self.path / "study.json").exists():
            found = _without_redundant_recipes(diff_data(self.study()["settings"], json.loads(encode(settings))))
            if found:
                more = f" and {len(found) - MAX_DIFFERENCES} more" if len(found) > MAX_DIFFERENCES else ""
                raise RunError(
                    f"{self.path} contains a comparison with different settings: "
                    f"{'; '.join(found[:MAX_DIFFERENCES])}{more}. Nothing was changed; use a different folder or the "
                    "same settings."
                )
        elif self.path.is_dir() and any(not _is_ours(item) for item in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and has no study.json; use a different folder.")
        make_folder(self.path)  # rejects a path that is not a folder
        remove_partial_files(self.path, r"study\.json|summary\.md|report\.html")
        remove_partial_files(self.path / "runs", r".+\.(jsonl|ckpt)")
        if not (self.path / "study.json").exists():
            study = {"format": 1, "command": command, "settings": settings}
            write_text(self.path / "study.json", json.dumps(json.loads(encode(study)), indent=2) + "\n")
        make_folder(self.path / "runs")

    def study(self) -> dict[str, Any]:
        """Return the contents of `study.json`.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = self.path / "study.json"
        try:
            study = decode(path.read_bytes())
            require(STUDY, study)
        except OSError as error:
            raise RunError(f"{self.path} is not a comparison: cannot read study.json ({error.strerror}).") from error
        except ValueError as error:
            reason = f": {error}" if isinstance(error, SchemaError) else ""
            raise RunError(f"{path} is damaged{reason}; restore it or use a different folder.") from error
        return study

    def runs(self) -> list[Run]:
        """Return all runs that have been started, ordered by method and then by seed, in the order of the settings.

        Raises:
            RunError: If a record is damaged.
        """
        settings = self.study()["settings"]
        paths = [self.record(name, seed) for name in settings["methods"] for seed in settings["seeds"]]
        return [self._read(path) for path in paths if path.exists()]

    def _read(self, path: Path) -> Run:
        """Read a record, and check that it contains the values in the summary and the report."""
        run = check_header(read_run(path), COMPARABLE)
        score = run.header["score"]
        for number, epoch in enumerate(run.epochs, start=1):
            missing = [f"{phase} loss" for phase in ("train", "eval") if epoch[phase] and "loss" not in epoch[phase]]
            missing += [name for name in ("cpu_s", "wall_s") if name not in epoch]
            if score["metric"] not in epoch[score["phase"]]:
                missing.append(f"{score['phase']} {score['metric']}")
            if missing:
                lost = ", ".join(missing)
                raise RunError(
                    f"The record {path} is damaged: epoch {number} lacks {lost}; delete it to repeat that run."
                )
        return run

    def locked(self) -> AbstractContextManager[None]:
        """Return a context manager that locks the folder against other processes, or a no-op if there is no folder.

        Raises:
            RunError: If another process has locked the folder.
        """
        return locked(self.path) if self.path.is_dir() else nullcontext()


def _is_ours(item: Path) -> bool:
    """Return whether `item` remains from a killed start: an empty `runs` folder or a partial `study.json`."""
    empty = item.name == "runs" and item.is_dir() and not any(item.iterdir())
    return empty or (item.name.startswith(".study.json") and item.name.endswith(".part"))


def _without_redundant_recipes(found: list[str]) -> list[str]:
    """Drop differences between recipes if the calls that build the recipes also differ."""
    calls = [phrase for phrase in found if phrase.startswith("methods.")]
    return [phrase for phrase in found if not (calls and phrase.startswith("recipes."))]
