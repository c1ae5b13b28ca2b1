"""Parameter changes of real runs as a first-order time-varying filter: identity, published form, decay and bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dashpot.analysis import Dynamics, dynamics, record_steps, stability
from dashpot.data.seeding import generator
from dashpot.experiments import parameter_changes_figures as figures
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.progress import report_progress
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.figures.series_data import evenly_spaced
from dashpot.optimizers.adam_variants import QHAdam
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.momentum import NAG
from dashpot.optimizers.torch_compatible import Adam, AdamW
from dashpot.tasks import get

METHODS: Mapping[str, Callable[..., Optimizer]] = {
    "AdamW": partial(AdamW, lr=0.01, weight_decay=0.1),
    "Adam": partial(Adam, lr=0.01, weight_decay=0.1),
    "QHAdam": partial(QHAdam, lr=0.01, weight_decay=0.1),
    "NAG": partial(NAG, lr=0.01, pole=0.9, weight_decay=0.1),
    "AutoSGM": partial(AutoSGM, lr=0.01, zero=0.5528, numerator=1, beta_n=0.99, decay="change", weight_decay=0.1),
    "AutoSGM, no debiasing": partial(AutoSGM, lr=0.01, debias=False, weight_decay=0.1),
}
ON_DIGITS = ("AdamW", "AutoSGM")
"""Methods of the runs on digits."""
TOLERANCE = 1e-12
"""Largest residual, relative to the largest change."""
LATE = 100
"""Number of steps at the end of a run in which the error of the published form is measured."""
DRAWN = 120
"""Number of drawn steps of a curve."""
ELEMENTS = 64
CURVATURE, RATE, DECAY, POLE, ZERO = 0.05, 0.1, 0.05, 0.9, 0.5
"""Quadratic on which the two kinds of decay are measured."""
COUPLED_LIMIT = "for overdamped modes: coupled decay does not damp oscillating ones; see the experiment l2-vs-decoupled"

CLAIMS = (
    Claim(
        "AutoSGM, introduction",
        "With a first-order filter and a rate that depends on the iteration, the parameter changes follow a "
        "first-order linear time-varying filter.",
    ),
    Claim(
        "AutoSGM, notes on learning dynamics",
        "Dw_{t+1} = pole r_t Dw_t + gain alpha_t e_t with alpha_t = lr_t/d_t, from the first step.",
    ),
    Claim("AutoSGM, introduction", "Coupled and decoupled weight decay are damping terms at the level of the change."),
    Claim("AutoSGM, repository", "The changes stay below sup alpha (sup|dw_0| + sup|e|/(1 - zero)), with dw_0 = 0."),
)
REASON = (
    "With the output scale c_t of the filter in alpha_t, the recursion equals the measured changes from the first "
    "step. As published, without c_t, it fails while the bias correction acts, and at all steps for a DC gain other "
    "than 1 and for change-level decay with its printed coefficient. Both kinds of decay shrink the weights at the "
    "predicted rate, and no change exceeds its bound."
)


class _Problem(NamedTuple):
    """Module, and the loss at a step."""

    module: nn.Module
    loss: Callable[[nn.Module, int], Tensor]


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Record runs of several methods, and compare the recursion with the measured changes."""
    steps = (
        {"quadratic": 20, "logistic": 20, "digits": 3} if quick else {"quadratic": 600, "logistic": 600, "digits": 60}
    )
    problems = {"quadratic": _quadratic, "logistic": _logistic, "digits": _digits}
    found: dict[str, dict[str, list[Dynamics]]] = {}
    for problem, make in problems.items():
        found[problem] = {}
        for method in ON_DIGITS if problem == "digits" else METHODS:
            report_progress(f"{problem}, {method}")
            create = partial(METHODS[method], engine="eager" if quick else "auto")  # a kernel pays in long runs only
            found[problem][method] = [recorded(make(seed), create, steps[problem]) for seed in seeds]
    findings = [
        *(_residual_finding(problem, runs) for problem, runs in found.items()),
        *_published_findings(found["logistic"]),
        *_decay_findings(),
        *(_bound_finding(problem, runs) for problem, runs in found.items()),
    ]
    data = {
        "residuals": {method: _residual_curves(runs[0]) for method, runs in found["logistic"].items()},
        "rates": {method: _bands(found["digits"][method][0]["0.weight"].alpha) for method in ON_DIGITS},
        "bound": _bound_curves(found["logistic"]["AdamW"][0]),
        "paths": {method: _path(runs[0]) for method, runs in found["quadratic"].items()},
    }
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel(
                "residuals", "Error of the recursion", figures.RESIDUALS_NOTE, partial(figures.residuals, data), claim=1
            ),
            Panel("rates", "Rate of the elements of a layer", figures.RATES_NOTE, partial(figures.rates, data)),
            Panel("bound", "Changes and their bound", figures.BOUND_NOTE, partial(figures.bound, data), claim=3),
            Panel("paths", "Paths of the changes", figures.PATHS_NOTE, partial(figures.paths, data)),
        ),
        settings={
            **{f"steps, {problem}": count for problem, count in steps.items()},
            "methods": {
                method: repr(create([torch.zeros(1, requires_grad=True)]).recipe) for method, create in METHODS.items()
            },
            "largest residual": TOLERANCE,
            "precision": "float64",
        },
        data=data,
    )


