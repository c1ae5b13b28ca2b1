"""Batch size: training with `scale_batch` against examples seen, and larger batches in place of smaller rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from dashpot.analysis import scale_batch
from dashpot.experiments import batch_invariance_figures as figures
from dashpot.experiments.batch_runs import LARGEST, BatchRun, Phase, largest_curvatures, train
from dashpot.experiments.image_vectors import ImageVectors, clothes_or_digits
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.progress import report_progress
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.torch_compatible import SGD, Adam

BASE = 32
"""Batch of the runs to which all others are compared."""
MARGIN = 0.03
"""Largest irrelevant difference of final losses, relative to the loss of the base batch."""
PRODUCT = 0.2
"""Largest product of the rate B lr0 and the curvature h for which the final losses are stated to agree."""
LOW, HIGH = 0.003, 0.03
"""Learning rates of SGD at the base batch: the first for large batches inside the range, the second beyond it."""
DECAYS = 4
"""Factor by which the rate falls, or the batch grows, after each of the last two thirds."""


class Method(NamedTuple):
    """A method at the base batch."""

    key: str
    name: str
    create: Callable[..., Optimizer]
    options: Mapping[str, Any]


SGD_LOW = Method("sgd", f"SGD, lr {LOW:g}", SGD, {"lr": LOW})
SGD_HIGH = Method("sgd-high", f"SGD, lr {HIGH:g}", SGD, {"lr": HIGH})
MOMENTUM = Method("momentum", f"SGD with momentum .9, lr {LOW / 10:g}", SGD, {"lr": LOW / 10, "momentum": 0.9})
ADAM = Method("adam", "Adam, lr 0.0003", Adam, {"lr": 3e-4})
CLAIMS = (
    Claim(
        "slides, making temperature independent of B",
        "With lr = B lr0, batches of different sizes train equally per example seen, while B lr0 h is small; with an "
        "unchanged rate they do not.",
    ),
    Claim(
        "slides, momentum and batch size; Goyal et al., 2017",
        "With momentum mu in the form of torch, the rule is lr = (1 - mu) B lr0.",
    ),
    Claim(
        "slides, Adam and batch size (corrected)",
        "Adam trains equally per example seen if lr grows with the square root of the batch, with averages over the "
        "same number of examples and eps in proportion to the denominator.",
    ),
    Claim(
        "slides, batch size and temperature; Smith et al., 2018",
        "The batch can grow in place of a decay of the learning rate.",
    ),
)
REASON = (
    "Inside the range stated before the runs, final losses with scale_batch agree with those of batch 32 to 0.1 %, and "
    "those with unchanged rates do not agree to 3 %. Beyond the range, the rule holds to 3 % for B lr0 h up to 1.6, "
    "and fails at 6.4. The square-root rule of Adam holds for four times the batch, and not for 32 times. A batch that "
    "grows replaces a rate that falls."
)
_FINAL = "final loss relative to batch 32, minus 1"


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Train at batches from 32 to 1024 with and without `scale_batch`, and grow the batch in place of the decay."""
    data = clothes_or_digits(quick=quick, held_out=False, each_pixel=True)
    epochs = 3 if quick else _epochs(data)
    batches = (128, LARGEST) if quick else (64, 128, 256, 512, LARGEST)
    runs = _Runs(seeds, data, epochs)
    curvatures, limit = _range(runs, 2 if quick else 5)
    sgd = _sgd_findings(runs, batches, curvatures, limit)
    momentum = _momentum_findings(runs, 128 if quick else 256)
    adam = _adam_findings(runs, (128, LARGEST))
    grown = _growth_findings(runs)
    findings = (*sgd, *momentum, *adam, *grown)
    shown = {
        "curves": {key: _curve(result) for key, result in runs.results.items()},
        "curvature": max(curvatures),
        "batches": list(batches),
        "differences": {f.name: [f.measured, f.low, f.high] for f in findings},
    }
    return Outcome(
        claims=CLAIMS,
        findings=findings,
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("curves", "Loss against examples seen", figures.CURVES_NOTE, partial(figures.curves, shown)),
            Panel("range", "Where the rule ends", figures.RANGE_NOTE, partial(figures.limits, shown)),
            Panel(
                "growth",
                "Larger batch in place of a smaller rate",
                figures.GROWTH_NOTE,
                partial(figures.growth, shown),
                claim=3,
            ),
        ),
        settings={
            "data": data.remark,
            "network": f"{data.features}-64-10, tanh",
            "examples": f"{epochs} epochs; the same order for every batch size, new for every seed and epoch",
            "final loss": "mean cross-entropy over the first 10 000 training images after all epochs",
            "methods at batch 32": [method.name for method in (SGD_LOW, SGD_HIGH, MOMENTUM, ADAM)],
            "margin": MARGIN,
            "curvature": "largest eigenvalue of the Hessian of that loss along the runs with batch 32",
        },
        data=shown,
    )


