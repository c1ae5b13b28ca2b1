"""Laws by which the learning rate must change if parameters or loss are rescaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data.seeding import generator
from dashpot.experiments import rescaling_figures as figures
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.momentum import NAG, HeavyBall
from dashpot.optimizers.second_order import ESGD, AdaHessian, Sophia
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.optimizers.torch_compatible import SGD, Adagrad, Adam, NAdam, RMSprop

N = 8.0
"""Factor of the rescaled parameters or loss: a power of two, whose products have no rounding errors."""
EXACT = 1e-12
"""Largest relative deviation of the paths that counts as equal."""

CLAIMS = (
    Claim(
        "ESGD-M, learning rates",
        "SGD class: parameters multiplied by n need a rate multiplied by n^2, a loss multiplied by n a rate divided by "
        "n.",
    ),
    Claim(
        "ESGD-M, learning rates",
        "Adagrad and Adam class: parameters multiplied by n need a rate multiplied by n, a loss multiplied by n no "
        "change.",
    ),
    Claim("ESGD-M, learning rates", "Second-order class: neither rescaling needs a change of the rate."),
)
REASON = (
    "With eps = 0, each method of a class follows the same path if its law is applied, except Sophia, "
    "whose elementwise clipping bounds the step by the rate as in the Adam class. With default eps, the laws of the "
    "last two classes hold while the rescaled denominator remains large compared with eps."
)


@dataclass(frozen=True)
class Law:
    """Powers of n in the factor of the rate, for rescaled parameters and for a rescaled loss."""

    parameters: int
    loss: int


LAWS = (Law(2, -1), Law(1, 0), Law(0, 0))
"""Laws in the order of the claims."""


@dataclass(frozen=True)
class Method:
    """A method, its class by the index of the claim, and the condition under which the law of the class holds."""

    make: Callable[..., Optimizer]
    lr: float
    claim: int
    limits: str = ""


NO_CLIPPING = "clipped elements move by lr, as in the Adam class; the law holds only for steps without clipping"
METHODS: Mapping[str, Method] = {
    "SGD": Method(SGD, 0.03, 0),
    "heavy ball": Method(HeavyBall, 0.005, 0),
    "NAG": Method(NAG, 0.005, 0),
    "Adagrad": Method(partial(Adagrad, eps=0), 0.1, 1),
    "RMSprop": Method(partial(RMSprop, eps=0), 0.003, 1),
    "Adam": Method(partial(Adam, eps=0), 0.02, 1),
    "NAdam": Method(partial(NAdam, eps=0), 0.02, 1),
    "ESGD": Method(partial(ESGD, eps=0), 0.1, 2),
    "AdaHessian": Method(partial(AdaHessian, eps=0), 0.05, 2),
    "Sophia": Method(partial(Sophia, eps=0), 0.05, 2, NO_CLIPPING),
}
WITH_EPS: Mapping[str, Method] = {
    "Adagrad, eps 1e-10": Method(Adagrad, 0.1, 1),
    "Adam, eps 1e-8": Method(Adam, 0.02, 1),
    "ESGD, eps 1e-4": Method(ESGD, 0.1, 2),
}
"""Methods with their default eps, whose deviation is measured for parameters multiplied by 8 and by 2^20."""


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure how far the paths of rescaled problems deviate if the law of the class is applied."""
    steps = 4 if quick else 60
    names = ("SGD", "Adam", "ESGD", "Sophia") if quick else tuple(METHODS)
    findings = [item for name in tracked(names, "method") for item in _law_findings(name, seeds, steps)]
    findings += [item for name in tracked(("SGD", "Adam"), "unchanged rate") for item in _contrast(name, seeds, steps)]
    if not quick:
        findings += [item for name in tracked(WITH_EPS, "eps") for item in _eps_findings(name, seeds, steps)]
    data = {name: _curves(METHODS[name], seeds[0], steps) for name in ("SGD", "Adam", "ESGD")}
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(Panel("losses", "Losses of rescaled problems", figures.NOTE, partial(figures.losses, data)),),
        settings={
            "problem": "regression with a tanh network of 65 parameters, 40 examples, full batch, float64",
            "n": N,
            "steps": steps,
            "rates": {name: method.lr for name, method in METHODS.items()},
            "largest deviation of equal paths": EXACT,
        },
        data=data,
    )


class Regression:
    """Regression with the network v tanh(W x + b) + c, whose 65 parameters form one vector."""

    def __init__(self, seed: int) -> None:
        random = generator("rescaling", seed)
        normal = partial(torch.randn, dtype=torch.float64, generator=random)
        self.x, self.y = normal(40, 6), normal(40)
        self.start = normal(65) / 2

    def loss(self, w: Tensor) -> Tensor:
        """Return the mean squared error."""
        hidden = torch.tanh(self.x @ w[:48].view(6, 8) + w[48:56])
        return (hidden @ w[56:64] + w[64] - self.y).square().mean()


