"""Schema of the state of a fit, checked before the learner is changed.

`STATE` contains one rule for each key that `fit_state.take` returns; a key that is added there needs its rule here. A
key that files of earlier versions lack belongs in `optional`. The state of a callback is checked by the callback's own
rule, `Callback.state_schema`. Checks that compare the state with a learner are in `fit_state`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dashpot.constraints import OneOf
from dashpot.errors import RunError
from dashpot.utils.schema import (
    COUNT,
    PLAIN,
    POSITIVE_COUNT,
    REAL,
    TEXT,
    ListOf,
    MapOf,
    Maybe,
    Nested,
    Record,
    Row,
    Rule,
    SchemaError,
    TensorOf,
    require,
    violation,
)


class _RandomState(Nested):
    """State of the global generators, checked by loading it into separate generators."""

    form = Record(
        {
            "torch": TensorOf(torch.uint8, 1),
            "devices": MapOf(ListOf(TensorOf(torch.uint8, 1))),
            "python": Row((COUNT, TensorOf(torch.int64, 1), Maybe(REAL))),
            "numpy": Row((TEXT, TensorOf(torch.int64, 1), COUNT, COUNT, REAL)),
        },
        optional={"own": MapOf(TensorOf(torch.uint8, 1)), "parts": MapOf(PLAIN)},  # of a loader, see loader_state
    )

    def check(self, value: Any, path: str) -> None:
        require(self.form, value, path)
        try:
            torch.Generator().set_state(value["torch"])
            version, words, gauss = value["python"]
            random.Random().setstate((version, tuple(words.tolist()), gauss))
            kind, keys, *rest = value["numpy"]
            np.random.RandomState().set_state((kind, keys.numpy().astype(np.uint32), *rest))
            sound = keys.numpy().min() >= 0 and keys.numpy().max() < 2**32 and rest[0] <= 624
        except Exception:  # the generators raise errors of several types
            sound = False
        if not sound:
            raise SchemaError(f"{path} must be a state of random number generators")


class _Key(Nested):
    """Key of a state: a string, a number or a tuple."""

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, (str, int, float, tuple)):
            raise violation(path, "a string or a number", value)


RANDOM: Rule = _RandomState()
LOADER = Record(
    {"begun": ListOf(Maybe(RANDOM), least=1), "own": MapOf(TensorOf(torch.uint8, 1)), "parts": MapOf(PLAIN)},
    optional={"last": Maybe(Record({"epoch": COUNT, "batch": COUNT, "fingerprints": ListOf(TEXT)}))},
)
OPTIMIZER = Record(
    {
        "state": MapOf(PLAIN, key=_Key()),
        "param_groups": ListOf(Record({"params": ListOf(TEXT)}), least=1),
    },
    optional={"forms": MapOf(PLAIN, key=_Key())},
)


class _Optimizers(Nested):
    """State of one optimizer, or of several optimizers by name."""

    def check(self, value: Any, path: str) -> None:
        several = isinstance(value, Mapping) and "by_name" in value
        require(Record({"by_name": MapOf(OPTIMIZER)}) if several else OPTIMIZER, value, path)


SETTINGS = Record(
    {
        "optimizer": TEXT,
        "schedule": TEXT,
        "options": TEXT,
        "precision": TEXT,
        "data": TEXT,
        "accumulate": POSITIVE_COUNT,
        "metrics": TEXT,
        "defaults": MapOf(TEXT),
        "recipe": TEXT,
        "callbacks": MapOf(MapOf(PLAIN)),
    },
    optional={
        "batches": POSITIVE_COUNT,
        "batch size": PLAIN,
        "number of examples": PLAIN,
        "groups": MapOf(MapOf(TEXT)),
    },
)
MEANS = Record({"count": COUNT, "sums": ListOf(REAL, least=1)}, {"counts": ListOf(REAL), "objects": MapOf(PLAIN)})
INTERVAL = Record(
    {
        "by": OneOf(("epochs", "steps")),
        "every": POSITIVE_COUNT,
        "start": COUNT,
        "drawn": COUNT,
        "pass": Row((COUNT, COUNT)),
    }
)
PROGRESS = Record(
    {
        "position": Row((COUNT, COUNT)),
        "steps": COUNT,
        "epochs": POSITIVE_COUNT,
        "history": ListOf(MapOf(MapOf(REAL))),
        "means": Maybe(ListOf(MEANS, least=1)),
    },
    optional={"interval": Maybe(INTERVAL), "logged": Maybe(ListOf(MapOf(Row((REAL, REAL)))))},
)
STATE = Record(
    {
        "model": MapOf(PLAIN),
        "besides": Record(
            {"buffers": MapOf(TensorOf()), "gradients": MapOf(TensorOf()), "frozen": ListOf(TEXT)},
        ),
        "optimizer": _Optimizers(),
        "scaler": Maybe(MapOf(REAL)),
        "random": ListOf(RANDOM, least=1),
        "data": Record({"train": LOADER, "evaluation": Maybe(LOADER)}),
        "settings": SETTINGS,
        "progress": PROGRESS,
        "callbacks": MapOf(MapOf(PLAIN, key=_Key())),
        "observers": ListOf(TEXT),
    }
)
"""Rule of the state that `fit_state.take` returns."""
PARTS = {"model", "optimizer", "settings", "progress", "random"}
"""Keys that distinguish the state of a fit from other data."""


def check_state(state: Any) -> None:
    """Check that an object is the state of a fit, with values of the right types and ranges.

    Raises:
        RunError: If it is not; the message names the first wrong value.
    """
    if not isinstance(state, Mapping) or not state.keys() & PARTS:
        got = "other keys" if isinstance(state, Mapping) else type(state).__name__
        raise RunError(f"resume must be the result of learner.state_dict() or of read_newest(folder), got {got}.")
    try:
        require(PLAIN, state)  # limits the depth, because further code is recursive
        require(STATE, state)
        _check_progress(state["progress"], state["settings"].get("batches"))
    except SchemaError as error:
        raise damaged_state(error) from error


def damaged_state(error: Exception) -> RunError:
    """Return the error for a state with a wrong value."""
    return RunError(f"The state to resume from is damaged: {error}. Nothing was changed.")


def _check_progress(progress: Mapping[str, Any], batches: int | None) -> None:
    """Check that the parts of the progress agree."""
    epoch, batch = progress["position"]
    interval = progress.get("interval")
    done = batch if interval is None else interval["pass"][1]
    if batches is not None and done > batches:
        name = "position[1]" if interval is None else "interval.pass[1]"
        raise SchemaError(f"progress.{name} must be at most {batches}, the number of batches, got {done}")
    if bool(batch) and progress["means"] is None:
        raise SchemaError("progress.means must be a list within an epoch, got None")
    if not epoch + bool(batch) <= len(progress["history"]) <= epoch + 1:
        epochs = len(progress["history"])
        raise SchemaError(f"progress.history must have {epoch + bool(batch)} epochs, got {epochs}")