def _epochs(data: ImageVectors) -> int:
    """Return the number of epochs with about 180 000 examples, a multiple of three.

    >>> from dashpot.experiments.image_vectors import digit_images
    >>> _epochs(digit_images(held_out=False))
    174
    """
    count = len(data.train[1]) - len(data.train[1]) % LARGEST
    return 3 * max(1, round(3 * 58 * LARGEST / count / 3))


class _Runs:
    """Runs with the same seeds, data and examples."""

    def __init__(self, seeds: Sequence[int], data: ImageVectors, epochs: int) -> None:
        self.seeds, self.data, self.epochs = seeds, data, epochs
        self.results: dict[str, BatchRun] = {}

    def at(self, method: Method, batch: int, *, scaled: bool = True, momentum: str = "examples") -> BatchRun:
        """Train with one batch size, with settings of `scale_batch` if `scaled`."""
        key = f"{method.key}-{batch}" + ("" if scaled else "-unscaled") + ("-steps" if momentum == "steps" else "")
        if key not in self.results:
            create = partial(_optimizer, method, batch if scaled else BASE, momentum)
            self.phases(key, create, [Phase(self.epochs, batch)])
        return self.results[key]

    def phases(self, key: str, create: Callable[[list[Tensor]], Optimizer], phases: Sequence[Phase]) -> BatchRun:
        """Train with several phases."""
        report_progress(key)
        self.results[key] = train(self.seeds, self.data, create, phases, keep=key == f"{SGD_LOW.key}-{BASE}")
        return self.results[key]


def _optimizer(method: Method, batch: int, momentum: str, parameters: list[Tensor]) -> Optimizer:
    """Return the optimizer of a method with the settings for a batch size."""
    optimizer = method.create(parameters, **method.options)
    return optimizer if batch == BASE else scale_batch(optimizer, BASE, batch, momentum=momentum).apply()


def _range(runs: _Runs, count: int) -> tuple[list[float], float]:
    """Return the curvatures along the runs with batch 32, and the largest batch of the stated range."""
    base = runs.at(SGD_LOW, BASE)
    last = len(base.examples) - 1
    times = sorted({round(last * k / (count - 1)) for k in range(count)})
    report_progress("curvature")
    curvatures = largest_curvatures(base, runs.data, times)
    limit = PRODUCT * BASE / (LOW * max(curvatures))
    report_progress(f"stated range: batches up to {limit:.0f}")
    return curvatures, limit


def _sgd_findings(runs: _Runs, batches: Sequence[int], curvatures: Sequence[float], limit: float) -> list[Finding]:
    """Compare the final losses of SGD with those of batch 32."""
    h = max(curvatures)
    mean, low, high = mean_interval(curvatures)
    statement = f"largest curvature h along the run with batch 32, lr {LOW:g}"
    found = [
        Finding("curvature", statement, mean, low, high),
        Finding("range", f"largest B with B lr0 h at most {PRODUCT:g}, stated before the runs", limit, limit, limit),
    ]
    for method, rate in ((SGD_LOW, LOW), (SGD_HIGH, HIGH)):
        base = runs.at(method, BASE)
        for batch in batches:
            product = rate * batch / BASE * h
            words = f"{_FINAL}: {method.name}, batch {batch} with scale_batch (B lr0 h = {product:.2g})"
            found.append(_agreement(f"{method.key}-{batch}", words, runs.at(method, batch), base, product <= PRODUCT))
    for batch in batches:
        words = f"{_FINAL}: {SGD_LOW.name}, batch {batch}, rate unchanged"
        found.append(_deviation(f"sgd-{batch}-unscaled", words, runs.at(SGD_LOW, batch, scaled=False), runs))
    return found


