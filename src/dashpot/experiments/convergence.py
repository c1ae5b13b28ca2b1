"""Convergence: rates that vanish and rates that do not, counterexamples, and the physicist's argument."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dashpot.analysis import reach
from dashpot.experiments import convergence_figures as figures
from dashpot.experiments import counterexample_runs as runs
from dashpot.experiments import counterexamples
from dashpot.experiments import physicists_argument as argument
from dashpot.experiments import vanishing_rates as rates
from dashpot.experiments.intervals import compared, mean_interval, verdict_of
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.schedules import Exponential, InverseTime

_THEOREM = "slides, the classical convergence theorem"
_ARGUMENT = "slides, physicist's proof of the convergence theorem"
CLAIMS = (
    Claim("slides, issues", "Convergence requires the learning rate to go to zero."),
    Claim(_THEOREM, "Every limit point of the weights is stationary: the gradient of the training loss is zero there."),
    Claim(_THEOREM, "Under the conditions, the weights can still diverge, stay at a saddle, or circle forever."),
    Claim(
        _ARGUMENT,
        "At small rates, an update averages many gradients at the same point, and becomes accurate; since the sum of "
        "the rates is infinite, the weights can still move arbitrarily far.",
    ),
    Claim("slides, issues", "Reducing the rate slowly allows better exploration."),
)
REASON = (
    "A rate that vanishes is needed for the loss and the gradient to go to their limits, but it pays only for runs of "
    "about 2700 steps and more: after 300 steps of the noisy quadratic, the loss with the constant rate is five times "
    "lower. All three counterexamples exist. Averaging errors and finite reach agree with the closed forms."
)
TOLERANCE = 0.02


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure limits for several rates, run the counterexamples, and check the steps of the physicist's argument."""
    losses, losses_data = _loss_findings(seeds, quick)
    norms, norms_data = _norm_findings(seeds, quick)
    examples, examples_data = _counterexample_findings(seeds, quick)
    steps = _argument_findings(seeds, quick)
    cooling, cooling_data = _cooling_findings(seeds, quick)
    findings = (*losses, *norms, *examples, *steps, *cooling)
    data = {"losses": losses_data, "norms": norms_data, **examples_data, "cooling": cooling_data}
    return Outcome(
        claims=CLAIMS,
        findings=findings,
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("losses", "Rates that vanish", figures.LOSSES_NOTE, partial(figures.losses, data)),
            Panel("norms", "Gradient of a network", figures.NORMS_NOTE, partial(figures.norms, data), claim=1),
            Panel("examples", "Counterexamples", figures.EXAMPLES_NOTE, partial(figures.examples, data), claim=2),
            Panel("cooling", "Slow cooling", figures.COOLING_NOTE, partial(figures.cooling, data), claim=4),
        ),
        settings={
            "noisy quadratic": f"20 weights, condition 100, gradient variance {rates.VARIANCE}, SGD, lr {rates.LR}",
            "network": "64-32-10 tanh network on the digits, batch 10, L2 coefficient 0.003, lr 0.3",
            "counterexamples": f"lr c/(1 + k t), random factor of the gradient with sd {runs.FACTOR_SD}",
            "double well": "(w^2 - 1)^2/4 + 0.03 w, gradient noise variance 16",
            "tolerance": "2 %, 1 % without random numbers",
        },
        data=data,
    )


def _exact(name: str, statement: str, measured: float, predicted: float, claim: int) -> Finding:
    """Return the finding of a measurement without random numbers, with a tolerance of 1 %."""
    return Finding(
        name, statement, measured, measured, measured, predicted, abs(measured / predicted - 1) < 0.01, claim=claim
    )


