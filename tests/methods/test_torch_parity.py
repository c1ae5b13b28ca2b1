"""Parity with torch.optim to 1e-11 for random settings, after 100 steps (30 in fast tests) in float64.

The error is relative to max(1, |w|), for all parameters at the end of the run. Gradients are recorded, so that errors
do not compound. Some gradients are missing, and groups differ.
"""

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dashpot as dp

STEPS = 30
MANY_STEPS = 100
TOLERANCE = 1e-11

RATES = st.floats(1e-4, 0.5)
DECAYS = st.one_of(st.just(0.0), st.floats(1e-4, 0.5))
POLES = st.one_of(st.just(0.0), st.floats(0.01, 0.99))
BETAS = st.tuples(POLES, st.one_of(st.just(0.0), st.floats(0.01, 0.9999)))
EPS = st.floats(1e-8, 1e-1)
FLAGS = st.booleans()
SIZES = st.floats(-3, 3).map(lambda exponent: 10.0**exponent)
MISSING = st.sampled_from([None, 2, 3, 7])
"""The n for which parameter 1 has no gradient at every n-th step, or None if it always has one."""

SGD = st.fixed_dictionaries(
    {
        "lr": RATES,
        "momentum": POLES,
        "dampening": st.one_of(st.just(0.0), st.floats(0, 1)),
        "weight_decay": DECAYS,
        "maximize": FLAGS,
    }
) | st.fixed_dictionaries(
    {
        "lr": RATES,
        "momentum": st.floats(0.01, 0.99),
        "nesterov": st.just(True),
        "weight_decay": DECAYS,
        "maximize": FLAGS,
    }
)
RMSPROP = {"lr": RATES, "eps": EPS, "weight_decay": DECAYS, "momentum": POLES, "maximize": FLAGS}
# For alpha near 0, the centered variance s - a^2 is a rounding error, and in torch its root is noise or NaN.
UNCENTERED = st.fixed_dictionaries({**RMSPROP, "alpha": POLES})
CENTERED = st.fixed_dictionaries({**RMSPROP, "centered": st.just(True), "alpha": st.floats(0.05, 0.999)})
ADAM = {"lr": RATES, "betas": BETAS, "eps": EPS, "weight_decay": DECAYS, "maximize": FLAGS}
ADAGRAD = {
    "lr": RATES,
    "lr_decay": st.one_of(st.just(0.0), st.floats(1e-4, 1.0)),
    "weight_decay": DECAYS,
    "eps": EPS,
    "maximize": FLAGS,
}
NADAM = {**ADAM, "momentum_decay": st.floats(0, 0.1), "decoupled_weight_decay": FLAGS}
METHODS = {
    "SGD": SGD,
    "RMSprop": UNCENTERED | CENTERED,
    "Adagrad": st.fixed_dictionaries(ADAGRAD),
    "Adam": st.fixed_dictionaries({**ADAM, "amsgrad": FLAGS, "decoupled_weight_decay": FLAGS}),
    "AdamW": st.fixed_dictionaries({**ADAM, "amsgrad": FLAGS}),
    "NAdam": st.fixed_dictionaries(NADAM),
}


