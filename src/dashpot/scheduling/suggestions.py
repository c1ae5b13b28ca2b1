"""Settings of a trial, recorded or suggested by a sampler of Optuna, and its early end by a pruner."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from typing import Any

from dashpot.constraints import OneOf
from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.optuna_library import load_optuna

PRUNERS = OneOf(("none", "median"))


def record_parameters(base: Any, trial: int, space: Mapping[str, Dimension], values: Mapping[str, float]) -> None:
    """Record the values within the ranges as the parameters of a trial, from which samplers of Optuna learn."""
    optuna = load_optuna()
    for name in space:
        if name in values and space[name].contains(values[name]):
            distribution = _distribution(optuna, space[name])
            base.set_trial_param(trial, name, distribution.to_internal_repr(values[name]), distribution)


def sampled(base: Any, study: str, trial: int, space: Mapping[str, Dimension], key: str) -> dict[str, float]:
    """Return settings suggested by the TPE sampler, whose seed is derived from the key of the item."""
    optuna = load_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(seed=zlib.crc32(key.encode()))
        suggesting = optuna.trial.Trial(_study(optuna, base, study, sampler=sampler), trial)
        return {
            name: suggesting.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
            for name, dimension in space.items()
        }


def is_below_median(base: Any, study: str, trial: int) -> bool:
    """Return whether the best reported value is worse than the median of other trials at the same step.

    Returns False until five trials of the group are complete.
    """
    optuna = load_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
        return pruner.prune(_study(optuna, base, study), base.get_trial(trial))


def _study(optuna: Any, base: Any, name: str, **options: Any) -> Any:
    sampler = options.pop("sampler", None) or optuna.samplers.RandomSampler()
    return optuna.load_study(study_name=name, storage=base, sampler=sampler, **options)


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
