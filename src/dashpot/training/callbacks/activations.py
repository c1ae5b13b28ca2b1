"""Statistics of the outputs of layers during training: mean, standard deviation, dead units and histogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training.callback import Callback
from dashpot.training.callbacks.activation_layers import select
from dashpot.training.callbacks.activation_sums import Sums, combine, measure, on_cpu
from dashpot.utils.scalars import is_number
from dashpot.utils.schema import POSITIVE_COUNT, REAL, TEXT, ListOf, Record, Row, Rule, SchemaError, TensorOf

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.utils.hooks import RemovableHandle

    from dashpot.training.learner import Learner

POSITIVE_INTEGER = Interval(1, math.inf, "left", integer=True)
SEVERAL = Interval(2, math.inf, "left", integer=True)
STATISTICS = ("mean", "std", "zeros", "dead")
"""Names of the statistics of a layer."""


class Activations(Callback):
    """Record statistics of the outputs of layers in the training steps.

    For each layer and each recorded step, over all outputs of the step (all micro-batches, ranks, and calls of the
    layer):

    * `mean` and `std` of the outputs, with divisor n (`correction=0`);
    * `zeros`: share of outputs x with |x| <= `threshold`, about 1/2 for a ReLU with a symmetric input;
    * `dead`: share of units whose outputs are all near zero. A unit is an index of dimension 1, such as a channel of a
      convolution or a feature of a linear layer;
    * a histogram.

    If an output is a tuple or list, its first item is used. The memory is bounded: if more than `keep` steps have been
    recorded, every second one is removed and `every` is doubled. The hooks of the layers are removed at the end of the
    fit.

    Args:
        layers: Names (as in `model.named_modules()`) or classes of modules. Default: all activation functions
            (`nn.ReLU`, `nn.GELU`, ...), or all modules without children if the model has none.
        every: Number of steps between records, an integer >= 1.
        threshold: Largest absolute value of an output near zero, >= 0.
        bins: Number of bins of the histograms, an integer >= 2.
        limits: Lower and upper limit of the histograms; outputs beyond a limit are counted in the outermost bin.
        keep: Maximum number of recorded steps, an integer >= 2.

    Attributes:
        steps: Recorded steps, counted from 1.

    Raises:
        ArgumentError: If an argument is out of range; at the start of a fit, if no layer matches; at the first step, if
            the output of a layer is not a floating-point tensor.
        RunError: On resume, if layers or settings differ from those of the checkpoint.

    Source: Activation statistics and dead units in the SlowAI notebooks.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> activations = Activations(every=10)
        >>> learner.fit(1, callbacks=[activations])
        >>> activations.steps, list(activations.values), 0.3 < activations.values["2"]["zeros"][0] < 0.7
        ([1, 11, 21], ['2', '5', '9'], True)
    """

    order: ClassVar[int] = 45
    essential: ClassVar[bool] = False
    state_schema: ClassVar[Rule] = Record(
        {
            "layers": ListOf(TEXT),
            "limits": Row((REAL, REAL)),
            "every": POSITIVE_COUNT,
            "threshold": REAL,
            "bins": POSITIVE_COUNT,
            "stride": POSITIVE_COUNT,
            "steps": ListOf(POSITIVE_COUNT),
            "rows": TensorOf(torch.float64, 3),
        }
    )

    def __init__(
        self,
        *layers: str | type[nn.Module],
        every: int = 1,
        threshold: float = 1e-3,
        bins: int = 80,
        limits: tuple[float, float] = (-7.0, 7.0),
        keep: int = 1000,
    ) -> None:
        for layer in layers:
            if not isinstance(layer, str) and not (isinstance(layer, type) and issubclass(layer, nn.Module)):
                raise ArgumentError(f"Activations: layers must be names or classes of modules, got {shown(layer)}.")
        check("Activations", "every", every, POSITIVE_INTEGER)
        check("Activations", "threshold", threshold, Interval(0, math.inf, "left"))
        check("Activations", "bins", bins, SEVERAL)
        check("Activations", "keep", keep, SEVERAL)
        if not (_are_numbers(limits) and limits[0] < limits[1]):
            raise ArgumentError(
                f"Activations: limits must be two finite numbers in ascending order, got {shown(limits)}."
            )
        self.layers, self.every, self.threshold = layers, every, float(threshold)
        self.bins, self.limits, self.keep = bins, (float(limits[0]), float(limits[1])), keep
        self._reset([], every)

    def _reset(self, names: Sequence[str], every: int) -> None:
        self._names, self._every = list(names), every
        self._current: dict[str, Sums] = {}
        self._pending: list[tuple[int, dict[str, Sums]]] = []
        self._rows: list[tuple[int, Tensor]] = []  # steps, and tensors of shape (layers, 5 + bins)
        self._due = self._active = False
        self._handles: list[RemovableHandle] = []

    # ---- results ----------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[int]:
        """Recorded steps, counted from 1. During a fit with several ranks, buffered steps are missing."""
        if self._pending and self._engine.world_size == 1:
            self._flush()
        return [step for step, _ in self._rows]

    @property
    def values(self) -> dict[str, dict[str, list[float]]]:
        """For each layer, the recorded `mean`, `std`, `zeros` and `dead`, one number per recorded step."""
        count = len(self.steps)  # flushes
        rows = torch.stack([row for _, row in self._rows]) if count else self._no_rows()
        number, total, squares, zeros, dead = rows[:, :, :5].unbind(2)
        mean = total / number
        statistics = mean, (squares / number - mean**2).clamp_min(0).sqrt(), zeros / number, dead
        return {
            layer: {name: column[:, i].tolist() for name, column in zip(STATISTICS, statistics, strict=True)}
            for i, layer in enumerate(self._names)
        }

    def _no_rows(self) -> Tensor:
        return torch.zeros(0, len(self._names), 5 + self.bins, dtype=torch.float64)

    def histogram(self, layer: str) -> Tensor:
        """Return the counts of a layer's outputs, of shape (bins, recorded steps).

        Raises:
            ArgumentError: If the layer is not recorded.
        """
        if layer not in self._names:
            raise ArgumentError(f"Activations: layer must be one of {', '.join(self._names)}, got {shown(layer)}.")
        count, index = len(self.steps), self._names.index(layer)
        rows = [row[index, 5:] for _, row in self._rows]
        return torch.stack(rows, dim=1) if count else torch.zeros(self.bins, 0)

    def plot(self, ax: Sequence[Axes] | None = None) -> Figure:
        """Return a matplotlib figure: the statistics of all layers, and the histogram of each layer.

        A histogram is drawn as one column per recorded step, with colors for the logarithm of the counts.

        Args:
            ax: Axes to draw on: four, one per layer, and one more if that is an odd number. Default: a new figure.

        Raises:
            ArgumentError: If nothing has been recorded, or matplotlib is not installed.
        """
        from dashpot.training.callbacks.activation_figure import draw

        if not self.steps:
            raise ArgumentError("Activations.plot: no step has been recorded.")
        histograms = {layer: self.histogram(layer).numpy() for layer in self._names}
        return draw(self.steps, self.values, histograms, self.limits, ax)

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        modules = select(learner.model, self.layers)
        self._reset(list(modules), self.every)
        self._engine = learner.engine
        self._handles = [module.register_forward_hook(self._hook(name, learner)) for name, module in modules.items()]

    def before_batch(self, learner: Learner) -> None:
        if not learner.training:
            return
        if learner.loop.pending_batches == 0:
            self._current = {}
            self._due = learner.steps % self._every == 0
        self._active = self._due and learner.batch.size > 0  # a rank without examples runs a placeholder

    def after_predict(self, learner: Learner) -> None:
        self._active = False  # further forward passes over the batch are not recorded

    def cleanup_batch(self, learner: Learner) -> None:
        self._active = False

    def after_step(self, learner: Learner) -> None:
        if self._due:
            self._pending.append((learner.steps, self._current))
            self._current, self._due = {}, False
            if len(self._pending) >= SYNC_INTERVAL:
                self._flush()

    def after_epoch(self, learner: Learner) -> None:
        self._flush()

    def cleanup_fit(self, learner: Learner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._active = [], False
        # A flush gathers from all ranks, and a failed rank must not wait in a collective.
        if self._pending and (self._engine.world_size == 1 or learner.loop.unwinding is None):
            self._flush()

    def _hook(self, name: str, learner: Learner) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._active and learner.training:  # not in `learner.evaluate`
                measured = measure(output, name, self.threshold, self.bins, self.limits)
                self._current[name] = self._current[name] + measured if name in self._current else measured

        return record

    def _flush(self) -> None:
        """Combine the buffered steps of all ranks, and bound the number of recorded steps."""
        buffered, self._pending = self._pending, []
        if not buffered:
            return
        if self._engine.world_size > 1:
            buffered = combine(self._engine.all_gather([(step, on_cpu(sums)) for step, sums in buffered]))
        empty = torch.full((5 + self.bins,), math.nan, dtype=torch.float64)  # layers that were not called
        empty[0], empty[5:] = 0, 0
        for step, sums in buffered:
            rows = [sums[name].row() if name in sums else empty for name in self._names]
            self._rows.append((step, torch.stack(rows)))
        while len(self._rows) > self.keep:
            self._every *= 2
            self._rows = [(step, row) for step, row in self._rows if (step - 1) % self._every == 0]

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        self._flush()
        return {
            **self._definition(),
            "stride": self._every,
            "steps": [step for step, _ in self._rows],
            "rows": torch.stack([row for _, row in self._rows]) if self._rows else self._no_rows(),
        }

    def check_state(self, state: Mapping[str, Any], path: str) -> None:
        super().check_state(state, path)
        shape = (len(state["steps"]), len(state["layers"]), 5 + state["bins"])
        if state["rows"].shape != shape:
            raise SchemaError(f"{path}.rows must have the shape {shape}, got {tuple(state['rows'].shape)}")
        if any(later <= earlier for earlier, later in pairwise(state["steps"])):
            raise SchemaError(f"{path}.steps must be in ascending order")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self._definition().items():
            if value != state[name]:
                raise RunError(f"Activations: {name} must be that of the checkpoint, {state[name]}, got {value}.")
        self._every, self._pending = state["stride"], []
        self._rows = list(zip(state["steps"], state["rows"], strict=True))

    def _definition(self) -> dict[str, Any]:
        """Return the settings that determine the recorded numbers."""
        settings = {"every": self.every, "threshold": self.threshold, "bins": self.bins}
        return {"layers": list(self._names), "limits": list(self.limits), **settings}


def _are_numbers(limits: Any) -> bool:
    pair = isinstance(limits, (tuple, list)) and len(limits) == 2
    return pair and all(is_number(limit) and math.isfinite(limit) for limit in limits)
