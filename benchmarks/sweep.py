"""Swept learning rates of methods, as columns of the tables of docs/compare.md.

    python benchmarks/sweep.py adagrad [--tasks digits quadratic]    # default: all tasks

For each method and task: the best rate, the score of its run, and the searched range. The runs use one thread.
"""

from __future__ import annotations

import argparse

import torch
from table import table

from dashpot import tasks
from dashpot.comparison.sweep import sweep

TASKS = ("digits", "fashion-mnist", "quadratic", "noisy-quadratic", "rosenbrock", "saddle")
NOISELESS = ("quadratic", "rosenbrock", "saddle")
"""Tasks on which the criterion is the number of epochs to the target."""


def row(method: str, task: str) -> list[str]:
    """Return a row of the table."""
    trials = sweep(tasks.get(task), method, by="target" if task in NOISELESS else "score")
    rates = [trial.lr for trial in trials]
    best = trials[0]
    return [method, task, f"{best.lr:g}", f"{best.score:.4g}", f"{min(rates):g} to {max(rates):g}", str(len(trials))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+", metavar="METHOD")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(method, task) for method in given.methods for task in given.tasks]
    print(table(["method", "task", "lr", "score", "searched", "runs"], rows))


if __name__ == "__main__":
    main()
