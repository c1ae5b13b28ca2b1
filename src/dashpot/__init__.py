"""dashpot: stochastic-gradient methods for PyTorch as one design space.

    g -> coupled decay -> filter -> denominator -> change-level decay -> robust clip -> numerator x schedule -> w

Import as `dp`. Optimizers are classes (`dp.AdamW`), methods are values (`dp.Recipe`, a sequence of stages), and
schedules are pure functions of the step (`dp.schedules`).

The public API is the `__all__` of this package and of `clip`, `comparison`, `comparison.sweep`, `constraints`,
`curvature`, `data`, `data.augment`, `errors`, `functional`, `schedules`, `stages`, `tasks`, `training` and
`verification`. Every other module is internal and may change without notice.
"""

from typing import TYPE_CHECKING, Any

import torch

from dashpot import clip, curvature, functional, schedules, stages
from dashpot.errors import ArgumentError, CurvatureError, DashpotError, DataError, NonFiniteError, RunError
from dashpot.optimizers.adam_variants import CenteredAdam, QHAdam
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.explain import explain_engine
from dashpot.optimizers.group_keys import nearest
from dashpot.optimizers.momentum import NAG, QHM, HeavyBall
from dashpot.optimizers.options import Options
from dashpot.optimizers.param_groups import ParamGroups, param_groups
from dashpot.optimizers.second_order import ESGD, AdaHessian, Sophia
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.optimizers.sgm import SGM
from dashpot.optimizers.torch_compatible import SGD, Adam, AdamW, NAdam, RMSprop
from dashpot.recipes import momentum_forms
from dashpot.recipes.recipe import Diff, Recipe, diff
from dashpot.schedules import Schedule, Scheduler, Window
from dashpot.stages import (
    AdaptiveClip,
    CenteredMoment,
    ChangeDecay,
    ClipElements,
    CoupledDecay,
    Curvature,
    DecoupledDecay,
    Filter,
    HuberClip,
    HuberParcor,
    MomentRate,
    NesterovMoment,
    Observation,
    Parcor,
    SecondMoment,
    Stage,
    Warmup,
    elementwise,
    per_tensor,
)

if TYPE_CHECKING:
    from dashpot.verification import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "ESGD",
    "NAG",
    "QHM",
    "SGD",
    "SGM",
    "AdaHessian",
    "Adam",
    "AdamW",
    "AdaptiveClip",
    "ArgumentError",
    "AutoSGM",
    "CenteredAdam",
    "CenteredMoment",
    "ChangeDecay",
    "ClipElements",
    "CoupledDecay",
    "Curvature",
    "CurvatureError",
    "DashpotError",
    "DataError",
    "DecoupledDecay",
    "Diff",
    "Filter",
    "HeavyBall",
    "HuberClip",
    "HuberParcor",
    "MomentRate",
    "NAdam",
    "NesterovMoment",
    "NonFiniteError",
    "Observation",
    "Optimizer",
    "Options",
    "ParamGroups",
    "Parcor",
    "QHAdam",
    "RMSprop",
    "Recipe",
    "RunError",
    "Schedule",
    "Scheduler",
    "SecondMoment",
    "SecondOrder",
    "Sophia",
    "Stage",
    "Verification",
    "Warmup",
    "Window",
    "__version__",
    "clip",
    "curvature",
    "diff",
    "elementwise",
    "explain_engine",
    "functional",
    "momentum_forms",
    "param_groups",
    "per_tensor",
    "schedules",
    "stages",
    "verify",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import names that require more than the optimizers when first accessed, to keep `import dashpot` fast."""
    if name in ("Verification", "verify"):
        from dashpot import verification

        return getattr(verification, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_suggestion(name)}")


def _suggestion(name: str) -> str:
    """Return the end of the message for a missing name: a similar public name, or a page on custom stages."""
    if name.startswith("_"):
        return ""
    public = {item.lower(): item for item in __all__ if not item.startswith("_")}
    near = nearest(name, public) or (name.lower() if name.lower() in public else None)
    if near:
        return f": did you mean {public[near]!r}?"
    if hasattr(torch.optim, name):
        return f"; torch.optim.{name} exists"
    if name[:1].isupper():
        page = "README.md" if name == "Lion" else "docs/own-stage.md"
        return f"; write the rule as a custom stage, see {page}"
    return ""
