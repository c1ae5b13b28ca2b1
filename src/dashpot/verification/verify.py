"""`dashpot.verify`: the public function, from arguments to result."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.constraints import Interval, OneOf, Optional, check
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.utils.rng_state import preserve_rng_state
from dashpot.verification.checkpoints import Resumed
from dashpot.verification.cost import costs
from dashpot.verification.course import Course, run_course
from dashpot.verification.deviation import Distance
from dashpot.verification.result import Checkpoint, Deviation, Verification
from dashpot.verification.side import ARGUMENTS, Maker
from dashpot.verification.subject import Subject
from dashpot.verification.verdict import differing_settings, dtype_name, verdict

__all__ = ["verify"]

_DTYPES = (None, torch.float64, torch.float32, torch.bfloat16, torch.float16)
_ALLOWED = {
    "steps": Interval(2, math.inf, "left", integer=True),
    "takes": OneOf(ARGUMENTS),
    "dtype": OneOf(_DTYPES),
    "tolerance": Optional(Interval(0, math.inf, "left")),
    "timed_steps": Interval(0, math.inf, "left", integer=True),
    "seed": Interval(0, 2**32, "left", integer=True),
}


def verify(
    make_optimizer: Callable[[Any], Any],
    make_reference: Callable[[Any], Any],
    model_or_loss: nn.Module | Callable[..., Any] | Any,
    steps: int = 20,
    *,
    batches: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    params: Tensor | Iterable[Tensor] | None = None,
    takes: str = "parameters",
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    timed_steps: int = 100,
    seed: int = 0,
) -> Verification:
    """Compare an optimizer with a reference on copies of your model: weights, checkpoints, time and memory.

    Both optimizers step on the reference's gradients, so that deviations come from the optimizer alone and training
    cannot amplify them. Halfway, each saves a checkpoint; the other class resumes from it, and so does the optimizer's
    own. An independent run of the optimizer on its own gradients is reported but not judged.
    The model, its gradients and the random number generators are left unchanged.

    Args:
        make_optimizer, make_reference: Optimizer classes, or functions from parameters to an optimizer; each is called
            several times.
        model_or_loss: One of: a module, with `loss` and `batches` of (input, target); a module that returns its loss,
            or an output with a field `loss`, when called as `model(*batch)` or, for a mapping, `model(**batch)`; a
            `dashpot.tasks.Problem`; a function of tensors that returns a loss, with `params`.
        steps: At least 2.
        batches: An iterable such as a `DataLoader`; the first `steps` batches are used, and repeated if there are
            fewer.
        loss: A function of (output, target).
        params: For a function of tensors: its initial arguments.
        takes: What the two functions are called with: "parameters", "named_parameters", or "model" (the copy itself).
        dtype: Convert the copies and floating-point batches; float64 reveals differences that float32 rounding hides.
        tolerance: The largest deviation allowed after all steps, in ulps; sqrt(k/steps) of it after step k. Default: 16
            sqrt(steps). One ulp is the spacing of floating-point numbers at the largest magnitude the weight has had.
            Optimizers that need a closure or Hessian-vector products run on their own gradients; the default is then
            1/sqrt(eps) ulps (half of the digits) at every step, and if lower precision exceeds it, float64 decides.
        timed_steps: The late step to time; 0 skips the measurement of time and memory.
        seed: Of the model's random numbers: step k draws the same on all copies.

    Raises `ArgumentError` for inconsistent arguments, and if nothing can be compared because no weight moves or the
    first step is not finite. Peak memory is about 22 times that of the weights, and three times as much if a
    disagreement is repeated in float64.

    >>> import torch, dashpot as dp
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> data = [(torch.randn(16, 4), torch.randn(16, 1)) for _ in range(5)]
    >>> result = dp.verify(
    ...     lambda params: dp.AdamW(params, lr=1e-3),
    ...     lambda params: torch.optim.AdamW(params, lr=1e-3),
    ...     model, batches=data, loss=torch.nn.functional.mse_loss, timed_steps=0,
    ... )
    >>> result.agrees, [found.outcome for found in result.checkpoints]
    (True, ['agrees', 'agrees', 'agrees'])
    >>> dp.verify(dp.SGD, torch.optim.SGD, lambda w: w.square().sum(), params=torch.ones(3), timed_steps=0).agrees
    True
    """
    if isinstance(steps, Iterable):
        raise ArgumentError(f"verify: steps must be an integer, got {type(steps).__name__}; give batches by keyword.")
    given = {"steps": steps, "takes": takes, "dtype": dtype, "tolerance": tolerance}
    for name, value in {**given, "timed_steps": timed_steps, "seed": seed}.items():
        check("verify", name, value, _ALLOWED[name])
    makers = Maker("make_optimizer", make_optimizer, takes), Maker("make_reference", make_reference, takes)
    with preserve_rng_state(), _default_dtype(dtype):
        subject = Subject.of(model_or_loss, batches=batches, loss=loss, params=params, steps=steps, seed=seed)
        subject = subject if dtype is None else subject.converted(dtype)
        course = run_course(subject, makers, steps, tolerance)
        names = _names(course)
        measured = costs(subject, makers, course, names, timed_steps) if timed_steps else []
        wide = _in_float64(subject, makers, steps) if course.deviates else None
    enlarged = None
    if not course.shared and wide is not None and not wide.deviates and tolerance is None:
        course, enlarged, wide = wide, course, None
    checkpoints = tuple(_checkpoint(way, names) for way in course.checkpoints)
    agrees = course.main.first is None and not any(way.outcome in ("deviates", "fails") for way in checkpoints)
    return Verification(
        *names,
        agrees=agrees,
        verdict=verdict(names, course, checkpoints, wide, enlarged),
        steps=steps,
        compared=course.compared,
        dtype=dtype_name(course),
        device=next(iter(course.sides[1].params.values())).device.type,
        shared_gradients=course.shared,
        tolerance=course.allowed,
        tensors=_tensors(course),
        first=course.main.first,
        drift=None if course.drift is None else _deviation(course, *course.drift),
        noise=None if course.noise is None else _deviation(course, *course.noise),
        losses=course.losses,
        saved=course.saved,
        checkpoints=checkpoints,
        costs=tuple(measured),
        settings=differing_settings(course) if course.main.first else (),
    )


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """What a model or an optimizer makes by itself is then as exact as the weights."""
    before = torch.get_default_dtype()
    if dtype == torch.float64:
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _in_float64(subject: Subject, makers: Sequence[Maker], steps: int) -> Course | None:
    """The same in float64, which tells rounding from another formula; None where it cannot be run or says no more."""
    dtypes = {p.dtype for p in subject.model.parameters()}
    if torch.float64 in dtypes or any(dtype.is_complex for dtype in dtypes):
        return None
    try:
        with _default_dtype(torch.float64):
            return run_course(subject.converted(torch.float64), makers, steps, None)
    except Exception:  # the user's model is free not to work in float64
        return None


def _names(course: Course) -> tuple[str, str]:
    ours, theirs = (side.optimizer for side in course.sides)
    if _name(ours) != _name(theirs):
        return _name(ours), _name(theirs)
    if _options_text(ours) != _options_text(theirs):
        how = [f"({text})" if (text := _options_text(side)) else "" for side in (ours, theirs)]
        return _name(ours) + how[0], _name(theirs) + how[1]
    return _name(ours), f"{_name(theirs)} (reference)"


def _options_text(optimizer: Any) -> str:
    """How an optimizer runs, as keywords that differ from the defaults."""
    if isinstance(optimizer, Optimizer):
        return optimizer.options.text()
    chosen = {name: getattr(optimizer, "defaults", {}).get(name) for name in ("foreach", "fused")}
    return ", ".join(f"{name}={value}" for name, value in chosen.items() if value is not None)


def _name(optimizer: Any) -> str:
    """The class as one would import it.

    >>> _name(torch.optim.SGD([torch.zeros(1)]))
    'torch.optim.SGD'
    """
    kind = type(optimizer)
    for package in ("dashpot", "torch.optim"):
        if kind.__module__.startswith(f"{package}."):
            return f"{package}.{kind.__qualname__}"
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or module is None:
        return kind.__qualname__
    if module.__spec__ is None and module.__file__ is not None:  # of a file that was run, not imported
        return f"{Path(module.__file__).name}:{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _tensors(course: Course) -> tuple[Deviation, ...]:
    found = [_deviation(course, name, distance, course.moved[name]) for name, distance in course.main.distances.items()]
    return tuple(sorted(found, key=lambda deviation: -deviation.ulps))


def _deviation(course: Course, name: str, distance: Distance, moved: float | None = None) -> Deviation:
    return Deviation(name, tuple(course.sides[1].params[name].shape), *distance, moved)


def _checkpoint(way: Resumed, names: Sequence[str]) -> Checkpoint:
    source, target, track = names[way.source], names[way.target], way.track
    if track.failed is not None:
        own = way.source == way.target
        return Checkpoint(source, target, "fails" if own else "not applicable", reason=track.failed)
    return Checkpoint(source, target, "agrees" if track.first is None else "deviates", track.ulps)
