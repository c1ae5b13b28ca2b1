"""The function `explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dashpot.analysis.explanation import Explanation
from dashpot.analysis.method_part import Questions, method_part
from dashpot.analysis.schedule_part import schedule_part
from dashpot.analysis.subject import subjects
from dashpot.constraints import check_explain_arguments, unknown
from dashpot.errors import ArgumentError
from dashpot.names import SCHEDULES, known_methods
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Plateau, Product, Schedule, Sequence, from_name, split_name

DEFAULT_STEPS = 1000
"""Length of a schedule given by name."""


def explain(
    x: Any,
    *,
    curvature: float | None = None,
    noise: float | None = None,
    batch_size: int | None = None,
    to_batch: int | None = None,
    step: int | None = None,
    steps: int | None = None,
    **settings: Any,
) -> Explanation:
    """Describe the effect of the settings of a method or of a schedule, in sentences, numbers and figures.

    The results follow from the closed forms of `dashpot.analysis` for a quadratic loss: `response`, `stability`,
    `temperature`, `scale_batch`, `reach` and `robbins_monro`. Their conditions, and stages that they do not cover, are
    stated in notes.

    Args:
        x: A `Recipe`; a dashpot optimizer, or one of torch that has a counterpart, with all its groups; the class of
            such an optimizer, or the name of a method, such as "adamw"; a `Schedule` or a torch scheduler; or the name
            of a schedule, such as "cosine:floor=0.1".
        curvature: Curvature h > 0 of the loss, at which damping and half-life are computed. For a method with a
            denominator d, it is h/d.
        noise: Variance > 0 of the gradient of one example, for the stationary variance at `curvature`.
        batch_size: Number >= 1 of examples whose gradients are averaged.
        to_batch: Batch size for which the settings are scaled from `batch_size`.
        step: Number of completed steps at which schedules are evaluated. Default: the present step of an optimizer, and
            for recipes and names the step with the highest learning rate.
        steps: Length of a schedule. Default: the number of steps that shows its shape; 1000 for names.
        settings: Keyword arguments of a method that is given by its name or class; `lr` also applies to schedules.

    Returns:
        The explanation. `print` shows sentences and a table, `save` writes a page or a figure, and `to_dict` returns
        plain data.

    Raises:
        ArgumentError: If `x` has another type, or a name, a setting or a value is invalid.

    Example:
        >>> import dashpot as dp
        >>> print(dp.explain("heavy-ball", lr=0.1).summary())
        HeavyBall remembers about 10 gradients (the newest has 10 % of the weight). The weights add up to 10, so the
        effective learning rate is 1. At lr 0.1, it is stable for curvatures below 38.
    """
    questions = {"curvature": curvature, "noise": noise, "batch_size": batch_size, "to_batch": to_batch, "step": step}
    check_explain_arguments(**questions, steps=steps)
    is_name = isinstance(x, str)
    if is_name and x.partition(":")[0] not in {*known_methods(), *SCHEDULES}:
        raise unknown("method or schedule", x.partition(":")[0], [*known_methods(), *SCHEDULES])
    if isinstance(x, (Plateau, ReduceLROnPlateau)):
        raise ArgumentError(f"explain: a schedule must depend only on the step, got {type(x).__name__}.")
    if isinstance(x, (Schedule, LRScheduler)) or (is_name and x.partition(":")[0] in SCHEDULES):
        return _of_schedule(x, steps, {name: value for name, value in questions.items() if value is not None}, settings)
    if steps is not None:
        raise ArgumentError("explain: steps must be None unless x is a schedule.")
    found = subjects(x, step, settings)
    asked = Questions(curvature, noise, batch_size, to_batch)
    title = "Method" if isinstance(x, Recipe) else found[0].name
    return Explanation(title, tuple(method_part(subject, asked) for subject in found))


def _of_schedule(x: Any, steps: int | None, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> Explanation:
    for name in (*asked, *(name for name in settings if name != "lr")):
        raise ArgumentError(f"explain: {name} does not apply to a schedule, which takes steps and lr.")
    title = type(x).__name__
    name = "The schedule" if isinstance(x, (Sequence, Product)) else title
    if isinstance(x, str):
        title, options = split_name(x)
        name, steps = f"The schedule {title}", steps or DEFAULT_STEPS
        x = from_name(title, steps, **options)
    return Explanation(title, (schedule_part(name, x, steps, settings.get("lr", 1.0)),))
