"""Named methods and recipes compared with recorded trajectories of torch.optim and the SlowAI notebook."""

import golden_data as golden
import pytest

import dashpot as dp

TORCH = golden.cases("torch_optim")
SLOWAI = golden.cases("slowai_optimizers")


@pytest.mark.parametrize(("case_id", "problem", "case"), TORCH, ids=[c[0] for c in TORCH])
def test_trajectory_equals_torch(case_id, problem, case):
    params = golden.start(problem)
    optimizer = getattr(dp, case["optimizer"])(params, **case["config"])
    assert golden.replay(optimizer, params, problem, case) < 1e-11  # the documented bound for parity with torch.optim


def slowai_recipe(name, lr, wd=0.0, mom=0.9, sqr_mom=0.99, eps=1e-5, beta1=0.9, beta2=0.99):
    """Return the recipe of a class in the notebook: decay scaled by lr, plain averages, eps inside Adam's root."""
    decay = dp.DecoupledDecay(wd)
    stages = {
        "SGD": (),
        "MomentumSGD": (dp.Filter(mom, normalise="none"),),
        "RMSProp": (dp.SecondMoment(sqr_mom, eps, average="first"),),
        "Adam": (dp.Filter(beta1), dp.SecondMoment(beta2, eps, eps_mode="inside")),
    }
    return dp.Recipe(*stages[name], decay, lr=lr)


@pytest.mark.parametrize(("case_id", "problem", "case"), SLOWAI, ids=[c[0] for c in SLOWAI])
def test_trajectory_equals_the_notebook(case_id, problem, case):
    params = golden.start(problem)
    optimizer = dp.SGM.from_recipe(params, slowai_recipe(case["optimizer"], **case["config"]))
    assert golden.replay(optimizer, params, problem, case) < 1e-10


def test_every_case_was_collected():
    assert len(TORCH) == 15
    assert len(SLOWAI) == 7
