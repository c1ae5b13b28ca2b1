"""The public function `dashpot.verify`."""

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
from dashpot.verification.checkpoints import ResumedRun
from dashpot.verification.cost import measure_costs
from dashpot.verification.deviation import Distance
from dashpot.verification.paired_run import PairedRun, run_pair
from dashpot.verification.replica import ARGUMENTS, Factory
from dashpot.verification.result import Checkpoint, Deviation, Verification
from dashpot.verification.verdict import dtype_name, format_verdict, mismatched_settings
from dashpot.verification.workload import Workload

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
    """Compare the weights, checkpoints, time and memory of an optimizer and a reference on copies of your model.

    Both optimizers use the gradients of the reference, so that deviations come from the optimizer alone and are not
    amplified by training. Halfway, each optimizer saves a checkpoint, from which a new optimizer of the other class
    resumes. In addition, a new optimizer of the same class as the tested optimizer resumes from the tested optimizer's
    checkpoint. An independent run of the optimizer on its own gradients is reported but does not affect the result. The
    model, its gradients and the random number generators are left unchanged. Peak memory is about 22 times the size of
    the weights, and three times as much if a run with deviations is repeated in float64.

    Args:
        make_optimizer: An optimizer class, or a function from parameters to an optimizer; called several times.
        make_reference: An optimizer class or a function that creates the reference, like `make_optimizer`.
        model_or_loss: One of the following: (1) a module, together with `loss` and with `batches` of (input, target);
            (2) a module that returns its loss, or an output with a field `loss`, when called as `model(*batch)` or, if
            the batch is a mapping, as `model(**batch)`; (3) a `dashpot.tasks.Problem`; (4) a function of tensors that
            returns a loss, together with `params`.
        steps: Number of steps; at least 2.
        batches: An iterable such as a `DataLoader`. The first `steps` batches are used; if there are fewer, they are
            repeated.
        loss: A function of (output, target) that returns the loss.
        params: Initial arguments, if `model_or_loss` is a function of tensors.
        takes: Argument passed to `make_optimizer` and `make_reference`: "parameters", "named_parameters", or "model"
            (the copy of the model).
        dtype: Dtype to which the copies of the model and floating-point batches are converted; None keeps their dtypes.
            float64 reveals differences that rounding errors in float32 hide.
        tolerance: Largest deviation in ulps allowed after all steps; after step k, sqrt(k/steps) times as much is
            allowed. The default is 16 sqrt(steps). One ulp is the spacing of floating-point numbers at the largest
            magnitude that the weight has had. Optimizers that need a closure or Hessian-vector products run on their
            own gradients. The default is then 1/sqrt(eps) ulps (half of the digits) at every step; if a run in lower
            precision exceeds the tolerance, the run is repeated in float64, and the repetition determines the result.
        timed_steps: Number of the late step whose time is measured; 0 skips the measurement of time and memory.
        seed: Seed of the model's random numbers. At each step, all copies draw the same random numbers.

    Returns:
        A `Verification` with the deviations, checkpoint results and costs, which is true if the optimizers agree.

    Raises:
        ArgumentError: If arguments are inconsistent, if no weight moves, or if weights are not finite after the first
            step.

    Example:

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
    arguments = {"steps": steps, "takes": takes, "dtype": dtype, "tolerance": tolerance}
    for name, value in {**arguments, "timed_steps": timed_steps, "seed": seed}.items():
        check("verify", name, value, _ALLOWED[name])
    factories = Factory("make_optimizer", make_optimizer, takes), Factory("make_reference", make_reference, takes)
    with preserve_rng_state(), _default_dtype(dtype):
        workload = Workload.create(model_or_loss, batches=batches, loss=loss, params=params, steps=steps, seed=seed)
        workload = workload if dtype is None else workload.converted(dtype)
        run = run_pair(workload, factories, steps, tolerance)
        names = _names(run)
        costs = measure_costs(workload, factories, run, names, timed_steps) if timed_steps else []
        float64_run = _run_in_float64(workload, factories, steps) if run.deviates else None
    low_precision_run = None
    if not run.shared_gradients and float64_run is not None and not float64_run.deviates and tolerance is None:
        run, low_precision_run, float64_run = float64_run, run, None
    checkpoints = tuple(_checkpoint(resumed, names) for resumed in run.resumed)
    return Verification(
        *names,
        agrees=run.main.first is None and not any(found.outcome in ("deviates", "fails") for found in checkpoints),
        verdict=format_verdict(names, run, checkpoints, float64_run, low_precision_run),
        steps=steps,
        compared=run.compared,
        dtype=dtype_name(run),
        device=run.replicas[1].device.type,
        shared_gradients=run.shared_gradients,
        tolerance=run.tolerance,
        tensors=_tensors(run),
        first=run.main.first,
        drift=None if run.drift is None else _deviation(run, *run.drift),
        noise=None if run.noise is None else _deviation(run, *run.noise),
        losses=run.losses,
        saved=run.saved,
        checkpoints=checkpoints,
        costs=tuple(costs),
        settings=mismatched_settings(run) if run.main.first else (),
    )


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Set torch's default dtype, for tensors that a model or an optimizer creates, to float64 if `dtype` is float64."""
    before = torch.get_default_dtype()
    if dtype == torch.float64:
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _run_in_float64(workload: Workload, factories: Sequence[Factory], steps: int) -> PairedRun | None:
    """Repeat the run in float64; return None for float64 or complex models, and for models that fail in float64."""
    dtypes = {p.dtype for p in workload.model.parameters()}
    if torch.float64 in dtypes or any(dtype.is_complex for dtype in dtypes):
        return None
    try:
        with _default_dtype(torch.float64):
            return run_pair(workload.converted(torch.float64), factories, steps, None)
    except Exception:  # the user's model need not support float64
        return None


