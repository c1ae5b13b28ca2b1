"""Compact records: all lines of a record, with at most 200 values of the training loss, for a shared storage."""

from __future__ import annotations

import math
from typing import Any

from dashpot.runs.records import Run
from dashpot.utils.strict_json import encode

POINTS = 200


def compact_record(run: Run, points: int = POINTS) -> str:
    """Return the text of a record with thinned losses; `read_run` reads it like the record.

    A thinned value is the mean loss of consecutive steps, numbered by the last of them, rounded to 6 significant
    digits, and the learning rate of that step. A run of at most `points` steps keeps each step.

    Args:
        run: Contents of the record.
        points: Largest number of losses, at least 1.

    >>> from pathlib import Path
    >>> run = Run(Path("a.jsonl"), {"kind": "header", "entry": "sgd", "seed": 0}, [4.0, 2.0, 1.0, 0.0], [0.1] * 4)
    >>> print(compact_record(run, points=2).splitlines()[-1])
    {"kind":"thinned","steps":[2,4],"loss":[3.0,0.5],"lr":[0.1,0.1]}
    """
    lines: list[dict[str, Any]] = [run.header]
    lines += [] if run.initial is None else [run.initial]
    lines += [{"kind": "thinned", **_thinned(run, points)}, *run.epochs, *run.resumed]
    lines += [] if run.end is None else [run.end]
    return "".join(encode(line) + "\n" for line in lines)


def _thinned(run: Run, points: int) -> dict[str, list[Any]]:
    count = len(run.loss)
    stride = max(1, math.ceil(count / points))
    ends = [min(start + stride, count) for start in range(0, count, stride)]
    means = [sum(run.loss[start:end]) / (end - start) for start, end in zip(range(0, count, stride), ends, strict=True)]
    return {
        "steps": [run.steps[end - 1] for end in ends],
        "loss": [float(f"{mean:.6g}") for mean in means],
        "lr": [run.lr[end - 1] for end in ends],
    }