def _loss_findings(seeds: Sequence[int], quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Compare the mean loss after 300, 3000 and 10 000 steps, for constant and vanishing rates."""
    horizons = (30, 60) if quick else (300, 3000, 10_000)
    copies = 2 if quick else 20
    report_progress("constant rate")
    measured = {"constant": rates.measured_losses(rates.constant, horizons, seeds, copies)}
    report_progress("rate 1/sqrt(t)")
    measured["root"] = rates.measured_losses(rates.root, horizons, seeds, copies)
    measured["vanishing"] = {}
    for steps in tracked(horizons, "rate 1/t, steps"):
        measured["vanishing"] |= rates.measured_losses(rates.inverse_time(steps), [steps], seeds, copies)
    expected = {
        "constant": rates.expected_losses(rates.constant, horizons),
        "root": rates.expected_losses(rates.root, horizons),
        "vanishing": {steps: rates.expected_losses(rates.inverse_time(steps), [steps])[steps] for steps in horizons},
    }
    words = {
        "constant": "constant rate",
        "root": "rate (1 + t/300)^-1/2",
        "vanishing": "rate 1/(1 + 9 t/steps)",
    }
    limits = {("vanishing", 300): "300 steps are too few: the loss is higher than with the constant rate"}
    found = [
        compared(
            f"{kind}-{steps}",
            f"loss of the noisy quadratic after {steps} steps, {words[kind]}",
            measured[kind][steps],
            expected[kind][steps],
            tolerance=TOLERANCE,
            limits=limits.get((kind, steps), ""),
        )
        for kind in words
        for steps in horizons
    ]
    if not quick:
        steps = rates.reversal(rates.inverse_time)
        statement = "steps from which on the rate 1/(1 + 9 t/steps) ends below the constant rate, by the moments"
        found.append(Finding("reversal", statement, steps, steps, steps))
    return found, _loss_data(measured, horizons, quick)


def _loss_data(measured: Mapping[str, Any], horizons: Sequence[int], quick: bool) -> dict[str, Any]:
    grid = list(horizons) if quick else [round(300 * 10 ** (k / 6)) for k in range(10)] + [10_000]
    lines = {
        "constant": list(rates.expected_losses(rates.constant, grid).values()),
        "root": list(rates.expected_losses(rates.root, grid).values()),
        "vanishing": [rates.expected_losses(rates.inverse_time(steps), [steps])[steps] for steps in grid],
    }
    points = {kind: {steps: list(mean_interval(v)) for steps, v in item.items()} for kind, item in measured.items()}
    return {"steps": grid, "expected": lines, "measured": points}


def _norm_findings(seeds: Sequence[int], quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Measure the norm of the full gradient of a network, for a constant and a vanishing rate."""
    times = (0, 2, 4) if quick else (0, 10, 30, 100, 300, 1000, 3000)
    last = times[-1]
    series = {}
    for name, factor in tracked((("constant", rates.constant), ("vanishing", rates.inverse_time(300))), "network"):
        series[name] = rates.gradient_norms(factor, times, seeds)
    found = []
    for name, norms in series.items():
        ratios = (norms[last] / norms[times[-3]]).tolist()
        mean, low, high = mean_interval(ratios)
        statement = f"gradient norm after {last} steps relative to {times[-3]} steps, {name} rate"
        holds = high < 1 if name == "vanishing" else True
        limits = "a finite run shows the decrease only; the gradient is not zero" if name == "vanishing" else ""
        found.append(Finding(f"norm-{name}", statement, mean, low, high, None, holds, limits, 1))
    ratios = (series["vanishing"][last] / series["constant"][last]).tolist()
    mean, low, high = mean_interval(ratios)
    statement = f"gradient norm after {last} steps, vanishing relative to constant rate"
    found.append(Finding("norm-ratio", statement, mean, low, high, None, high < 1, claim=1))
    data = {name: [mean_interval(norms[t].tolist()) for t in times] for name, norms in series.items()}
    return found, {"steps": list(times), **data}


def _counterexample_findings(seeds: Sequence[int], quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Run the three counterexamples with rates that satisfy the conditions."""
    report_progress("counterexamples")
    lengths = (60, 60, 60) if quick else (10_000, 3000, 15_000)
    escape = runs.escaping(seeds, lengths[0])
    total = reach(InverseTime(runs.ESCAPE_DECAY), lengths[0], runs.ESCAPE_LR).total or math.nan
    statement = f"weight after {lengths[0]} steps on log(1 + exp(-w)), which has no minimum"
    predicted = counterexamples.escaped_to(total)
    found = [compared("escape", statement, escape.positions[-1].tolist(), predicted, tolerance=TOLERANCE, claim=2)]
    still, noisy = runs.saddle(seeds, lengths[1], 0.0), runs.saddle(seeds, lengths[1], 0.1)
    for name, item, words, expected in (
        ("saddle", still, "noise that vanishes with the gradient", 1.0),
        ("saddle-noise", noisy, "noise in every direction", 0.0),
    ):
        ends = (item.positions[-1].norm(dim=0) < 0.05).double().mean().item()
        statement = f"share of runs that end at the saddle, {words}"
        limits = "noise in every direction leaves the saddle" if expected == 0 else ""
        found.append(Finding(name, statement, ends, ends, ends, expected, abs(ends - expected) < 0.01, limits, 2))
    spiral = runs.spiral(seeds, lengths[2])
    total = reach(InverseTime(runs.SPIRAL_DECAY), lengths[2], runs.SPIRAL_LR).total or math.nan
    distance, angle = counterexamples.spiral_flow((2.0, runs.VALLEY), total)
    statement = f"angle in radians turned around the limit circle in {lengths[2]} steps"
    turned = runs.turned(spiral).tolist()
    found.append(compared("spiral-angle", statement, turned, angle - runs.VALLEY, tolerance=TOLERANCE, claim=2))
    ends = (spiral.positions[-1].norm(dim=0) - 1).tolist()
    found.append(
        compared("spiral-distance", "distance to the limit circle at the end", ends, distance, tolerance=0.02, claim=2)
    )
    return found, _counterexample_data(escape, still, noisy, spiral)


def _counterexample_data(escape: runs.Run, still: runs.Run, noisy: runs.Run, spiral: runs.Run) -> dict[str, Any]:
    """Return the paths of the first seed."""
    return {
        "escape": {"steps": escape.steps, "w": escape.positions[:, 0].tolist()},
        "saddle": {
            name: {"x": run.positions[:, 0, 0].tolist(), "y": run.positions[:, 1, 0].tolist()}
            for name, run in (("still", still), ("noisy", noisy))
        },
        "spiral": {"x": spiral.positions[:, 0, 0].tolist(), "y": spiral.positions[:, 1, 0].tolist()},
    }


def _argument_findings(seeds: Sequence[int], quick: bool) -> list[Finding]:
    """Check the error of averaged gradients, and how far rates with finite and infinite sums move the weight."""
    report_progress("physicist's argument")
    copies, steps = (50, 200) if quick else (2000, 20_000)
    found = []
    for count in (1, 10, 100):
        errors = argument.averaging_errors(seeds, count, copies)
        statement = f"error of the gradient averaged over {count} steps while the weight moves by .02 of the gradient"
        predicted = argument.predicted_error(count)
        found.append(compared(f"averaging-{count}", statement, errors, predicted, tolerance=TOLERANCE, claim=3))
    for name, words, schedule in (
        ("finite-reach", "geometric rate 0.1 * 0.999^t (sum 100)", Exponential(0.999)),
        ("infinite-reach", "rate 0.1/(1 + 0.001 t) (infinite sum)", InverseTime(0.001)),
    ):
        measured = argument.final_weight(schedule, steps)
        predicted = math.exp(-0.01 * (reach(schedule, steps, 0.1).total or math.nan))
        statement = f"weight at curvature .01 after {steps} steps from 1, without noise, {words}"
        found.append(_exact(name, statement, measured, predicted, 3))
    return found


def _cooling_findings(seeds: Sequence[int], quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Measure the share of runs that end in the deeper well, against the time of cooling."""
    times, copies = ((5, 10), 20) if quick else ((10, 100, 1000), 1000)
    found, data, before = [], {}, 0.0
    for cooling in tracked(times, "cooling"):
        mean, low, high = mean_interval(argument.deeper_share(seeds, cooling, copies))
        statement = f"share of runs that end in the deeper well, rate .04/(1 + t/{cooling}) over {20 * cooling} steps"
        found.append(Finding(f"cooling-{cooling}", statement, mean, low, high, None, low > before, claim=4))
        before = mean if cooling > times[0] else 0.5
        data[str(cooling)] = [mean, low, high]
    return found, data
