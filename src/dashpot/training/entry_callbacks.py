"""Callbacks for the settings of an entry that its optimizer does not apply itself."""

from __future__ import annotations

import math

from dashpot.runs.entry import Entry
from dashpot.training.callback import Callback
from dashpot.training.callbacks.clip_gradients import ClipGradients
from dashpot.training.callbacks.nonfinite import NonFinite
from dashpot.training.callbacks.schedule import Schedule


def entry_callbacks(entry: Entry, steps: int) -> list[Callback]:
    """Return callbacks that schedule and clip as the optimizers of dashpot do inside their steps.

    Args:
        entry: Entry of the run.
        steps: Number of optimizer steps of the run.

    >>> from dashpot.runs.entries import entry
    >>> made = entry("torch.optim.SGD", "digits", schedule="cosine", options={"max_norm": 1.0})
    >>> [type(callback).__name__ for callback in entry_callbacks(made, steps=100)]
    ['ClipGradients', 'Schedule']
    >>> entry_callbacks(entry("sgd", "digits", schedule="cosine", options={"max_norm": 1.0}), steps=100)
    []
    """
    given = entry.in_loop(steps)
    norm, value = given.get("max_norm"), given.get("clip_value")
    norm = None if norm == math.inf else norm  # measures the norm without clipping
    callbacks: list[Callback] = []
    if given.get("nonfinite", "allow") != "allow":
        callbacks.append(NonFinite(then=given["nonfinite"]))
    if norm is not None or value is not None:
        callbacks.append(ClipGradients(norm, value))
    if given.get("schedule") is not None:
        callbacks.append(Schedule(given["schedule"]))
    return callbacks
