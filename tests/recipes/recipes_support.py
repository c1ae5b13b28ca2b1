"""Recipes that cover all stages, kinds of settings and schedules."""

from recipes_custom_stage import Softsign

import dashpot as dp
from dashpot.schedules import Constant, Cosine, Exponential
from dashpot.stages import Negate, NudgeSmallWeights

RECIPES = [
    dp.Recipe(),
    dp.Recipe(lr=0.5),
    dp.Recipe(dp.Filter(), lr=0.25),
    dp.Recipe(dp.Filter(0.95, zero=-0.5, gain=2.0, normalise="none", start="first", slot="buffer")),
    dp.Recipe(dp.CoupledDecay(0.1), dp.Filter(), dp.SecondMoment(0.99, eps_mode="inside", average="running")),
    dp.Recipe(dp.CenteredMoment(uncentered_steps=3, power="variance"), dp.ChangeDecay(0.1, 0.1), dp.HuberClip(cap=2)),
    dp.Recipe(dp.SecondMoment(), dp.Parcor(0.99), dp.DecoupledDecay(0.1, "schedule")),
    dp.Recipe(dp.NesterovMoment(), dp.SecondMoment(), dp.HuberParcor(cap=3.0)),
    dp.Recipe(NudgeSmallWeights(1e-3), dp.SecondMoment(), dp.MomentRate(), Negate()),
    dp.Recipe(dp.Filter(), schedule=Cosine(10)),
    dp.Recipe(dp.Filter(), schedule={"pole": Exponential(0.5), "lr": Cosine(10) * Constant(0.5)}),
    dp.Recipe(Softsign(0.5, floor=0.1, levels=(3,)), dp.Filter(), lr=1),
]
