"""Settings for a different batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashpot.analysis.batch_figure import NAMES, draw_batch_scaling
from dashpot.analysis.batch_plan import Change, GroupScaling, Kept, scale_target
from dashpot.analysis.batch_rules import Scaling, divides
from dashpot.analysis.batch_schedules import scale_schedules
from dashpot.analysis.batch_targets import targets_of
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.wording import number
from dashpot.constraints import Interval, OneOf, check, shown
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule, hyperparams

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BATCH = Interval(1, math.inf, "left", integer=True)
_NOISE = Interval(0, math.inf, "right")
_RULES = OneOf(("auto", "linear", "sqrt"))
_MOMENTUM = OneOf(("examples", "steps"))


@dataclass(frozen=True)
class BatchScaling(Analysis):
    """Settings for a different batch size.

    Attributes:
        from_batch, to_batch: Batch sizes.
        ratio: to_batch/from_batch.
        rule: "linear" or "sqrt".
        groups: Changes of each parameter group; a single entry for a recipe.
        schedule: New schedules, by setting; empty without schedules.
        schedule_changes: Changed schedules.
        limits: Conditions under which the rule holds, as sentences.
        optimizer: The optimizer, or None for a recipe.
        noise_scale: Noise scale in examples; infinite if gradients are assumed to be noise.
    """

    from_batch: int
    to_batch: int
    rule: str
    groups: tuple[GroupScaling, ...]
    schedule: dict[str, Schedule]
    schedule_changes: tuple[Change, ...]
    limits: tuple[str, ...]
    optimizer: Any = None
    noise_scale: float = math.inf

    @property
    def progress(self) -> float:
        """Progress of a step of the new batch, in steps of the old batch."""
        return self.groups[0].scaling.progress

    @property
    def ratio(self) -> float:
        """Factor by which the batch grows."""
        return self.to_batch / self.from_batch

    @property
    def recipe(self) -> Recipe:
        """The recipe for the new batch size; for an optimizer, that of its first group without schedules."""
        recipe = self.groups[0].recipe
        return recipe if self.optimizer is not None else recipe.with_settings(schedule=self.schedule)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Changed settings of the first group, and changed schedules."""
        return (*self.groups[0].changes, *self.schedule_changes)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Unchanged settings of the first group, with the reasons."""
        return self.groups[0].kept

    @property
    def settings(self) -> dict[str, Any]:
        """Changed settings of the first group as keyword arguments of its class, or of `Recipe.with_settings`."""
        return self.groups[0].settings

    def temperature_ratio(self, curvature: float) -> float:
        """Return the stationary variance after the change over that before, along a direction of the loss.

        Args:
            curvature: Curvature h > 0 of the loss; with a denominator d, the curvature h/d before the change.

        Raises:
            ArgumentError: If `curvature` is out of range, or one of the two settings is unstable or has no closed form.
        """
        return self.groups[0].temperature_ratio(curvature)

    def summary(self) -> str:
        """Return the changed settings, and the first limit."""
        parts = [f"{item.name} {text_of(item.before)} -> {text_of(item.after)}" for item in self.groups[0].changes]
        parts += [f"{item.name} (rescaled)" for item in self.schedule_changes]
        text = (
            f"For a batch size of {self.to_batch} in place of {self.from_batch} ({number(self.ratio, 4)} times), the "
            f"{NAMES[self.rule]} {'sets ' + ', '.join(parts) if parts else 'changes no setting'}."
        )
        if len(self.groups) > 1:
            text += f" These are the values of the first of {len(self.groups)} parameter groups."
        return " ".join([text, *self._range(), *self.limits[:1]])

    def _range(self) -> list[str]:
        """Return the stable and the accurate curvatures."""
        group = self.groups[0]
        if group.stable_before is None or group.stable_after is None:
            return []
        if group.stable_after <= 0:
            return ["The new settings are unstable for every curvature."]
        unit = "preconditioned curvatures h/d" if divides(group.before) else "curvatures"
        after, before = text_of(group.stable_after), text_of(group.stable_before)
        text = f"The new settings are stable for {unit} below {after} ({before} before)"
        if group.accurate_curvature is None:
            return [f"{text}."]
        return [f"{text}, and the temperature changes by at most 10 % below {text_of(group.accurate_curvature)}."]

    def quantities(self) -> list[Quantity]:
        """Return the batch sizes, the changed and unchanged settings with reasons, and the limits."""
        rows = [
            Quantity("from_batch", self.from_batch, "examples per batch before"),
            Quantity("to_batch", self.to_batch, "examples per batch after"),
            Quantity("ratio", self.ratio, "factor on the batch"),
            Quantity("rule", self.rule, "assumed dependence of the gradient on the batch"),
            *self._noise_rows(),
        ]
        first = self.groups[0]
        for index, group in enumerate(self.groups):
            prefix = f"groups[{index}]." if len(self.groups) > 1 else ""
            rows += [
                Quantity(f"{prefix}{c.name}", c.after, f"was {text_of(c.before)}: {c.reason}") for c in group.changes
            ]
            rows += [Quantity(f"{prefix}{k.name}", k.value, f"unchanged: {k.reason}") for k in group.kept]
        for c in self.schedule_changes:
            rows.append(Quantity(c.name, type(c.after).__name__, f"{c.after!r}, was {c.before!r}: {c.reason}"))
        rows += [Quantity(name, getattr(first, name), meaning) for name, meaning in _STABLE.items()]
        return [*rows, Quantity("limits", list(self.limits), "conditions of the result")]

    def _noise_rows(self) -> list[Quantity]:
        if math.isinf(self.noise_scale):
            return []
        return [
            Quantity("noise_scale", self.noise_scale, "noise scale in examples"),
            Quantity("progress", self.progress, "progress of a new step, in old steps"),
        ]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the temperature over the batch size for both rules and unchanged settings, and at a large curvature."""
        return draw_batch_scaling(self, ax)

    def apply(self) -> Any:
        """Write the new settings to the groups of the optimizer, and return the optimizer.

        All groups are checked before the first is changed. The state is unchanged: a momentum buffer adapts within its
        averaging length.

        Raises:
            ArgumentError: If the result belongs to a recipe, if a group has changed since, or if schedules or a
                scheduler hold values for the old batch size, which would replace the new settings.
        """
        if self.optimizer is None:
            raise ArgumentError("BatchScaling.apply: an optimizer is required; the new recipe is in `recipe`.")
        if self.schedule_changes:
            names = ", ".join(item.name for item in self.schedule_changes)
            raise ArgumentError(
                f"BatchScaling.apply: {names} of an existing optimizer cannot change; create the optimizer with "
                "`settings` and `schedule`."
            )
        groups = self.optimizer.param_groups
        if len(groups) != len(self.groups):
            raise ArgumentError(
                f"BatchScaling.apply: the optimizer must have {len(self.groups)} parameter groups, got {len(groups)}."
            )
        for index, (group, scaling) in enumerate(zip(groups, self.groups, strict=True)):
            _check_group(index, group, scaling)
        for group, scaling in zip(groups, self.groups, strict=True):
            for change in scaling.changes:
                _write(group, change)
        return self.optimizer


