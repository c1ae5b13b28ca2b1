"""The output folder of a comparison: who owns it, where its files are, and what may not be mixed in it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.diff import diff_data
from dashpot.runs.files import make_folder, write_text
from dashpot.runs.lock import locked
from dashpot.runs.records import Run, encode, read_run

__all__ = ["StudyFolder", "diff_data"]

MAX_DIFFERENCES = 6


@dataclass(frozen=True)
class StudyFolder:
    """Paths and rules of one output folder: `study.json`, `runs/ENTRY-seedN.jsonl`, `report.html`."""

    path: Path

    def record(self, entry: str, seed: int) -> Path:
        """The record of one run."""
        return self.path / "runs" / f"{entry}-seed{seed}.jsonl"

    def checkpoint(self, entry: str, seed: int) -> Path:
        """The checkpoint of one unfinished run."""
        return self.path / "runs" / f"{entry}-seed{seed}.ckpt"

    def prepare(self, settings: dict[str, Any], command: str | None) -> None:
        """Make the folder and note its settings, or check that it already holds a comparison with the same ones.

        Raises:
            RunError: the folder belongs to other settings (each difference is named), another process is at work in
                it, or it cannot be written.
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
                    f"{self.path} holds a comparison with other settings: {'; '.join(found[:MAX_DIFFERENCES])}{more}. "
                    "Nothing was changed; choose another folder or the same settings."
                )
        elif self.path.is_dir() and any(not _is_ours(item) for item in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no study.json; choose another folder.")
        make_folder(self.path)  # refuses a path that is no folder
        if not (self.path / "study.json").exists():
            study = {"format": 1, "command": command, "settings": settings}
            write_text(self.path / "study.json", json.dumps(json.loads(encode(study)), indent=2) + "\n")
        make_folder(self.path / "runs")

    def study(self) -> dict[str, Any]:
        """The contents of `study.json`.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.path / "study.json"
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
            methods, seeds = study["settings"]["methods"], study["settings"]["seeds"]
        except OSError as error:
            raise RunError(f"{self.path} holds no comparison: cannot read study.json ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged; restore it, or choose another folder.") from error
        if not isinstance(methods, dict) or not isinstance(seeds, list):
            raise RunError(f"{path} is damaged; restore it, or choose another folder.")
        return study

    def runs(self) -> list[Run]:
        """Every run that has begun, in the order of the study: methods as listed, then seeds.

        Raises:
            RunError: a record is damaged.
        """
        settings = self.study()["settings"]
        paths = [self.record(name, seed) for name in settings["methods"] for seed in settings["seeds"]]
        return [read_run(path) for path in paths if path.exists()]

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process out of the folder for as long as the block lasts.

        Raises:
            RunError: another process is running in this folder.
        """
        return locked(self.path) if self.path.is_dir() else nullcontext()


def _is_ours(item: Path) -> bool:
    """What a start that was killed may leave behind: an empty folder of runs, a part of study.json."""
    empty = item.name == "runs" and item.is_dir() and not any(item.iterdir())
    return empty or (item.name.startswith(".study.json") and item.name.endswith(".part"))


def _without_redundant_recipes(found: list[str]) -> list[str]:
    """Without the differences in recipes where the calls that make them differ already."""
    calls = [phrase for phrase in found if phrase.startswith("methods.")]
    return [phrase for phrase in found if not (calls and phrase.startswith("recipes."))]
