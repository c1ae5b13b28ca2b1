"""Running means over examples or counts, summed on the device between host syncs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.tasks.loss_value import weighted
from dashpot.tasks.mean_check import check_sum
from dashpot.tasks.metric_errors import evaluated
from dashpot.tasks.metric_objects import Gather, MetricObjects, is_metric_object

SYNC_INTERVAL = 32
"""Number of batches between host syncs: small enough to detect divergence early, but large enough to cost little."""


def _own(value: Any) -> list[Any]:
    return [value]


class RunningMeans:
    """Means of the loss and of metrics over examples, or over the counts that accompany their sums.

    Args:
        metrics: A mapping from names to functions. A function takes (output, target) and returns the *sum* of the
            metric over the batch, a number or a tensor with one element, or a pair (sum, count) of them. The mean of
            the metric is its sum divided by the number of examples or, for pairs, by the sum of the counts. A metric
            object has the methods `update(output, target)`, `compute()`, which returns the value of the metric, and
            `reset()`.

    >>> means = RunningMeans({"accuracy": lambda output, target: (output.argmax(1) == target).sum()})
    >>> means.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor(0.5), size=2)
    >>> means.values()
    {'loss': 0.5, 'accuracy': 0.5}
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = {name: metric for name, metric in metrics.items() if not is_metric_object(metric)}
        self.objects, self._names = MetricObjects(metrics), ["loss", *metrics]
        self.sums = [0.0] * (1 + len(self.metrics))
        self.counts = [0.0] * (1 + len(self.metrics))
        self.count = 0
        self._discard()

    def _discard(self) -> None:
        """Discard the pending batches."""
        self._pending: list[list[Tensor]] = []  # for each batch, the loss, the sums of the metrics, and `_counted`
        self._sizes: list[int] = []
        self._counted: tuple[int, ...] = ()  # the columns of the pending batches that have counts of their own

    def add(self, output: Any, target: Any, loss: Tensor, size: int, count: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            output: Output of the model.
            target: Target of the batch.
            loss: Mean loss over the batch.
            size: Number of examples in the batch.
            count: Number over which `loss` is a mean, a 0-d tensor; None for a mean over the examples.

        Raises:
            ArgumentError: If a metric returns neither a single number nor a pair of numbers.
        """
        output = output.detach() if isinstance(output, Tensor) else output
        is_first = self.count == 0 and not self._sizes
        row, counts = [loss.detach().reshape(())], {} if count is None else {0: count}
        for column, (name, metric) in enumerate(self.metrics.items(), 1):
            value = evaluated(name, metric, output, target)
            if is_first:
                check_sum(name, metric, value, output, target)
            if isinstance(value, tuple) and len(value) == 2:
                value, counts[column] = value[0], _scalar_tensor(name, value[1])
            row.append(_scalar_tensor(name, value))
        if self._counted != tuple(counts):
            self.flush()
            self._counted = tuple(counts)
        self._pending.append([*row, *counts.values()] if counts else row)
        self._sizes.append(size)
        self.objects.update(output, target)
        if len(self._sizes) == SYNC_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Add the pending batches to the sums, with one host sync."""
        if not self._pending:
            return
        columns = [torch.stack(column) for column in zip(*self._pending, strict=True)]
        dtype = torch.promote_types(columns[0].dtype, torch.float32)  # represents numbers of examples exactly
        columns = [column.to(columns[0].device, dtype) for column in columns]
        width, examples = len(self.sums), sum(self._sizes)
        if 0 in self._counted:
            columns[0] = weighted(columns[0], columns[width])
        else:
            columns[0] = columns[0] * torch.tensor(self._sizes, dtype=dtype, device=columns[0].device)
        self.count += examples
        self.counts = [a if i in self._counted else a + examples for i, a in enumerate(self.counts)]
        # Python floats, because a float32 sum over many batches would lose digits.
        for row in torch.stack(columns, dim=1).tolist():
            self.sums = [a + b for a, b in zip(self.sums, row[:width], strict=True)]
            for i, count in zip(self._counted, row[width:], strict=True):
                self.counts[i] += count
        self._discard()

    def values(self, total: Callable[[list[float]], list[float]] = list, gather: Gather = _own) -> dict[str, float]:
        """Return the means so far, or {} if there were no batches.

        The mean over an empty count, such as that of tokens without any token, is NaN. `total` reduces the sums over
        ranks, and `gather` returns the argument of every rank.
        """
        count, sums, counts = self._totals(total)
        if not count:
            return {}
        names = ["loss", *self.metrics]
        means = {name: s / n if n else math.nan for name, s, n in zip(names, sums, counts, strict=True)}
        return self._ordered(means | self.objects.values(gather)) if self.objects else means

    def _totals(self, total: Callable[[list[float]], list[float]]) -> tuple[float, list[float], list[float]]:
        self.flush()
        count, *rest = total([float(self.count), *self.sums, *self.counts])
        return count, rest[: len(self.sums)], rest[len(self.sums) :]

    def _ordered(self, values: dict[str, float]) -> dict[str, float]:
        """Return the values in the order of the metrics, followed by additional values of metric objects."""
        return {name: values[name] for name in [*filter(values.__contains__, self._names), *values]}

    def state_dict(self, total: Callable[[list[float]], list[float]] = list) -> dict[str, Any]:
        """Return the sums so far; `total` reduces them over ranks.

        The key "counts" is present only if a mean is over a count other than the number of examples.
        """
        count, sums, counts = self._totals(total)
        own = {} if all(n == count for n in counts) else {"counts": counts}
        return {"count": int(count), "sums": sums, **own, **self.objects.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums and discard pending batches."""
        self.count, self.sums = int(state["count"]), [float(value) for value in state["sums"]]
        self.objects.load_state_dict(state)
        self.counts = [float(value) for value in state.get("counts", [self.count] * len(self.sums))]
        self._discard()

    @staticmethod
    def merged(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the sum of the states of several ranks, without metric objects."""

        def added(rows: Iterable[Sequence[float]]) -> list[float]:
            return [sum(column) for column in zip(*rows, strict=True)]

        counts = added(state.get("counts", [state["count"]] * len(state["sums"])) for state in states)
        sums = added(state["sums"] for state in states)
        return {"count": sum(state["count"] for state in states), "sums": sums, "counts": counts}


def _scalar_tensor(name: str, value: Any) -> Tensor:
    """Return the value of a metric as a 0-d tensor."""
    if isinstance(value, Real):  # also numbers of NumPy
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"Metric {name!r} must return a pair (sum, count) or its sum over the batch, one number, got {got}."
        )
    return value.detach().reshape(())
