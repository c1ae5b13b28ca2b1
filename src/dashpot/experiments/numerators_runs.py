"""Runs of the experiment `numerators`: sweeps over learning rates on the digits, and a study of Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashpot.experiments.rate_sweep import usable_rates
from dashpot.experiments.tuned_sweep import grid, tuned_sweep, tuned_sweeps
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.recipes.recipe import Recipe
from dashpot.scheduling.dimension import Dimension

if TYPE_CHECKING:
    from dashpot.runs.study import Study

NUMERATORS = {
    0: "constant (0)",
    1: "partial correlation (1)",
    2: "Huber partial correlation (2)",
    3: "moment (3)",
    4: "constant, Huber clipping (4)",
}
STEPS, LONG = 300, 1000
LEVEL = 0.1
"""A learning rate is usable if the final training loss does not exceed this level."""
SHORT_MEMORY = 0.99
"""Pole of the averages of the numerator whose warm-up is shorter than the run."""
MEMORY = 0.9999
"""Default pole of the averages of the numerators."""
STUDIED = (0, 1)
"""Numerators of the study of Fashion-MNIST."""
QUICK = ("0", "1", "3", "0-warm")
"""Methods of a quick run."""


@dataclass(frozen=True)
class Case:
    """Method of a sweep.

    Args:
        words: Description.
        recipe: Recipe of the method.
        rates: Learning rates.
        warmup: Pole b of the warm-up 1 - b^t of the learning rate at step t, counted from 1; 0 disables it.
        long: Whether the run has `LONG` steps.
    """

    words: str
    recipe: Recipe
    rates: tuple[float, ...]
    warmup: float = 0.0
    long: bool = False

    @property
    def steps(self) -> int:
        """Number of steps."""
        return LONG if self.long else STEPS

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        return 1 - self.warmup ** (step + 1)


def cases() -> dict[str, Case]:
    """Return the methods of the sweeps by name."""
    constant, moment = AutoSGM.recipe_for(numerator=0), AutoSGM.recipe_for(numerator=3)
    low, high = grid(10**-2.25, 8), grid(10**-0.5, 8)
    found = {
        str(n): Case(words, AutoSGM.recipe_for(numerator=n), high if n == 3 else low) for n, words in NUMERATORS.items()
    }
    short = AutoSGM.recipe_for(numerator=3, beta_n=SHORT_MEMORY)
    return {
        **found,
        "3-short": Case("moment (3), beta_n .99", short, low),
        "0-warm": Case("constant (0), rate times 1 - .9999^t", constant, high, MEMORY),
        "0-warm-short": Case("constant (0), rate times 1 - .99^t", constant, low, SHORT_MEMORY),
        "0-long": Case("constant (0), 1000 steps", constant, low, long=True),
        "3-long": Case("moment (3), 1000 steps", moment, high, long=True),
    }


def measured(seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """Return the results of all sweeps by name, as plain data with one value for each seed."""
    return tuned_sweeps(cases(), QUICK if quick else None, lambda case: _results(case, seeds, quick))


def _results(case: Case, seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    found = tuned_sweep(case.recipe, case.rates, seeds, case.steps, quick=quick, factor=case.factor)
    usable = usable_rates(found.judged, 10.0 if quick else LEVEL)
    return {"words": case.words, **found.data(), "usable": usable.rates, "applied": usable.applied}


def study(seeds: Sequence[int]) -> tuple[Study, str]:
    """Return the study of Fashion-MNIST, and a sentence on its data.

    The learning rate of each numerator is the best of three on the validation data: .001, .01 and .1.
    """
    from dashpot.experiments.training_study import image_task
    from dashpot.runs.entries import entry
    from dashpot.runs.study import Study

    task, sentence = image_task(quick=False)
    entries = tuple(entry(f"autosgm-{number}", task.name) for number in STUDIED)
    space = {"lr": Dimension(0.001, 0.1, log=True)}
    return Study(
        task,
        entries,
        seeds=tuple(seeds),
        epochs=1,
        threads=1,
        budget=3,
        tune=("lr",),
        spaces={item.name: space for item in entries},
        sampler="grid",
        rate_seeds=0,
        evaluate_every=1000,
    ), sentence