def _names(run: PairedRun) -> tuple[str, str]:
    ours, theirs = (replica.optimizer for replica in run.replicas)
    if _name(ours) != _name(theirs):
        return _name(ours), _name(theirs)
    options = [_options_text(optimizer) for optimizer in (ours, theirs)]
    if options[0] != options[1]:
        ours, theirs = (f"{_name(ours)}({text})" if text else _name(ours) for text in options)
        return ours, theirs
    return _name(ours), f"{_name(theirs)} (reference)"


def _options_text(optimizer: Any) -> str:
    """Return the options of the optimizer that differ from their defaults, formatted as keyword arguments."""
    if isinstance(optimizer, Optimizer):
        return optimizer.options.text()
    flags = {name: getattr(optimizer, "defaults", {}).get(name) for name in ("foreach", "fused")}
    return ", ".join(f"{name}={value}" for name, value in flags.items() if value is not None)


def _name(optimizer: Any) -> str:
    """Return the import path of the optimizer's class.

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
    if module.__spec__ is None and module.__file__ is not None:  # a file that was executed by its path
        return f"{Path(module.__file__).name}:{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _tensors(run: PairedRun) -> tuple[Deviation, ...]:
    deviations = [_deviation(run, name, distance, run.moved[name]) for name, distance in run.main.distances.items()]
    return tuple(sorted(deviations, key=lambda deviation: -deviation.ulps))


def _deviation(run: PairedRun, name: str, distance: Distance, moved: float | None = None) -> Deviation:
    return Deviation(name, tuple(run.replicas[1].params[name].shape), *distance, moved)


def _checkpoint(resumed: ResumedRun, names: Sequence[str]) -> Checkpoint:
    source, target, check = names[resumed.source], names[resumed.target], resumed.check
    if check.failure is not None:
        outcome = "fails" if resumed.source == resumed.target else "not applicable"
        return Checkpoint(source, target, outcome, reason=check.failure)
    return Checkpoint(source, target, "agrees" if check.first is None else "deviates", check.ulps)
