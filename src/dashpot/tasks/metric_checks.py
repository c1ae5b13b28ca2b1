"""Checks of the metrics of a problem or learner."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dashpot.errors import ArgumentError
from dashpot.tasks.metric_objects import is_metric_object
from dashpot.tasks.metric_sync import synced_parts
from dashpot.tasks.whole_epoch import WholeEpoch

MEAN_MODULES = ("torchmetrics.functional", "sklearn.metrics")
"""Modules whose functions return the value of a metric instead of a sum over examples."""


def checked_metrics(metrics: Any, owner: str) -> dict[str, Any]:
    """Return the metrics by name, with collections such as `torchmetrics.MetricCollection` replaced by their members.

    Raises:
        ArgumentError: If `metrics` is not a mapping of names to functions and metric objects, a name is repeated or
            reserved, or a function does not return a sum.
    """
    if not hasattr(metrics, "items") or not all(isinstance(name, str) for name in metrics.keys()):  # noqa: SIM118
        got = type(metrics).__name__ if not isinstance(metrics, Mapping) else ", ".join(map(repr, metrics))
        raise ArgumentError(
            f"{owner}: metrics must be a mapping of names to functions of (output, y) or metric objects, got {got}."
        )
    found: dict[str, Any] = {}
    for name, metric in metrics.items():
        members = metric.items() if is_metric_object(metric) and hasattr(metric, "items") else [(name, metric)]
        for member, value in members:
            if member in found:
                raise ArgumentError(f"{owner}: metrics must have distinct names, got {member!r} twice.")
            _check_metric(member, value, owner)
            found[member] = value
    if "loss" in found:
        raise ArgumentError(f"{owner}: metrics must have names other than 'loss', got 'loss'.")
    return found


def _check_metric(name: str, metric: Any, owner: str) -> None:
    if isinstance(metric, type):
        raise ArgumentError(f"{owner}: metric {name!r} must be an instance, got the class {metric.__name__}.")
    if is_metric_object(metric):
        return
    if not callable(metric):
        got = type(metric).__name__
        raise ArgumentError(
            f"{owner}: metric {name!r} must be a function of (output, y), or an object with update, compute and reset, "
            f"got {got}."
        )
    function = metric.func if isinstance(metric, partial) else metric
    module = getattr(function, "__module__", None) or ""
    if module.startswith(MEAN_MODULES) and not isinstance(metric, partial):
        raise ArgumentError(
            f"{owner}: metric {name!r} must return a sum over the batch, but {module.partition('.')[0]}'s "
            f"{function.__name__} returns the value of a batch; use a torchmetrics object or "
            "dashpot.tasks.WholeEpoch(function)."
        )


def check_synced(metrics: Mapping[str, Any], world_size: int, owner: str) -> None:
    """Check that the values of all metric objects can be computed over several processes.

    Raises:
        ArgumentError: If a metric object is neither a `WholeEpoch` nor like a metric of torchmetrics.
    """
    for name, metric in metrics.items() if world_size > 1 else ():
        if not is_metric_object(metric) or isinstance(metric, WholeEpoch):
            continue
        parts = synced_parts(metric).values()
        if not parts or not all(getattr(part, "sync_on_compute", True) for part in parts):
            raise ArgumentError(
                f"{owner}: with several processes, metric {name!r} must be a torchmetrics object with "
                f"sync_on_compute=True, or a WholeEpoch, got {type(metric).__name__}."
            )
