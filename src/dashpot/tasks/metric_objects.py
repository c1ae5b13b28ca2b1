"""Metric objects with the methods `update`, `compute` and `reset`, like those of torchmetrics."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.metric_errors import evaluated
from dashpot.tasks.metric_sync import compute, sent_values, synced_parts
from dashpot.utils.nested import cpu_copies, map_tensors, tensors
from dashpot.utils.stateful import is_stateful

Gather = Callable[[Any], list[Any]]


def is_metric_object(value: Any) -> bool:
    """Return whether `value` is an instance with the methods `update`, `compute` and `reset`."""
    methods = ("update", "compute", "reset")
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in methods)


class MetricObjects:
    """The metric objects of one phase.

    Each phase updates new copies, so that the objects passed by the user, and the phases of a fit, do not share state.

    Args:
        metrics: Metrics by name; functions are ignored.
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self._given = {name: metric for name, metric in metrics.items() if is_metric_object(metric)}
        self._copies: dict[str, Any] = {}
        self._device: torch.device | None = None

    def __bool__(self) -> bool:
        return bool(self._given)

    def update(self, output: Any, target: Any) -> None:
        """Add a batch."""
        if not self._given:
            return
        output = map_tensors(Tensor.detach, output)
        device = [*tensors([output, target]), torch.zeros(())][0].device
        copies = self._ready()
        if device != self._device:
            self._copies = copies = {name: _moved(metric, device) for name, metric in copies.items()}
            self._device = device
        for name, metric in copies.items():
            evaluated(name, metric.update, output, target)

    def values(self, gather: Gather) -> dict[str, float]:
        """Return the values of the metrics over all ranks; `gather` returns the argument of every rank."""
        if not self:
            return {}
        copies = self._ready()
        with torch.no_grad(), warnings.catch_warnings():
            # This rank may have had no batch, or its state may have been restored.
            warnings.filterwarnings("ignore", ".*was called before the ``update`` method")
            ranks = gather({name: sent_values(metric) for name, metric in copies.items()})
            numbers = {}
            for name, metric in copies.items():
                numbers |= _numbers(name, compute(name, metric, [sent[name] for sent in ranks]))
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the metrics of this rank, under the key "objects"; {} without metric objects.

        The state of an object without `state_dict` and `load_state_dict` consists of its attributes.

        Raises:
            RunError: If these attributes contain other values than plain data and tensors.
        """
        states = {name: _state(name, metric) for name, metric in self._ready().items()}
        return {"objects": states} if states else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states returned by `state_dict`.

        Raises:
            RunError: If the state of a metric is missing.
        """
        self._copies, self._device = {}, None
        for name, metric in self._ready().items():
            if name not in state.get("objects", {}):
                raise RunError(f"The checkpoint, taken within an epoch, has no state of the metric object {name!r}.")
            own = copy.deepcopy(state["objects"][name])
            if is_stateful(metric):
                metric.load_state_dict(own)
            else:
                vars(metric).update(own)

    def _ready(self) -> dict[str, Any]:
        """Return the copies, created at the first call."""
        if not self._copies:
            self._copies = {name: copy.deepcopy(metric) for name, metric in self._given.items()}
            for metric in self._copies.values():
                metric.reset()
                for part in synced_parts(metric).values():
                    part.persistent(True)  # torchmetrics then includes the state in the state dict
        return self._copies


def _numbers(name: str, value: Any) -> dict[str, float]:
    """Return a number, or the numbers in a dict under names with the prefix `name_`; other items are omitted."""
    if isinstance(value, Mapping):
        items = {f"{name}_{key}": _number(item) for key, item in value.items()}
        return {key: number for key, number in items.items() if number is not None}
    number = _number(value)
    if number is None:
        got = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
        raise ArgumentError(f"Metric {name!r} must compute a number or a dict of numbers, got {got}.")
    return {name: number}


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)):
        return float(value)
    is_scalar = hasattr(value, "item") and getattr(value, "shape", None) in ((), (1,))
    return float(value.item()) if is_scalar else None


def _moved(metric: Any, device: torch.device) -> Any:
    """Return the metric on `device`, if it can be moved."""
    moved = metric.to(device) if callable(getattr(metric, "to", None)) else metric
    return metric if moved is None else moved


# ---- state ----------------------------------------------------------------------------------------------------------


def _state(name: str, metric: Any) -> dict[str, Any]:
    """Return a copy of the state of a metric, on the CPU."""
    state = metric.state_dict() if is_stateful(metric) else getattr(metric, "__dict__", {})
    if not is_stateful(metric) and (not state or not _is_plain(state)):
        raise RunError(
            f"Metric {name!r} must define state_dict and load_state_dict to save a fit within an epoch, or have only "
            f"attributes with plain data and tensors, got {type(metric).__name__}."
        )
    return cpu_copies(dict(state))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, [*value, *value.values()]))
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (Tensor, bool, int, float, str, type(None)))
