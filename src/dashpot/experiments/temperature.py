"""The learning rate as temperature: equilibrium distributions, momentum, batch size, loss levels and snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dashpot.experiments import temperature_digits as on_digits
from dashpot.experiments import temperature_figures as figures
from dashpot.experiments import temperature_quadratic as quadratic
from dashpot.experiments import temperature_wells as wells
from dashpot.experiments.intervals import verdict_of
from dashpot.experiments.result import Claim, Outcome, Panel

_SLIDES = "slides, the learning rate as temperature"
CLAIMS = (
    Claim(_SLIDES, "A finite learning rate defines an equilibrium distribution over the model parameters."),
    Claim(
        _SLIDES,
        "The distribution over parameters defines a distribution of the loss, which has the form of Gibbs: "
        "P(w) ~ exp(-L(w)/T), with the learning rate as temperature.",
    ),
    Claim(
        "slides, EMA momentum",
        "The influence of one gradient is the learning rate for every N, so the temperature does not depend on N.",
    ),
    Claim("slides, batch size and temperature", "At a fixed learning rate, a larger batch lowers the temperature."),
    Claim(
        "slides, temperature independent of B",
        "With lr = B lr0, or lr = (1 - mu) B lr0 for torch's momentum, the temperature does not depend on B.",
    ),
    Claim(_SLIDES, "Each reduction of the learning rate lowers the loss to the level of the new temperature."),
    Claim(
        "slides, SGD as a form of MCMC",
        "A cycling learning rate visits different minima, which snapshots at the end of the cycles record.",
    ),
    Claim(
        "slides, SGD as a form of MCMC (figure of Huang et al., 2017)",
        "Snapshots of a network differ from each other, and their ensemble is more accurate than the last one.",
    ),
)
REASON = (
    "Variances, losses, populations of wells and barrier crossings agree with the closed forms. The Gibbs form requires"
    " small rates and the same gradient noise everywhere; lr = B lr0 requires B lr0 h much below 2; the heavy ball's "
    "rate must be scaled by 1 - mu. Snapshots of the network on the digits lie in one basin at usual rates, and differ "
    "only at rates that lower its accuracy."
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure equilibrium distributions and losses, and compare them with closed forms."""
    size = quadratic.size_of(quick)
    starts, starts_data = quadratic.start_findings(seeds, size, claim=0)
    rates, rates_data = quadratic.rate_findings(seeds, size, claim=1)
    populations, wells_data = wells.gibbs_findings(seeds, quick, claim=1)
    uneven = wells.uneven_noise_finding(seeds, quick, claim=1)
    momentum, momentum_data = quadratic.momentum_findings(seeds, size, claim=2)
    batches, batches_data = quadratic.batch_findings(seeds, size, fixed=3, scaled=4)
    levels, levels_data = on_digits.level_findings(seeds, quick, claim=5)
    cycles = wells.cycle_findings(seeds, quick, claim=6)
    snapshots, snapshots_data = on_digits.snapshot_findings(seeds, quick, claim=7)
    findings = (*starts, *rates, *populations, uneven, *momentum, *batches, *levels, *cycles, *snapshots)
    data = {
        "starts": starts_data,
        "rates": rates_data,
        "wells": wells_data,
        "momentum": momentum_data,
        "batches": batches_data,
        "levels": levels_data,
        "snapshots": snapshots_data,
    }
    return Outcome(
        claims=CLAIMS,
        findings=findings,
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel(
                "rates", "Weights and losses at three rates", figures.RATES_NOTE, partial(figures.rates, data), claim=1
            ),
            Panel("wells", "Gibbs form on a double well", figures.WELLS_NOTE, partial(figures.wells, data), claim=1),
            Panel("bars", "Momentum and batch size", figures.BARS_NOTE, partial(figures.bars, data), claim=2),
            Panel("levels", "Loss at three temperatures", figures.LEVELS_NOTE, partial(figures.levels, data), claim=5),
            Panel("starts", "From different starts", figures.STARTS_NOTE, partial(figures.starts, data)),
            Panel("snapshots", "Cycling rate", figures.SNAPSHOTS_NOTE, partial(figures.snapshots, data), claim=7),
        ),
        settings={
            "lr": quadratic.LR,
            "three rates": list(quadratic.RATES),
            "copies, burn-in, samples, distance": list(size),
            "double well": "(w^2 - 1)^2/4 + 0.03 w, gradient noise variance 16, rates .01, .02, .04",
            "softmax regression": "digits, batch 10, L2 coefficient 0.03",
            "snapshots": "64-32-10 tanh network, batch 50, momentum average with pole .9, 4 cycles of 300 steps",
            "tolerances": "2 % on the quadratic, 5 % on the double well, 15 % for softmax regression",
        },
        data=data,
    )
