"""Public names of `dashpot`, imported when the first of them is accessed."""

from dashpot.errors import ArgumentError, CurvatureError, DashpotError, DataError, NonFiniteError, RunError
from dashpot.optimizers.adam_variants import CenteredAdam, QHAdam
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.explain import explain_engine
from dashpot.optimizers.momentum import NAG, QHM, HeavyBall
from dashpot.optimizers.options import Options
from dashpot.optimizers.param_groups import ParamGroups, param_groups
from dashpot.optimizers.second_order import ESGD, AdaHessian, Sophia
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.optimizers.sgm import SGM
from dashpot.optimizers.torch_compatible import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
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
    RateDecay,
    SecondMoment,
    Stage,
    Warmup,
    elementwise,
    per_tensor,
)
