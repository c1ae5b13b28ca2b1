"""The commands that list methods, tasks and schedules."""

from __future__ import annotations

from collections.abc import Mapping

from dashpot.names import METHODS, SCHEDULES, TASKS, VARIANTS


def methods() -> None:
    """List the methods."""
    print_table({name: method.summary for name, method in METHODS.items()})
    print(f"Variants: {', '.join(VARIANTS)} (AutoSGM with this learning-rate numerator).")
    print("Also torch.optim.NAME for the classes of torch, and path/to/file.py:NAME for a class or factory in a file.")


def tasks() -> None:
    """List the built-in tasks."""
    print("\n".join(TASKS))
    print("path/to/file.py:function  a user-defined task: a function that returns a dashpot.tasks.Task")


def schedules() -> None:
    """List the names for --schedule, each with its options, as in --schedule warmup-cosine:warmup=0.05,floor=0.1."""
    print_table(SCHEDULES)


def print_table(rows: Mapping[str, str]) -> None:
    """Print names and descriptions in two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