def path(method: Method, problem: Regression, steps: int, factor: float, n: float = 1.0, scale: float = 1.0) -> Tensor:
    """Return the parameters before each step and after the last one, in the original units.

    Args:
        method: Method.
        problem: Problem in the original units.
        steps: Number of steps.
        factor: Factor of the learning rate.
        n: Factor of the parameters: w' = n w.
        scale: Factor of the loss.
    """
    point = nn.Parameter(problem.start * n)
    optimizer = method.make([point], lr=method.lr * factor, engine="eager")
    states = [problem.start]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = scale * problem.loss(point / n)
        if isinstance(optimizer, SecondOrder):
            optimizer.backward(loss)
        else:
            loss.backward()
        optimizer.step()
        states.append(point.detach() / n)
    return torch.stack(states)


def deviations(method: Method, law: Law, seed: int, steps: int) -> tuple[float, float]:
    """Return the relative deviations of the path for rescaled parameters and for a rescaled loss.

    The deviation is the largest distance from the path of the original problem, relative to the longest way of that
    path from its start.
    """
    problem = Regression(seed)
    original = path(method, problem, steps, 1.0)
    parameters = path(method, problem, steps, N**law.parameters, n=N)
    loss = path(method, problem, steps, N**law.loss, scale=N)
    return relative_distance(parameters, original), relative_distance(loss, original)


def relative_distance(other: Tensor, original: Tensor) -> float:
    """Return the largest distance between two paths, relative to the longest way of `original` from its start."""
    return float((other - original).norm(dim=1).max() / (original - original[0]).norm(dim=1).max())


def _law_findings(name: str, seeds: Sequence[int], steps: int) -> list[Finding]:
    method = METHODS[name]
    pairs = [deviations(method, LAWS[method.claim], seed, steps) for seed in seeds]
    rows = []
    for kind, values in zip(("parameters", "loss"), zip(*pairs, strict=True), strict=True):
        small = max(values) < EXACT
        limits = "" if small else method.limits
        interval = mean_interval(values)
        statement = f"deviation, {kind} times {N:g}, {name}"
        rows.append(
            Finding(f"{kind}-{name}", statement, *interval, 0.0, small or bool(limits), limits, claim=method.claim)
        )
    return rows


def _contrast(name: str, seeds: Sequence[int], steps: int) -> list[Finding]:
    """Return the deviation with an unchanged rate, where the law requires a change."""
    method, rows = METHODS[name], []
    pairs = [deviations(method, Law(0, 0), seed, steps) for seed in seeds]
    law = LAWS[method.claim]
    for kind, power, values in zip(
        ("parameters", "loss"), (law.parameters, law.loss), zip(*pairs, strict=True), strict=True
    ):
        if power:
            statement = f"deviation, {kind} times {N:g}, unchanged rate, {name}"
            holds = min(values) > 0.1
            rows.append(
                Finding(f"unchanged-{kind}-{name}", statement, *mean_interval(values), None, holds, claim=method.claim)
            )
    return rows


def _eps_findings(name: str, seeds: Sequence[int], steps: int) -> list[Finding]:
    """Return deviations with the default eps; above 1 %, the law holds only for a smaller eps."""
    method, rows = WITH_EPS[name], []
    for n, times in ((N, "8"), (2.0**20, "2^20")):
        values = []
        for seed in seeds:
            problem = Regression(seed)
            original = path(method, problem, steps, 1.0)
            factor = n ** LAWS[method.claim].parameters
            values.append(relative_distance(path(method, problem, steps, factor, n=n), original))
        interval = mean_interval(values)
        limits = "" if interval.mean < 0.01 else "eps is not small compared with the rescaled denominator"
        statement = f"deviation, parameters times {times}, {name}"
        rows.append(Finding(f"eps-{times}-{name}", statement, *interval, 0.0, True, limits, claim=method.claim))
    return rows


def _curves(method: Method, seed: int, steps: int) -> dict[str, Any]:
    """Return the losses of the original problem, and of rescaled parameters with and without the law."""
    problem, law = Regression(seed), LAWS[method.claim]
    runs = {
        "original": path(method, problem, steps, 1.0),
        "law": path(method, problem, steps, N**law.parameters, n=N),
        "unchanged": path(method, problem, steps, 1.0, n=N),
    }
    return {name: [float(problem.loss(w)) for w in states] for name, states in runs.items()}
