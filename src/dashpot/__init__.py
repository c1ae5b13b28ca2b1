"""dashpot: stochastic-gradient methods for PyTorch as one design space.

    g -> coupled decay -> filter -> denominator -> change-level decay -> robust clip -> numerator x schedule -> w

Import as `dp`. Optimizers are classes (`dp.AdamW`), methods are values (`dp.Recipe`, a sequence of stages), and
schedules are pure functions of the step (`dp.schedules`).

The public API is the `__all__` of this package and of `analysis`, `clip`, `comparison`, `comparison.sweep`,
`constraints`, `curvature`, `data`, `data.augment`, `errors`, `experiments`, `figures`, `functional`, `schedules`,
`stages`, `tasks`, `training`, `verification` and `watching`. Every other module is internal and may change
without notice.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dashpot import analysis, clip, curvature, functional, schedules, stages
    from dashpot._exports import *
    from dashpot.analysis import explain
    from dashpot.verification import Verification, verify
    from dashpot.watching import watch

__version__ = "0.1.0"

__all__ = [
    "ESGD",
    "NAG",
    "QHM",
    "SGD",
    "SGM",
    "AdaHessian",
    "Adagrad",
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
    "RateDecay",
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
    "analysis",
    "clip",
    "curvature",
    "diff",
    "elementwise",
    "explain",
    "explain_engine",
    "functional",
    "momentum_forms",
    "param_groups",
    "per_tensor",
    "schedules",
    "stages",
    "verify",
    "watch",
]

_LATE = {
    "Verification": "dashpot.verification",
    "explain": "dashpot.analysis",
    "verify": "dashpot.verification",
    "watch": "dashpot.watching",
}
"""Names of packages that the optimizers do not require."""


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import public names when first accessed: `import dashpot` does not load torch, which takes seconds."""
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    if name in __all__ and not find_spec(f"dashpot.{name}"):
        exports = vars(import_module("dashpot._exports"))
        globals().update({key: exports[key] for key in __all__ if key in exports})
        return globals()[name]
    if name in __all__:
        return import_module(f"dashpot.{name}")
    suggestion = "" if name.startswith("_") or find_spec(f"dashpot.{name}") else _suggestion(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggestion}")


def _suggestion(name: str) -> str:
    """Return the end of the message for a missing name: a similar public name, or a page on custom stages."""
    import torch

    from dashpot.optimizers.group_keys import nearest

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