_STABLE = {
    "stable_before": "largest stable curvature before (with a denominator d: h/d)",
    "stable_after": "largest stable curvature after, in the same units",
    "accurate_curvature": "curvature up to which the temperature changes by at most 10 %, in the same units",
}


def _check_group(index: int, group: dict[str, Any], scaling: GroupScaling) -> None:
    stored = sorted(key for key in group if key.startswith("initial_") or key == "max_lr")
    if stored:
        raise ArgumentError(
            f"BatchScaling.apply: group {index} must have no scheduler, got {', '.join(stored)}; change the settings "
            "before the scheduler is created."
        )
    for change in scaling.changes:
        value = float(hyperparams.read(group, change.name))
        if value != change.before:
            raise ArgumentError(
                f"BatchScaling.apply: {change.name} of group {index} must be {change.before!r}, got {value!r}."
            )


def _write(group: dict[str, Any], change: Change) -> None:
    current = hyperparams.read(group, change.name)
    if hasattr(current, "fill_"):
        current.fill_(change.after)
    else:
        hyperparams.write(group, change.name, change.after)


def scale_batch(
    recipe_or_optimizer: Any,
    from_: int,
    to: int,
    rule: str = "auto",
    *,
    momentum: str = "examples",
    noise_scale: float = math.inf,
) -> BatchScaling:
    """Return the settings with which a different batch size has the same effect per example.

    With ratio = to/from_, N = 1/(1 - beta) the averaging length of each pole beta, and D the DC gain of the filter:

        linear:  lr -> ratio lr D/D',        N -> max(1, N/ratio)
        sqrt:    lr -> sqrt(ratio) lr D/D',  N -> max(1, N/ratio),  eps -> eps/sqrt(ratio)

    The linear rule assumes that the gradient does not depend on the batch; the noise of the weights, lr sigma^2/(2 B)
    in units of temperature, is then unchanged. The square-root rule assumes that the second moment in the denominator
    is noise, sigma^2/B. For torch's momentum, D = 1/(1 - momentum), so that lr = (1 - momentum) B lr_0 with the rate
    lr_0 of an averaged gradient of one example. Decoupled decay is rescaled such that the weights shrink equally per
    example; coupled decay is part of the loss and unchanged. Schedules are rescaled to 1/ratio of their steps.

    With a noise scale B_noise, the optimal rate of SGD is proportional to 1/(1 + B_noise/B), and E[g^2] to
    1 + B_noise/B. A step of the new batch then advances by fewer than ratio old steps,

        progress = (1 + B_noise/from_)/(1 + B_noise/to),   between 1 and ratio,

    which replaces the ratio in all rules except for that of schedules: far below the noise scale, the rules above hold;
    far above it, settings are unchanged.

    Args:
        recipe_or_optimizer: A `Recipe` or a dashpot optimizer, which is not changed; see `BatchScaling.apply`.
        from_: Present batch size, an integer >= 1.
        to: New batch size, an integer >= 1, different from `from_`.
        rule: "auto" selects "sqrt" with a second moment in the denominator, and "linear" otherwise.
        momentum: "examples": the poles of filters are changed so that they average over the same number of examples;
            "steps": the momentum is held, as in Goyal et al., which remains stable for larger batches.
        noise_scale: Noise scale of the gradient in examples, > 0; infinite if the gradient is much smaller than its
            noise.

    Raises:
        ArgumentError: If an argument is out of range; if a stage has no rule, such as `Curvature`, whose reason the
            message states (with an explicit `rule`, that stage is unchanged and listed in `limits`); or if a rescaled
            schedule is invalid.

    Source: Goyal et al., arXiv 1706.02677; Smith et al., arXiv 1711.00489; Malladi et al., arXiv 2205.10287;
    McCandlish et al., arXiv 1812.06162.

    Example:
        >>> import dashpot as dp
        >>> from dashpot.analysis import scale_batch
        >>> scaled = scale_batch(dp.AdamW.recipe_for(lr=1e-3), 64, 1024)
        >>> scaled.settings
        {'lr': 0.004, 'pole': 0.0, 'beta': 0.984, 'eps': 2.5e-09, 'weight_decay': 0.04}
        >>> scale_batch(dp.SGD.recipe_for(lr=0.1, momentum=0.9), 256, 8192, momentum="steps").settings
        {'lr': 3.2}
        >>> scale_batch(dp.SGD.recipe_for(lr=0.1), 64, 256, noise_scale=64).settings
        {'lr': 0.16}
    """
    check("scale_batch", "from_", from_, _BATCH)
    check("scale_batch", "to", to, _BATCH)
    check("scale_batch", "rule", rule, _RULES)
    check("scale_batch", "momentum", momentum, _MOMENTUM)
    check("scale_batch", "noise_scale", noise_scale, _NOISE)
    if from_ == to:
        raise ArgumentError(f"scale_batch: from_ and to must differ, got {shown(from_)} for both.")
    targets = targets_of(recipe_or_optimizer)
    chosen = rule if rule != "auto" else "sqrt" if divides(targets[0].recipe) else "linear"
    scaling = Scaling(to / from_, chosen, momentum == "steps", noise_scale / from_)
    groups = tuple(scale_target(target, scaling, is_forced=rule != "auto") for target in targets)
    is_recipe = isinstance(recipe_or_optimizer, Recipe)
    given = dict(recipe_or_optimizer.schedule)
    factor = groups[0].recipe.lr / groups[0].before.lr if groups[0].before.lr else 1.0
    schedules = scale_schedules(given, scaling, float(factor))
    options = None if is_recipe else recipe_or_optimizer.options
    limits = [*_clip_limits(options), *schedules.limits]
    return BatchScaling(
        from_batch=from_,
        to_batch=to,
        rule=chosen,
        groups=groups,
        schedule=schedules.schedule,
        schedule_changes=schedules.changes,
        limits=tuple(dict.fromkeys([*(text for group in groups for text in group.limits), *limits])),
        optimizer=None if is_recipe else recipe_or_optimizer,
        noise_scale=float(noise_scale),
    )


def _clip_limits(options: Any) -> list[str]:
    names = [name for name in ("max_norm", "clip_value") if options is not None and getattr(options, name) is not None]
    return [f"{name} is unchanged: the rule holds for steps that it does not clip." for name in names]
