"""Swept learning rates of methods, as columns of the tables of docs/compare.md.

    python benchmarks/sweep.py adagrad [--tasks digits quadratic]    # default: all tasks
    python benchmarks/sweep.py all --tasks digits --out sweep.json   # interrupted: the same command continues

For each method and task: the best rate, the score of its run on the validation data, and the searched range. The runs
use one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from table import table

from dashpot import tasks
from dashpot.comparison.sweep import sweep
from dashpot.runs.default_lr import TUNED_LR
from dashpot.utils.atomic_files import write_atomically

TASKS = ("digits", "fashion-mnist", "quadratic", "noisy-quadratic", "rosenbrock", "saddle")
NOISELESS = ("quadratic", "rosenbrock", "saddle")
"""Tasks on which the criterion is the number of epochs to the target."""


def result(method: str, task: tasks.Task) -> dict[str, Any]:
    """Return the best rate, the score of its run, and all rates in the order of their scores."""
    trials = sweep(task, method, by="target" if task.name in NOISELESS else "score")
    return {"lr": trials[0].lr, "score": trials[0].score, "rates": [trial.lr for trial in trials]}


def results(methods: list[str], names: list[str], path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the results by "TASK METHOD"; those in the file `path` are kept, and each new one is added to it."""
    found = json.loads(path.read_text()) if path is not None and path.exists() else {}
    for name in names:
        task = tasks.get(name)
        for method in methods:
            if f"{name} {method}" not in found:
                found[f"{name} {method}"] = result(method, task)
                if path is not None:
                    write_atomically(path, lambda file: file.write(json.dumps(found, indent=1).encode()))
    return found


def rows(methods: list[str], cell: Callable[[str], str]) -> list[list[str]]:
    """Return a row per method, with a cell per task that was swept."""
    return [[method, *(cell(f"{task} {method}") for task in TASKS)] for method in methods]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("methods", nargs="+", metavar="METHOD", help="names of methods, or all")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", choices=TASKS, default=TASKS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file of the results, which is continued")
    given = parser.parse_args()
    methods = list(TUNED_LR["digits"]) if given.methods == ["all"] else given.methods
    torch.set_num_threads(1)
    found = results(methods, given.tasks, given.out)

    def best(key: str) -> str:
        return f"{found[key]['lr']:g} ({found[key]['score']:.4g})" if key in found else ""

    def searched(key: str) -> str:
        return f"{min(found[key]['rates']):g} to {max(found[key]['rates']):g}" if key in found else ""

    for cell in (best, searched):
        print(table(["method", *TASKS], rows(methods, cell)), end="\n\n")


if __name__ == "__main__":
    main()