def recorded(problem: _Problem, create: Callable[[list[Tensor]], Optimizer], steps: int) -> Dynamics:
    """Return the dynamics of a run."""
    optimizer = create(list(problem.module.parameters()))
    params = dict(problem.module.named_parameters())
    with record_steps(optimizer, params, elements=ELEMENTS) as recording:
        for step in range(steps):
            optimizer.zero_grad()
            problem.loss(problem.module, step).backward()
            optimizer.step()
    return dynamics(recording)


# ---- problems --------------------------------------------------------------------------------------------------------


class _Weights(nn.Module):
    """A vector of weights."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values)


def _quadratic(seed: int) -> _Problem:
    """Return a quadratic with curvatures from .01 to 1, and gradient noise of sd .1."""
    draw = generator("parameter-changes", "quadratic", seed)
    curvature = torch.logspace(-2, 0, 20, dtype=torch.float64)
    start = torch.randn(20, dtype=torch.float64, generator=draw)

    def loss(module: nn.Module, step: int) -> Tensor:
        del step
        noise = 0.1 * torch.randn(20, dtype=torch.float64, generator=draw)
        w: Any = module.weight
        return (0.5 * curvature * w**2 + noise * w).sum()

    return _Problem(_Weights(start), loss)


def _logistic(seed: int) -> _Problem:
    """Return a logistic regression with 20 features, on batches of 20 of 500 examples."""
    draw = generator("parameter-changes", "logistic", seed)
    x = torch.randn(500, 20, dtype=torch.float64, generator=draw)
    y = (x @ torch.randn(20, dtype=torch.float64, generator=draw) > 0).double()

    def loss(module: nn.Module, step: int) -> Tensor:
        del step
        chosen = torch.randint(500, (20,), generator=draw)
        w: Any = module.weight
        return nn.functional.binary_cross_entropy_with_logits(x[chosen] @ w, y[chosen])

    return _Problem(_Weights(0.1 * torch.randn(20, dtype=torch.float64, generator=draw)), loss)


def _digits(seed: int) -> _Problem:
    """Return the digits task in float64."""
    task = get("digits", validation_size=0).build(seed)
    train: Any = task.train
    batches = chain.from_iterable(repeat(train))

    def loss(module: nn.Module, step: int) -> Tensor:
        del step
        x, y = next(batches)
        return nn.functional.cross_entropy(module(x.double()), y)

    return _Problem(task.model.double(), loss)


# ---- findings --------------------------------------------------------------------------------------------------------


def _residual_finding(problem: str, runs: Mapping[str, Sequence[Dynamics]]) -> Finding:
    # A bias before batch normalization has no gradient but rounding, so that its changes are below that of weights.
    tensors = [tensor for each in runs.values() for found in each for tensor in found.tensors.values()]
    worst = max(float(t.residual.max()) for t in tensors if t.resolution.max() < TOLERANCE)
    holds = all(found.holds for each in runs.values() for found in each)
    statement = f"largest error of the recursion with c_t, per largest change of a tensor, {problem}"
    return Finding(f"residual-{problem}", statement, worst, worst, worst, 0.0, holds)


def _published_findings(runs: Mapping[str, Sequence[Dynamics]]) -> list[Finding]:
    """Return the error of the published form at the first step and in the last steps."""
    rows = []
    for method in ("AdamW", "AutoSGM", "AutoSGM, no debiasing"):
        errors = [published_errors(found) for found in runs[method]]
        first = [error[0] for error in errors]
        mean, low, high = mean_interval(first)
        holds = max(first) < TOLERANCE
        statement = f"error of the published form at step 1, per largest change of the step, {method}"
        rows.append(Finding(f"published-{method}", statement, mean, low, high, 0.0, holds, claim=1))
    for method in ("AdamW", "AutoSGM", "NAG"):
        late = [float(np.median(published_errors(found)[-LATE:])) for found in runs[method]]
        holds = max(late) < 1e-9  # bias correction fades to rounding
        statement = f"median error of the published form in the last {LATE} steps, {method}"
        rows.append(Finding(f"late-{method}", statement, *mean_interval(late), 0.0, holds, claim=1))
    return rows


def published_errors(found: Dynamics) -> np.ndarray:
    """Return the error of the published form at each step, relative to the largest change of the step."""
    tensor = found["weight"]
    sup = tensor.statistics["dw"]["sup"]
    return tensor.published_residual * sup.max() / sup


def _decay_findings() -> list[Finding]:
    """Compare the shrinkage per step on a quadratic with the largest root of the characteristic polynomial."""
    settings = {
        "no decay": {},
        "coupled decay": {"weight_decay": DECAY},
        "change-level decay": {"weight_decay": DECAY, "decay": "change"},
    }
    rows = []
    for name, options in settings.items():
        chosen = {"lr": RATE, "adaptive": False, "zero": ZERO, **options}
        measured = -math.log(_shrinkage(chosen))
        recipe = AutoSGM([torch.zeros(1, requires_grad=True)], **chosen).recipe
        radius: Any = stability(recipe, CURVATURE).spectral_radius
        predicted = -math.log(radius)
        # Bias correction and the smaller root fade in the first steps.
        holds = math.isclose(measured, predicted, rel_tol=1e-6)
        statement = f"decay rate of the weight per step, h = {CURVATURE}, {name}"
        limits = COUPLED_LIMIT if name == "coupled decay" else ""
        rows.append(Finding(f"decay-{name}", statement, measured, measured, measured, predicted, holds, limits, 2))
    return rows


def _shrinkage(settings: Mapping[str, Any]) -> float:
    """Return the ratio of the last two weights of a run without noise."""
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = AutoSGM([w], engine="eager", **settings)
    weights = []
    for _ in range(200):
        w.grad = CURVATURE * w.detach()
        optimizer.step()
        weights.append(w.item())
    return weights[-1] / weights[-2]


def _bound_finding(problem: str, runs: Mapping[str, Sequence[Dynamics]]) -> Finding:
    every = [tensor for each in runs.values() for found in each for tensor in found.tensors.values()]
    ratios = [np.abs(t.dw[t.bound > 0]) / t.bound[t.bound > 0] for t in every]
    worst = max(float(ratio.max()) for ratio in ratios if ratio.size)
    holds = all(found.bound_holds for each in runs.values() for found in each)
    statement = f"largest |Dw| per elementwise bound (at most 1), {problem}"
    return Finding(f"bound-{problem}", statement, worst, worst, worst, None, holds, claim=3)


# ---- plotted numbers -------------------------------------------------------------------------------------------------


def _residual_curves(found: Dynamics) -> dict[str, list[float | None]]:
    tensor = found["weight"]
    count = len(tensor.steps)
    drawn = np.unique(np.geomspace(1, count, DRAWN).round().astype(int)) - 1
    sup = tensor.statistics["dw"]["sup"]
    published = [None if math.isnan(value) else float(value) for value in published_errors(found)[drawn]]
    exact = (tensor.residual * sup.max() / sup)[drawn]
    return {"step": tensor.steps[drawn].tolist(), "exact": exact.tolist(), "published": published}


def _bands(values: np.ndarray) -> dict[str, list[float]]:
    names = ("low", "lower", "median", "upper", "high")
    quantiles = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    return {name: row.tolist() for name, row in zip(names, quantiles, strict=True)}


def _bound_curves(found: Dynamics) -> dict[str, list[float]]:
    tensor = found["weight"]
    return {"change": np.abs(tensor.dw).max(axis=1).tolist(), "bound": tensor.bound.max(axis=1).tolist()}


def _path(found: Dynamics) -> list[list[float]]:
    """Return the path of the elements with the smallest and the largest curvature."""
    path = found["weight"].path[:, [0, -1]]
    return path[evenly_spaced(len(path), DRAWN)].T.tolist()
