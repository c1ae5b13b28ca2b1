"""Values of metric objects over several ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor

from dashpot.errors import RunError
from dashpot.tasks.metric_errors import evaluated
from dashpot.tasks.whole_epoch import WholeEpoch


def synced_parts(metric: Any) -> dict[str, Any]:
    """Return the metric and its parts that have torchmetrics' methods `sync` and `unsync`, by path."""
    modules = dict(metric.named_modules()) if hasattr(metric, "named_modules") else {}
    required = ("sync", "unsync", "distributed_available_fn", "dist_sync_fn", "persistent")
    return {path: part for path, part in modules.items() if all(hasattr(part, name) for name in required)}


def sent_values(metric: Any) -> Any:
    """Return the values of this rank from which `compute` computes the value over all ranks."""
    if isinstance(metric, WholeEpoch):
        return metric.parts
    return {path: _sync_tensors(part) for path, part in synced_parts(metric).items()}


def _sync_tensors(metric: Any) -> list[Tensor]:
    """Return the tensors that a torchmetrics object exchanges, in order."""
    tensors: list[Tensor] = []

    def record(value: Tensor, group: Any = None) -> list[Tensor]:
        tensors.append(value.detach().to("cpu"))
        return [value]

    metric.sync(dist_sync_fn=record, distributed_available=lambda: True)
    metric.unsync()
    return tensors


def compute(name: str, metric: Any, ranks: Sequence[Any]) -> Any:
    """Return the value of a metric from the values that `sent_values` has returned on each rank."""
    if isinstance(metric, WholeEpoch):
        every = WholeEpoch(metric.function)
        rounds = range(max(map(len, ranks)))
        every.parts = [parts[index] for index in rounds for parts in ranks if index < len(parts)]
        return evaluated(name, every.compute)
    for path, part in synced_parts(metric).items():
        columns = [sent[path] for sent in ranks]
        if len({len(column) for column in columns}) > 1:
            raise RunError(
                f"Metric {name!r} cannot be computed over several processes, because they have had different numbers "
                "of batches; use a batch size of at least the number of processes."
            )
        # Only these ranks exchange values, even if torch's default process group contains more.
        part.distributed_available_fn = lambda: len(ranks) > 1
        part.dist_sync_fn = partial(_replay, columns, count())
    return evaluated(name, metric.compute)


def _replay(
    columns: Sequence[Sequence[Tensor]], calls: Iterator[int], value: Tensor, group: Any = None
) -> list[Tensor]:
    """Return the tensors of all ranks for the next tensor that a metric exchanges."""
    index = next(calls) % len(columns[0])
    tensors = [column[index].to(value.device) for column in columns]
    # torchmetrics represents an empty list of tensors by an empty float tensor, which would change the dtype.
    return [tensor for tensor in tensors if tensor.numel()] or tensors
