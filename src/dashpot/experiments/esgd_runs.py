"""Runs of the experiment `esgd`: sweeps over learning rates on the digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashpot.curvature.hvp_options import Probing
from dashpot.experiments.tuned_sweep import grid, tuned_sweep, tuned_sweeps
from dashpot.optimizers.momentum import QHM
from dashpot.optimizers.second_order import ESGD
from dashpot.optimizers.torch_compatible import SGD
from dashpot.recipes.recipe import Recipe

STEPS = 300
PLAIN = {"version": 0, "betas": (0.0, 0.999), "lr_warmup": 0.0}
"""Settings of plain ESGD: mean of all products, without momentum and warm-up."""
QUASI_HYPERBOLIC = {"betas": (0.999, 0.999), "v": 0.7}
"""Recommended settings of quasi-hyperbolic momentum in ESGD-M."""
QUICK = ("plain", "ESGD-M", "QHM")
"""Methods of a quick run."""


@dataclass(frozen=True)
class Case:
    """Method of a sweep.

    Args:
        words: Description.
        recipe: Recipe of the method.
        rates: Learning rates.
        products: Whether the method uses Hessian-vector products.
    """

    words: str
    recipe: Recipe
    rates: tuple[float, ...]
    products: bool = True


def cases() -> dict[str, Case]:
    """Return the methods of the sweeps by name."""
    second, first, slow = grid(10**-1.75, 9), grid(10**-1.0, 9), grid(10**-1.25, 9)

    def esgd(words: str, **settings: Any) -> Case:
        return Case(words, ESGD.recipe_for(**settings), second)

    return {
        "plain": esgd("plain ESGD", **PLAIN),
        "momentum": esgd("plain ESGD with Nesterov momentum", **{**PLAIN, "betas": (0.9, 0.999)}),
        "warm-up": esgd("plain ESGD with warm-up", **{**PLAIN, "lr_warmup": 0.99}),
        "average": esgd("plain ESGD with a moving average of the products", **{**PLAIN, "version": 1}),
        "ESGD-M": esgd("ESGD-M"),
        "ESGD-M version 2": esgd("ESGD-M, version 2", version=2),
        "ESGD-M EMA": esgd("ESGD-M with averaged momentum, v = 1", v=1.0),
        "ESGD-M QHM": esgd("ESGD-M with beta .999, v = .7", **QUASI_HYPERBOLIC),
        "SGD": Case("plain descent", SGD.recipe_for(), first, products=False),
        "EMA": Case("averaged momentum, beta .9", QHM.recipe_for(pole=0.9, nu=1.0), first, products=False),
        "Nesterov": Case(
            "Nesterov momentum, beta .9, nu = .9", QHM.recipe_for(pole=0.9, nu=0.9), first, products=False
        ),
        "QHM": Case("quasi-hyperbolic momentum, beta .999, nu = .7", QHM.recipe_for(), slow, products=False),
    }


def measured(seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """Return the results of all sweeps by name, as plain data with one value for each seed."""
    return tuned_sweeps(cases(), QUICK if quick else None, lambda case: _results(case, seeds, quick))


def _results(case: Case, seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    probing = Probing() if case.products else None
    found = tuned_sweep(case.recipe, case.rates, seeds, STEPS, quick=quick, probing=probing)
    return {"words": case.words, **found.data()}
