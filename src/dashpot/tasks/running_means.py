"""Running means over examples, summed on the device between host syncs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.tasks.metric_objects import Gather, MetricObjects, is_metric_object

SYNC_INTERVAL = 32
"""Number of batches between host syncs: small enough to detect divergence early, but large enough to cost little."""


def _own(value: Any) -> list[Any]:
    return [value]


class RunningMeans:
    """Means of the loss and of metrics over examples.

    Args:
        metrics: A mapping from names to functions. A function takes (output, target) and returns the *sum* of the
            metric over the batch, as a number or a tensor with one element. A metric object has the methods
            `update(output, target)`, `compute()`, which returns the value of the metric, and `reset()`.

    >>> means = RunningMeans({"accuracy": lambda output, target: (output.argmax(1) == target).sum()})
    >>> means.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor(0.5), size=2)
    >>> means.values()
    {'loss': 0.5, 'accuracy': 0.5}
    """

    def __init__(self, metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor | float]]) -> None:
        self.metrics = {name: metric for name, metric in metrics.items() if not is_metric_object(metric)}
        self.objects, self._names = MetricObjects(metrics), ["loss", *metrics]
        self.sums = [0.0] * (1 + len(self.metrics))
        self.count = 0
        self._pending: list[list[Tensor]] = []
        self._sizes: list[int] = []

    def add(self, output: Tensor, target: Tensor, loss: Tensor, size: int) -> None:
        """Add a batch.

        Args:
            output: Output of the model.
            target: Target of the batch.
            loss: Mean loss over the batch.
            size: Number of examples in the batch.

        Raises:
            ArgumentError: If a metric does not return a single number.
        """
        output = output.detach() if isinstance(output, Tensor) else output
        sums = (_scalar_tensor(name, metric(output, target)) for name, metric in self.metrics.items())
        self._pending.append([loss.detach().reshape(()), *sums])
        self._sizes.append(size)
        self.objects.update(output, target)
        if len(self._sizes) == SYNC_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Add the pending batches to the sums, with one host sync."""
        if not self._pending:
            return
        columns = [torch.stack(column) for column in zip(*self._pending, strict=True)]
        wide = torch.promote_types(columns[0].dtype, torch.float32)  # represents numbers of examples exactly
        columns = [column.to(columns[0].device, wide) for column in columns]
        columns[0] = columns[0] * torch.tensor(self._sizes, dtype=wide, device=columns[0].device)
        # Python floats, because a float32 sum over many batches would lose digits.
        for row in torch.stack(columns, dim=1).tolist():
            self.sums = [a + b for a, b in zip(self.sums, row, strict=True)]
        self.count += sum(self._sizes)
        self._pending.clear()
        self._sizes.clear()

    def values(self, total: Callable[[list[float]], list[float]] = list, gather: Gather = _own) -> dict[str, float]:
        """Return the means so far, or {} if there were no batches.

        `total` reduces the sums over ranks, and `gather` returns the argument of every rank.
        """
        self.flush()
        count, *sums = total([float(self.count), *self.sums])
        if not count:
            return {}
        means = {name: s / count for name, s in zip(["loss", *self.metrics], sums, strict=True)}
        return self._ordered(means | self.objects.values(gather)) if self.objects else means

    def _ordered(self, values: dict[str, float]) -> dict[str, float]:
        """Return the values in the order of the metrics, followed by additional values of metric objects."""
        return {name: values[name] for name in [*filter(values.__contains__, self._names), *values]}

    def state_dict(self, total: Callable[[list[float]], list[float]] = list) -> dict[str, Any]:
        """Return the sums so far; `total` reduces them over ranks."""
        self.flush()
        count, *sums = total([float(self.count), *self.sums])
        return {"count": int(count), "sums": sums, **self.objects.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums and discard pending batches."""
        self.count, self.sums = int(state["count"]), [float(value) for value in state["sums"]]
        self.objects.load_state_dict(state)
        self._pending.clear()
        self._sizes.clear()


def _scalar_tensor(name: str, value: Any) -> Tensor:
    """Return the value of a metric as a 0-d tensor."""
    if isinstance(value, (int, float)):
        return torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ArgumentError(f"Metric {name!r} must return its sum over the batch, one number, got {got}.")
    return value.detach().reshape(())
