"""Initialization: whether normalization, warm-up and 1cycle are unnecessary with the right one, and dead units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from dashpot.experiments import initialisation_figures as figures
from dashpot.experiments.deep_network import INITIALIZATIONS
from dashpot.experiments.image_vectors import clothes_or_digits
from dashpot.experiments.initialisation_runs import BATCH, HIDDEN, SCHEDULES, Cell, Result, selected, train_cell
from dashpot.experiments.intervals import compared, mean_interval, verdict_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
MARGIN = 0.01
"""Largest irrelevant difference of accuracies."""
RIGHT = ("kaiming", "lsuv")
"""Initializations that are right for ReLU units."""
NORMALIZED = ("kaiming", "default")
"""Initializations that are also trained with normalization, which removes their scale."""
GROWTH = {"kaiming": 1.0, "default": 6**-0.5, "large": 2.0}
"""Predicted factor per layer on the root mean square of the outputs of ReLU units, with biases 0."""
_LESSON = "lesson, 1cycle"
CLAIMS = (
    Claim(
        "lesson, initialization with a chosen leak",
        "The initialization for the right leak keeps the size of the outputs from layer to layer.",
    ),
    Claim(_LESSON, "Batch normalization is unnecessary if the model is initialized appropriately."),
    Claim(_LESSON, "Warm-up and 1cycle are unnecessary if the model is initialized appropriately."),
    Claim(
        _LESSON,
        "A high rate in the initial phase of a poorly initialized model leads to dead units; warm-up avoids them.",
    ),
)
REASON = (
    "Batch normalization gains .10 to .14 of accuracy with torch's default initialization, and at most .012 with that "
    "of Kaiming. A gain of up to .03 by 1cycle is not excluded there. A high initial rate leaves dead units with every "
    "initialization, more with torch's default and not more with too large weights; warm-up and 1cycle leave fewer."
)
TRICKS = ("warm-up", "1cycle")


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Train deep networks with four initializations, with and without normalization, warm-up and 1cycle."""
    data = clothes_or_digits(quick=quick, held_out=False, each_pixel=True)
    epochs, rates = (1, RATES[2:3]) if quick else (2, RATES)
    cells = [Cell(name, False, schedule) for name, schedule in product(INITIALIZATIONS, SCHEDULES)]
    cells += [Cell(name, True, schedule) for name, schedule in product(NORMALIZED, SCHEDULES)]
    results = {cell: [train_cell(cell, lr, seeds, data, epochs) for lr in rates] for cell in tracked(cells, "networks")}
    best = {cell: selected(found) for cell, found in results.items()}
    findings = (
        *_size_findings(best),
        *_normalization_findings(best),
        *_schedule_findings(best),
        *_dead_findings(results),
    )
    shown = _data(best, results)
    return Outcome(
        claims=CLAIMS,
        findings=findings,
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("sizes", "Outputs by layer", figures.SIZES_NOTE, partial(figures.sizes, shown)),
            Panel("scores", "Accuracy of combinations", figures.SCORES_NOTE, partial(figures.scores, shown), claim=1),
            Panel("dead", "Dead units by layer", figures.DEAD_NOTE, partial(figures.dead, shown), claim=3),
        ),
        settings={
            "data": data.remark,
            "network": f"{data.features} inputs, {len(HIDDEN)} layers of {HIDDEN[0]} ReLU units, 10 outputs",
            "training": f"AdamW, batch {BATCH}, {epochs} epochs of at most 12 000 images",
            "learning rates": list(rates),
            "selected rate": "highest mean accuracy over the seeds on up to 4000 held-out training images",
            "score": "accuracy on the test images",
            "margin": MARGIN,
        },
        data=shown,
    )


def _size_findings(best: Mapping[Cell, Result]) -> list[Finding]:
    """Compare the growth of the outputs per layer at the start with the prediction."""
    found = []
    for name, factor in GROWTH.items():
        sizes = best[Cell(name, False, "constant")].sizes
        layers = sizes.shape[1] - 1
        growth = (sizes[:, -1] / sizes[:, 0]).pow(1 / layers).tolist()
        statement = f"factor per layer on the root mean square of the outputs, initialization {name}"
        # The growth of a network of 64 units fluctuates; biases add to the outputs of "default".
        limits = "the biases of torch's default, which are not zero, add to the outputs" if name == "default" else ""
        if limits:
            mean, low, high = mean_interval(growth)
            found.append(Finding(f"growth-{name}", statement, mean, low, high, factor, True, limits))
        else:
            found.append(compared(f"growth-{name}", statement, growth, factor, tolerance=0.05))
    return found


