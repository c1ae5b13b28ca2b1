"""Settings for a different batch size from the measured noise scale."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashpot.analysis.batch_plan import Change
from dashpot.analysis.batch_rules import divides
from dashpot.analysis.batch_scaling import BatchScaling, scale_batch
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.wording import number
from dashpot.constraints import Interval, OneOf, Optional, check
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule
from dashpot.watching.advice_figure import draw_advice
from dashpot.watching.advice_noise import Noise, noise_of, progress
from dashpot.watching.advice_schedule import with_warmup
from dashpot.watching.advice_settings import recipe_of, settings_of
from dashpot.watching.series import WatchRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BATCH = Interval(1, math.inf, "left", integer=True)
_MOMENTUM = OneOf(("progress", "steps"))
_WARMUP = "the same number of examples; the warm-up for a larger batch keeps its steps"
_HORIZON = {"progress": "examples", "steps": "steps"}  # names of `scale_batch`
FARTHEST = 64
"""Largest ratio of batch sizes, up or down."""
UNCERTAIN = 4.0
"""Largest ratio of the ends of the interval of the progress of a step."""


@dataclass(frozen=True, repr=False)
class Advice(Analysis):
    """Settings for a different batch size, or the reason why there are none.

    A step of B examples makes the progress 1/(1 + B_noise/B) of a step without noise. Relative to the present batch,

        progress = (1 + B_noise/old)/(1 + B_noise/new),   steps = 1/progress,   examples = new/old/progress

    are the progress of a step, and the steps and examples for the same progress. The settings are those of
    `analysis.scale_batch` with `noise_scale`: lr D/d is proportional to the progress, and averages cover the
    same progress. The warm-up for a larger batch keeps its steps.

    Attributes:
        batch: The new number of examples of a step.
        old: The present number of examples of a step, or None if unknown.
        noise: The noise scale with its interval, or None.
        scaling: The changes, or None.
        reason: Reason why there are no settings, a sentence, or None.

    Source: McCandlish et al., arXiv 1812.06162; the rules of `analysis.scale_batch`.

    Example:
        >>> import torch, dashpot as dp
        >>> optimizer = dp.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
        >>> with dp.watch(optimizer) as watcher:
        ...     row = {"step": 100, "batch": 64.0, "scale": 1900.0, "low": 1500.0, "high": 2400.0}
        ...     watcher.record.add("noise", row)  # measured during a run
        >>> advice = watcher.advise(batch=256)
        >>> print(advice.summary())
        For a batch of 256 in place of 64: lr 0.1 -> 1.328, momentum 0.9 -> 0.6356. The same progress takes 1.1 ...
        >>> {name: round(value, 4) for name, value in advice.settings.items()}
        {'lr': 1.3277, 'momentum': 0.6356}
    """

    batch: int
    old: int | None = None
    noise: Noise | None = None
    scaling: BatchScaling | None = None
    reason: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Changed settings of the first group as keyword arguments; empty if there is a `reason`."""
        return self.scaling.settings if self.scaling is not None else {}

    @property
    def schedule(self) -> dict[str, Schedule]:
        """Schedules for the same number of examples, by setting; a warm-up for a larger batch keeps its steps."""
        return self.scaling.schedule if self.scaling is not None else {}

    @property
    def progress(self) -> float | None:
        """Progress of a step of the new batch, in present steps."""
        return None if self.noise is None else self._progress(self.noise.scale)

    @property
    def steps(self) -> float | None:
        """Factor on the number of steps for the same progress."""
        return None if self.progress is None else 1 / self.progress

    @property
    def examples(self) -> float | None:
        """Factor on the number of examples for the same progress."""
        return self._examples(self.progress)

    @property
    def examples_interval(self) -> tuple[float, float] | None:
        """95 % interval of `examples`, from that of the noise scale."""
        if self.noise is None:
            return None
        ends = [self._examples(self._progress(scale)) for scale in (self.noise.high, self.noise.low)]
        low, high = sorted(end for end in ends if end is not None)
        return low, high

    @property
    def lr_interval(self) -> tuple[float, float] | None:
        """Learning rates of the first group at the ends of the interval of the noise scale."""
        if self.scaling is None or self.noise is None:
            return None
        group = self.scaling.groups[0]
        power = math.log(group.shrink) / math.log(self.scaling.progress) if self.scaling.progress != 1 else 0.0
        factors = [(self._progress(end) / self.scaling.progress) ** (1 - power) for end in self.noise[1:3]]
        low, high = sorted(float(group.recipe.lr) * factor for factor in factors)
        return low, high

    def _progress(self, scale: float) -> float:
        assert self.old is not None
        return progress(scale, self.old, self.batch)

    def _examples(self, advance: float | None) -> float | None:
        return None if advance is None or self.old is None else self.batch / self.old / advance

    def summary(self) -> str:
        """Return the settings, the expected cost, and the confidence; or the reason why there are no settings."""
        if self.scaling is None or self.noise is None or self.old is None:
            return f"No advice for a batch of {self.batch}: {self.reason}"
        parts = [
            f"{item.name} {text_of(item.before)} -> {text_of(item.after)}" for item in self.scaling.groups[0].changes
        ]
        parts += [f"{item.name} (rescaled)" for item in self.scaling.schedule_changes]
        return f"For a batch of {self.batch} in place of {self.old}: {', '.join(parts) or 'no change'}. {self._cost()}"

    def _cost(self) -> str:
        assert self.noise is not None
        assert self.examples is not None
        assert self.examples_interval is not None
        low, high = map(number, self.examples_interval)
        return (
            f"The same progress takes {number(self.examples)} ({low} to {high}) times as many examples and "
            f"{number(self.steps or 0.0)} times as many steps, at a noise scale of {self._noise_words(self.noise)}."
        )

    @staticmethod
    def _noise_words(noise: Noise) -> str:
        if noise.is_bound:
            return f"at least {number(noise.low)}"
        return f"{number(noise.scale)} ({number(noise.low)} to {number(noise.high)})"

    def quantities(self) -> list[Quantity]:
        """Return the expected cost, the settings with reasons, and the conditions."""
        noise = self.noise
        rows = [
            Quantity("batch", self.batch, "examples of a step after the change"),
            Quantity("old", self.old, "examples of a step before"),
            Quantity("noise_scale", None if noise is None else noise.scale, "in examples"),
            Quantity("noise_low", None if noise is None else noise.low, "lower end of its 95 % interval"),
            Quantity("noise_high", _finite(None if noise is None else noise.high), "upper end; undefined if infinite"),
            Quantity("progress", self.progress, "progress of a new step, in old steps"),
            Quantity("steps", self.steps, "factor on the steps for the same progress"),
            Quantity("examples", self.examples, "factor on the examples for the same progress"),
            Quantity("examples_interval", _listed(self.examples_interval), "its 95 % interval"),
            Quantity("lr_interval", _listed(self.lr_interval), "learning rate at the ends of the interval"),
        ]
        if self.scaling is not None:
            known = {row.name for row in rows}
            skipped = known | {"from_batch", "to_batch", "ratio"}
            rows += [row for row in self.scaling.quantities() if row.name not in skipped]
        return [*rows, Quantity("reason", self.reason, "reason why there are no settings")]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw steps and examples for the same progress over the batch size, with the interval."""
        return draw_advice(self, ax)

    def apply(self) -> Any:
        """Write the settings to the groups of the watched optimizer, and return it.

        Raises:
            ArgumentError: If there are no settings, or in the cases of `BatchScaling.apply`.
        """
        if self.scaling is None:
            raise ArgumentError(f"Advice.apply: there are no settings to apply. {self.reason}")
        return self.scaling.apply()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _listed(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None else list(values)


def advise(
    record: WatchRecord, recipe_or_optimizer: Any, batch: int, *, old: int | None = None, momentum: str = "progress"
) -> Advice:
    """Return settings for a different batch size, from the noise scale of a record.

    Args:
        record: Measurements of a run with the present settings.
        recipe_or_optimizer: The present settings: a recipe, an optimizer of dashpot or torch, or None for those in the
            header of the record.
        batch: The new number of examples of a step.
        old: The present number of examples of a step. Default: that of the measured steps.
        momentum: "progress": the average of the momentum covers the same progress; "steps": the momentum is held, which
            is stable for larger rates.

    Returns:
        The advice. If there is none, `reason` states why.

    Raises:
        ArgumentError: If an argument is out of range, or `batch` is the present size.
    """
    check("advise", "batch", batch, _BATCH)
    check("advise", "old", old, Optional(_BATCH))
    check("advise", "momentum", momentum, _MOMENTUM)
    given = settings_of(record if recipe_or_optimizer is None else recipe_or_optimizer)
    if isinstance(given, str):
        return Advice(batch, old, reason=given)
    found = noise_of(record, preconditioned=divides(recipe_of(given)))
    if isinstance(found, str):
        return Advice(batch, old, reason=found)
    known = old if old is not None else None if found.batch is None else round(found.batch)
    if known is None:
        return Advice(batch, reason="The present batch size is unknown: pass `size` to `watcher.observe`.")
    if known == batch:
        raise ArgumentError(f"advise: batch must differ from the present batch size, got {batch}.")
    return _advice(given, recipe_or_optimizer, Advice(batch, known, found), momentum)


def _advice(given: Any, original: Any, facts: Advice, momentum: str) -> Advice:
    """Return advice, or the known facts with a reason."""
    why = _obstacle(facts)
    if why is not None:
        return dataclasses.replace(facts, reason=why)
    assert facts.old is not None
    assert facts.noise is not None
    try:
        scaling = scale_batch(given, facts.old, facts.batch, momentum=_HORIZON[momentum], noise_scale=facts.noise.scale)
        scaling = _with_warmup(dict(given.schedule), scaling)
    except ArgumentError as error:
        return dataclasses.replace(facts, reason=str(error).removeprefix("scale_batch: "))
    owner = None if isinstance(original, Recipe) else original
    return dataclasses.replace(facts, scaling=dataclasses.replace(scaling, optimizer=owner))


def _with_warmup(old: dict[str, Schedule], scaling: BatchScaling) -> BatchScaling:
    """Return the scaling with the steps of the warm-up of the learning rate unchanged for larger batches.

    Stable rates of the first steps depend on the number of steps: the first gradients often exceed their noise.
    """
    if "lr" not in old:
        return scaling
    factor = 1.0 if scaling.ratio > 1 else scaling.progress
    new = with_warmup(old["lr"], scaling.schedule["lr"], scaling.ratio, factor)
    changes = [change for change in scaling.schedule_changes if change.name != "schedule of lr"]
    if new != old["lr"]:
        changes.insert(0, Change("schedule of lr", old["lr"], new, _WARMUP))
    schedule = {**scaling.schedule, "lr": new}
    return dataclasses.replace(scaling, schedule=schedule, schedule_changes=tuple(changes))


def _obstacle(facts: Advice) -> str | None:
    assert facts.old is not None
    assert facts.noise is not None
    ratio = facts.batch / facts.old
    if not 1 / FARTHEST <= ratio <= FARTHEST:
        return f"A change from {facts.old} examples by the factor {ratio:.4g} exceeds {FARTHEST}."
    low, high = sorted(progress(scale, facts.old, facts.batch) for scale in facts.noise[1:3])
    if high > UNCERTAIN * low:
        return (
            f"The noise scale is uncertain: a step of {facts.batch} examples is worth {number(low)} to {number(high)} "
            "present steps. Measure for longer."
        )
    return None