def _momentum_findings(runs: _Runs, batch: int) -> list[Finding]:
    """Compare both treatments of momentum with batch 32, and with SGD without momentum."""
    base = runs.at(MOMENTUM, BASE)
    words = f"{_FINAL}: {MOMENTUM.name}, batch {batch} with scale_batch, momentum"
    return [
        _agreement(
            "momentum-none",
            "final loss with momentum .9 and lr (1 - .9) B lr0 relative to SGD with B lr0, minus 1, batch 32",
            base,
            runs.at(SGD_LOW, BASE),
            True,
            claim=1,
        ),
        _agreement(
            "momentum-examples",
            f"{words} over the same examples",
            runs.at(MOMENTUM, batch),
            base,
            True,
            claim=1,
        ),
        _agreement(
            "momentum-steps",
            f"{words} unchanged",
            runs.at(MOMENTUM, batch, momentum="steps"),
            base,
            False,
            claim=1,
        ),
    ]


def _adam_findings(runs: _Runs, batches: Sequence[int]) -> list[Finding]:
    """Compare Adam with the square-root rule and with unchanged settings."""
    base = runs.at(ADAM, BASE)
    found = []
    for batch in batches:
        words = f"{_FINAL}: {ADAM.name}, batch {batch} with scale_batch"
        found.append(_agreement(f"adam-{batch}", words, runs.at(ADAM, batch), base, False, claim=2))
    words = f"{_FINAL}: {ADAM.name}, batch {batches[0]}, settings unchanged"
    mean, low, high = mean_interval(_relative(runs.at(ADAM, batches[0], scaled=False), base))
    found.append(Finding("adam-unscaled", words, mean, low, high, None, low > MARGIN or high < -MARGIN, claim=2))
    return found


def _growth_findings(runs: _Runs) -> list[Finding]:
    """Compare a batch that grows twice by a factor with a rate that falls by the same factor."""
    third = runs.epochs // 3
    create = partial(_optimizer, SGD_HIGH, BASE, "examples")
    decays = [Phase(third, BASE, DECAYS**-k) for k in range(3)]
    growths = [Phase(third, BASE * DECAYS**k) for k in range(3)]
    decayed = runs.phases("growth-decayed", create, decays)
    grown = runs.phases("growth-grown", create, growths)
    constant = runs.at(SGD_HIGH, BASE)
    words = f"final loss relative to the run whose rate falls by {DECAYS} twice, minus 1"
    mean, low, high = mean_interval(_relative(constant, decayed))
    steps = [sum(phase.epochs / phase.batch for phase in phases) for phases in (growths, decays)]
    ratio = steps[0] / steps[1]
    return [
        _agreement("growth", f"{words}: batch that grows by {DECAYS} twice", grown, decayed, True, claim=3),
        Finding("growth-constant", f"{words}: constant rate and batch", mean, low, high, claim=3),
        Finding("growth-steps", "steps with growing batch per step with falling rate", ratio, ratio, ratio, claim=3),
    ]


def _relative(run: BatchRun, base: BatchRun) -> list[float]:
    """Return for each seed the final loss relative to that of the base, minus 1."""
    return (run.final / base.final - 1).tolist()


def _agreement(name: str, words: str, run: BatchRun, base: BatchRun, is_stated: bool, claim: int = 0) -> Finding:
    """Return the finding that the interval of a difference lies within the margin.

    A difference beyond the margin contradicts the claim if agreement `is_stated`, and limits it otherwise.
    """
    mean, low, high = mean_interval(_relative(run, base))
    inside = low > -MARGIN and high < MARGIN
    limits = "" if inside or is_stated else "the rule holds for small B lr0 h (SGD) and moderate factors (Adam)"
    return Finding(name, words, mean, low, high, 0.0, inside or not is_stated, limits, claim)


def _deviation(name: str, words: str, run: BatchRun, runs: _Runs) -> Finding:
    """Return the finding that the interval of the difference to batch 32 lies outside the margin."""
    mean, low, high = mean_interval(_relative(run, runs.at(SGD_LOW, BASE)))
    return Finding(name, words, mean, low, high, None, low > MARGIN or high < -MARGIN)


def _curve(run: BatchRun) -> dict[str, list[float]]:
    """Return mean losses, without values that are not finite."""
    means = run.losses.mean(0)
    kept = [index for index, value in enumerate(means.tolist()) if math.isfinite(value)]
    return {"examples": [run.examples[index] for index in kept], "loss": [means[index].item() for index in kept]}