def _normalization_findings(best: Mapping[Cell, Result]) -> list[Finding]:
    """Compare the accuracies without and with normalization, for each initialization and schedule."""
    found = []
    for initialization, schedule in product(NORMALIZED, SCHEDULES):
        plain = best[Cell(initialization, False, schedule)]
        normalized = best[Cell(initialization, True, schedule)]
        words = f"accuracy without minus with batch normalization, {initialization}, {schedule}"
        key = f"norm-{initialization}-{schedule}"
        found.append(_unnecessary(key, words, plain.test - normalized.test, initialization, claim=1))
    return found


def _schedule_findings(best: Mapping[Cell, Result]) -> list[Finding]:
    """Compare the accuracies with a constant rate and with warm-up or 1cycle, without normalization."""
    found = []
    for initialization, schedule in product(INITIALIZATIONS, TRICKS):
        constant = best[Cell(initialization, False, "constant")]
        shaped = best[Cell(initialization, False, schedule)]
        words = f"accuracy with constant rate minus with {schedule}, {initialization}, without normalization"
        key = f"{schedule}-{initialization}"
        found.append(_unnecessary(key, words, constant.test - shaped.test, initialization, claim=2))
    return found


def _unnecessary(name: str, words: str, differences: Tensor, initialization: str, claim: int) -> Finding:
    """Return the finding that a technique does not gain more than the margin with a right initialization.

    The claim makes no statement on other initializations. An interval that contains the margin decides nothing.
    """
    mean, low, high = mean_interval(differences.tolist())
    if initialization not in RIGHT or low > -MARGIN:
        return Finding(name, words, mean, low, high, claim=claim)
    limits = f"not decided: the interval contains {-MARGIN:g}" if high > -MARGIN else ""
    return Finding(name, words, mean, low, high, None, high > -MARGIN, limits, claim)


def _dead_findings(results: Mapping[Cell, Sequence[Result]]) -> list[Finding]:
    """Compare the shares of dead units after training at the highest rate, without normalization."""
    shares = {
        (name, schedule): results[Cell(name, False, schedule)][-1].dead.mean(1)
        for name, schedule in product(INITIALIZATIONS, SCHEDULES)
    }
    rate = results[Cell("kaiming", False, "constant")][-1].lr
    found = []
    for (name, schedule), values in shares.items():
        mean, low, high = mean_interval(values.tolist())
        words = f"share of dead units after training at lr {rate:g}, {name}, {schedule}, without normalization"
        found.append(Finding(f"dead-{name}-{schedule}", words, mean, low, high, claim=3))
    for name in (name for name in INITIALIZATIONS if name not in RIGHT):
        constant = shares[name, "constant"]
        words = f"share of dead units at lr {rate:g}, {name} minus kaiming, constant rate"
        found.append(_positive(f"dead-{name}-more", words, constant - shares["kaiming", "constant"]))
        for schedule in TRICKS:
            words = f"share of dead units at lr {rate:g}, {name}, constant rate minus {schedule}"
            found.append(_positive(f"dead-{name}-{schedule}-fewer", words, constant - shares[name, schedule]))
    return found


def _positive(name: str, words: str, differences: Tensor) -> Finding:
    """Return the finding that a difference is positive."""
    mean, low, high = mean_interval(differences.tolist())
    return Finding(name, words, mean, low, high, None, low > 0, claim=3)


def _data(best: Mapping[Cell, Result], results: Mapping[Cell, Sequence[Result]]) -> dict[str, Any]:
    """Return the plotted numbers."""
    scores = [
        {**cell._asdict(), "lr": result.lr, "interval": list(mean_interval(result.test.tolist()))}
        for cell, result in best.items()
    ]
    plain = {name: best[Cell(name, False, "constant")] for name in INITIALIZATIONS}
    return {
        "scores": scores,
        "sizes": {name: result.sizes.mean(0).tolist() for name, result in plain.items()},
        "dead": {
            f"{name}, {schedule}": results[Cell(name, False, schedule)][-1].dead.mean(0).tolist()
            for name, schedule in product(INITIALIZATIONS, ("constant", "1cycle"))
        },
    }
