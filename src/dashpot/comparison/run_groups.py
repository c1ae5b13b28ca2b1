"""Methods among separate training runs: runs with the same settings apart from the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.records import Run

OWN = ("seed", "data_dir", "threads", "log", "keep", "checkpoint_every", "watch", "watch_budget", "accelerator")
"""Settings in which runs of one method may differ."""


def method_names(runs: Sequence[Run]) -> list[str]:
    """Return the name of the method of each run.

    Runs with different settings are different methods. If several of them have the same optimizer, their names contain
    the settings in which they differ.

    Args:
        runs: Records of `dashpot train`.

    Raises:
        RunError: If two runs of one method have the same seed.
    """
    settings = [_settings(run) for run in runs]
    keys = [json.dumps([run.entry, own], sort_keys=True, default=str) for run, own in zip(runs, settings, strict=True)]
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    names = {}
    for key, k in first.items():
        others = [settings[j] for j in first.values() if runs[j].entry == runs[k].entry]
        names[key] = _name(runs[k].entry, settings[k], others)
    found = [names[key] for key in keys]
    _check_seeds(runs, found)
    return found


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings of a run, with those of tables by their own names."""
    flat: dict[str, Any] = {"lr": run.header.get("lr")}
    for name, value in run.header.get("run", {}).items():
        if isinstance(value, Mapping):
            flat |= {str(key): item for key, item in value.items()}
        elif name not in OWN:
            flat[name] = value
    return flat


def _name(entry: str, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    different = [key for key in _keys(others) if any(other.get(key) != own.get(key) for other in others)]
    parts = [f"{key} {_text(own.get(key))}" for key in different]
    return f"{entry} ({', '.join(parts)})" if parts else entry


def _keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for own in settings for key in own))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "default" if value is None else str(value)


def _check_seeds(runs: Sequence[Run], names: Sequence[str]) -> None:
    known: dict[tuple[str, int], Run] = {}
    for run, name in zip(runs, names, strict=True):
        before = known.setdefault((name, run.seed), run)
        if before is not run:
            raise RunError(
                f"{name} seed {run.seed} occurs twice, in {before.path.parent} and {run.path.parent}; remove one of "
                "the folders."
            )