@pytest.fixture(autouse=True)
def float64_by_default():
    """Use float64 as the default dtype, in which torch stores NAdam's product of momenta."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def train(cls, groups, size, missing, nudge=0.0, steps=STEPS):
    """Return the parameters after a run from a start shifted by `nudge`, where each group has its own settings."""
    params = [parameters(seed=seed) for seed, _ in enumerate(groups)]
    with torch.no_grad():
        for group in params:
            for p in group:
                p.add_(nudge)
    optimizer = cls([{"params": p, **options} for p, options in zip(params, groups, strict=True)])
    flat = [p for group in params for p in group]
    for step in range(steps):
        for index, p in enumerate(flat):
            left_out = missing is not None and index == 1 and step % missing == 0
            p.grad = None if left_out else size * gradient(p, step, index)
        optimizer.step()
    return [p.detach() for p in flat]


def assert_parity(name, groups, size, missing, steps):
    """Compare with torch, except for draws in which only rounding errors would be compared.

    These are draws for which the result of torch is NaN (because a centered variance is below zero), or for which torch
    amplifies a shift of the start more than 100 times (because a strong coupled decay flips the sign of a tiny
    gradient, and the denominator has no memory).
    """
    cls, separate = getattr(torch.optim, name), [{**group, "foreach": False} for group in groups]
    theirs = train(cls, separate, size, missing, steps=steps)
    assume(all(bool(torch.isfinite(p).all()) for p in theirs))
    assume(distance(train(cls, separate, size, missing, nudge=1e-13, steps=steps), theirs) < 1e-11)
    ours = train(getattr(dp, name), groups, size, missing, steps=steps)
    assert distance(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(("examples", "steps"), [(4, STEPS), pytest.param(100, MANY_STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_random_settings_equal_torch(name, examples, steps):
    @settings(max_examples=examples)
    @given(options=METHODS[name], size=SIZES, missing=MISSING)
    def one_group(options, size, missing):
        assert_parity(name, [options], size, missing, steps)

    one_group()


@pytest.mark.parametrize(("examples", "steps"), [(2, STEPS), pytest.param(30, MANY_STEPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_random_group_settings_equal_torch(name, examples, steps):
    @settings(max_examples=examples)
    @given(groups=st.lists(METHODS[name], min_size=2, max_size=3), size=SIZES, missing=MISSING)
    def several_groups(groups, size, missing):
        assert_parity(name, groups, size, missing, steps)

    several_groups()


@pytest.mark.parametrize("name", METHODS)
def test_defaults_equal_torchs(name):
    theirs = getattr(torch.optim, name)(parameters()).defaults
    ours = getattr(dp, name)(parameters()).defaults
    shared = set(ours) & set(theirs)
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    # AdamW's flag is always True in torch, and decay_scale does not exist in torch.
    assert set(theirs) - shared <= {"decoupled_weight_decay"}
    assert set(ours) - shared <= {"decay_scale"}


@pytest.mark.parametrize("name", METHODS)
def test_positional_order_equals_torchs(name):
    theirs = torch.optim.__dict__[name].__init__.__code__
    ours = getattr(dp, name).__init__.__code__
    assert ours.co_varnames[: ours.co_argcount] == theirs.co_varnames[: theirs.co_argcount]
    theirs_named = set(theirs.co_varnames[: theirs.co_argcount + theirs.co_kwonlyargcount])
    ours_named = set(ours.co_varnames[: ours.co_argcount + ours.co_kwonlyargcount])
    assert theirs_named <= ours_named
    assert ours_named - theirs_named <= {"capturable", "decay_scale"}


def test_variance_rounded_below_zero_is_finite_unlike_torch():
    """This is an example of the excluded draws: for a small alpha, the variance is a rounding error."""
    values = [torch.linspace(0.1, 1.0, 200, dtype=torch.float64).requires_grad_() for _ in range(2)]
    for cls, p in zip((torch.optim.RMSprop, dp.RMSprop), values, strict=True):
        optimizer = cls([p], centered=True, alpha=0.3)
        for _ in range(40):
            p.grad = torch.linspace(0.1, 1.0, 200, dtype=torch.float64)
            optimizer.step()
    assert values[0].isnan().any()
    assert torch.isfinite(values[1]).all()


@pytest.mark.diagonal
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("flag", ["foreach", "fused"])
def test_implementation_flags_have_no_effect(name, flag):
    cls = getattr(dp, name)
    if flag == "fused" and name in ("RMSprop", "NAdam"):  # torch does not have this argument
        with pytest.raises(TypeError, match="fused"):
            cls(parameters(), fused=True)
        return
    plain = train(cls, [{}], 1.0, None)
    assert all(torch.equal(p, q) for p, q in zip(train(cls, [{flag: True}], 1.0, None), plain, strict=True))


def test_parity_check_detects_a_small_error():
    """A relative error of 1e-9 in one setting is detected."""
    theirs = train(torch.optim.Adam, [{"lr": 0.1}], 1.0, None)
    assert distance(train(dp.Adam, [{"lr": 0.1 * (1 + 1e-9)}], 1.0, None), theirs) > TOLERANCE
