"""The three kinds of weight decay, with all three scales."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import few, signals, stepped, tensor

import dashpot as dp
from dashpot import ChangeDecay, CoupledDecay, DecoupledDecay, Filter, SecondMoment
from dashpot.errors import ArgumentError
from dashpot.stages import Clock

DECAYS = st.floats(1e-4, 0.5)
RATES = st.floats(1e-3, 1)


def weight(values=(1.0, -2.0)):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def run(optimizer, p, gradients):
    return [w[0].tolist() for w in stepped(optimizer, [p], [[tensor(g)] for g in gradients])]


def flat(rows):
    return [value for row in rows for value in row]


# ---- coupled ---------------------------------------------------------------------------------------------------------


@few
@given(DECAYS)
def test_coupled_decay_is_added_to_the_gradient_of_later_stages(decay):
    x = signals([CoupledDecay(decay), SecondMoment(0.0, 0.0)], [[0.5, -1.0]], weights=[tensor([2.0, 3.0])])[0]
    torch.testing.assert_close(x.g, tensor([0.5 + decay * 2, -1 + decay * 3]), rtol=1e-15, atol=0)
    assert torch.equal(x.d, x.g.abs())


@few
@given(DECAYS, RATES, st.floats(0.01, 0.95))
def test_coupled_decay_passes_through_the_filter(decay, lr, pole):
    w, v, expected = 1.5, 0.0, []
    for g in (0.3, -0.2, 0.7):
        v = pole * v + g + decay * w
        w -= lr * v
        expected.append([w])
    p = weight([1.5])
    opt = dp.SGM([p], lr, filter=Filter(pole, gain=1.0, normalise="none"), decay=CoupledDecay(decay))
    assert flat(run(opt, p, [[0.3], [-0.2], [0.7]])) == pytest.approx(flat(expected), rel=1e-12)


# ---- decoupled, three scales -----------------------------------------------------------------------------------------


def factors(scale, lr, schedule):
    """Return the factor on weight_decay at each step: lr F, F, or 1."""
    return [{"lr": lr * schedule(t), "schedule": schedule(t), "constant": 1.0}[scale] for t in range(4)]


@pytest.mark.parametrize("scale", ["lr", "schedule", "constant"])
@pytest.mark.parametrize("stage", [DecoupledDecay, ChangeDecay])
def test_decay_scale_with_a_schedule(stage, scale):
    """Gradients are zero, so that only decay acts: w_t = w_0 prod(1 - s_t weight_decay)."""
    lr, decay, schedule = 0.2, 0.3, dp.schedules.Exponential(0.5)
    p = weight([1.0])
    opt = dp.SGM([p], lr, decay=stage(decay, scale=scale), schedule=schedule)
    got = run(opt, p, [[0.0]] * 4)
    expected, w = [], 1.0
    for s in factors(scale, lr, schedule):
        w *= 1 - s * decay
        expected.append([w])
    assert flat(got) == pytest.approx(flat(expected), rel=1e-14)
    assert len({round(s, 12) for s in factors(scale, lr, schedule)}) == (1 if scale == "constant" else 4)


@pytest.mark.parametrize(("scale", "share"), [("lr", 0.2), ("schedule", 1.0), ("constant", 1.0)])
def test_only_the_lr_scale_follows_the_base_rate(scale, share):
    """Doubling lr doubles the decay with scale "lr" and does not change it with the other two scales."""
    for lr in (0.2, 0.4):
        p = weight([1.0])
        [[w]] = run(dp.SGM([p], lr, decay=DecoupledDecay(0.1, scale)), p, [[0.0]])
        assert 1 - w == pytest.approx(0.1 * (share * lr / 0.2 if scale == "lr" else share), rel=1e-12)


def test_schedule_scale_follows_a_torch_scheduler():
    """With `AdamW(decay_scale="schedule")` and LambdaLR, the decay follows the factor, not the rate."""
    p = weight([1.0])
    opt = dp.AdamW([p], lr=0.01, weight_decay=0.1, decay_scale="schedule")
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.5**t)
    got, expected, w = [], [], 1.0
    for t in range(3):
        got += run(opt, p, [[0.0]])[0]
        scheduler.step()
        w *= 1 - 0.1 * 0.5**t
        expected.append(w)
    assert got == pytest.approx(expected, rel=1e-14)


def test_schedule_scale_is_relative_to_max_lr_under_one_cycle():
    """OneCycleLR starts at max_lr/div_factor, so weight_decay is divided by div_factor first, but not at the peak."""
    p = weight([1.0])
    opt = dp.AdamW([p], lr=0.01, weight_decay=0.1, decay_scale="schedule")
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.5, total_steps=10, div_factor=5, pct_start=0.2)
    shares, before = [], 1.0
    for _ in range(10):
        lr = opt.param_groups[0]["lr"]
        [[after]] = run(opt, p, [[0.0]])
        shares.append((1 - after / before, 0.1 * lr / 0.5))
        scheduler.step()
        before = after
    got, expected = zip(*shares, strict=True)
    assert got == pytest.approx(expected, rel=1e-9)
    assert got[0] == pytest.approx(0.1 / 5)
    assert max(got) == pytest.approx(0.1)


@few
@given(DECAYS, RATES)
def test_decoupled_decay_is_torch_adamw(decay, lr):
    """Both the decay and the step are computed from the old weight, as in torch with float64."""
    p, q = weight(), weight()
    gradients = [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]
    ours = run(dp.AdamW([p], lr, weight_decay=decay), p, gradients)
    theirs = run(torch.optim.AdamW([q], lr, weight_decay=decay), q, gradients)
    assert flat(ours) == pytest.approx(flat(theirs), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "stages",
    [
        (DecoupledDecay(0.1), DecoupledDecay(0.05, "constant")),
        (DecoupledDecay(0.05, "constant"), ChangeDecay(0.05, scale="schedule")),
        (ChangeDecay(0.05, scale="constant"), ChangeDecay(0.1, scale="lr")),
    ],
)
def test_decays_are_additive(stages):
    """With lr = 0.5, each pair subtracts a tenth of the old weight."""
    p = weight([1.0])
    assert run(dp.SGM.from_recipe([p], dp.Recipe(*stages, lr=0.5)), p, [[0.0]]) == [[pytest.approx(0.9, rel=1e-15)]]


# ---- decay added to the parameter change -----------------------------------------------------------------------------


@few
@given(DECAYS, RATES, st.floats(0, 2))
def test_change_decay_adds_to_the_direction(decay, lr, factor):
    """The direction becomes v + factor weight_decay w with the old w; the denominator does not divide the decay."""
    x = signals(
        [SecondMoment(0.0, 0.0), ChangeDecay(decay, factor)], [[0.5, -2.0]], weights=[tensor([3.0, 4.0])], lr=lr
    )[0]
    torch.testing.assert_close(x.v, tensor([1 + factor * decay * 3, -1 + factor * decay * 4]), rtol=1e-14, atol=0)


def test_autosgm_change_decay_is_a_tenth_of_the_constant():
    """The factor (1 - pole)/(1 - zero) is .1 for pole 0.9, zero 0; .19 for Nesterov's zero; .2236 for zero 0.5528."""
    for zero, factor in [(0.0, 0.1), (0.9 / 1.9, 0.19), (1 - math.sqrt(0.2), 0.2236)]:
        stage = dp.AutoSGM.recipe_for(zero=zero, decay="change", weight_decay=0.5).stages[-1]
        assert isinstance(stage, ChangeDecay)
        assert stage.factor == pytest.approx(factor, abs=5e-5)


@few
@given(DECAYS, RATES)
def test_autosgm_decay_equals_adamw_with_a_tenth(rho, lr):
    """Gradients are zero after the first: the decays agree if AdamW gets (1 - 0.9) rho. With eps = 0, v is 0."""
    p, q = weight([1.0]), weight([1.0])
    ours = dp.AutoSGM([p], lr=lr, weight_decay=rho, decay="change", eps=0.0)
    adamw = torch.optim.AdamW([q], lr, weight_decay=0.1 * rho, eps=1e-300)
    gradients = [[0.4], [0.2], [-0.3]]
    assert flat(run(ours, p, gradients)) == pytest.approx(flat(run(adamw, q, gradients)), rel=1e-11, abs=1e-11)


def test_change_decay_reaches_the_numerator_only_with_scale_lr():
    """Parcor multiplies w by the direction, so only decay that is part of the direction changes the rate."""
    plain, seen, beside = (
        float(signals([*stages, dp.Parcor(0.5)], [[0.5, 1.0]], weights=[tensor([2.0, 1.0])])[0].rate)
        for stages in ([], [ChangeDecay(0.5)], [ChangeDecay(0.5, scale="constant")])
    )
    assert seen > plain
    assert beside == plain


# ---- zero decay and overshoot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [CoupledDecay, DecoupledDecay, ChangeDecay])
def test_zero_decay_skips_the_arithmetic(stage):
    """Infinite weights and -0.0 are unchanged: 0 * inf would be nan, and -0.0 + 0.0 is 0.0."""
    assert stage(0.0).is_noop()
    assert stage(0).is_noop()
    assert not stage(1e-300).is_noop()
    p = weight([math.inf, -0.0])
    run(dp.SGM([p], 0.1, decay=stage(0.0)), p, [[0.0, 0.0]])
    assert p[0].item() == math.inf
    assert math.copysign(1, p[1].item()) == -1


@pytest.mark.parametrize(
    ("stage", "lr"),
    [
        (DecoupledDecay(1.5, "lr"), 1.0),
        (DecoupledDecay(15.0, "lr"), 0.1),
        (DecoupledDecay(1.5, "constant"), 0.1),
        (DecoupledDecay(1.5, "schedule"), 0.1),
        (ChangeDecay(3.0, 0.5, "lr"), 1.0),
        (ChangeDecay(3.0, 0.5, "constant"), 0.1),
    ],
)
def test_decay_above_one_per_step_warns(stage, lr):
    with pytest.warns(UserWarning, match=r"subtracts 1.5 times the weight per step and overshoots zero"):
        stage.scalars(Clock(t=1, lr=lr))


@pytest.mark.parametrize(
    ("stage", "lr"),
    [
        (DecoupledDecay(2.0, "lr"), 1.0),
        (DecoupledDecay(25.0, "lr"), 0.1),
        (DecoupledDecay(2.0, "constant"), 0.1),
        (DecoupledDecay(2.5, "schedule"), 0.1),
        (ChangeDecay(4.0, 0.5, "lr"), 1.0),
        (ChangeDecay(4.0, 0.5, "constant"), 0.1),
    ],
)
def test_decay_of_two_or_more_per_step_raises(stage, lr):
    with pytest.raises(ArgumentError, match=r"fraction of the weight per step must be below 2 \(unstable\), got 2"):
        stage.scalars(Clock(t=1, lr=lr))


def test_decay_of_exactly_one_per_step_warns():
    with pytest.warns(UserWarning, match=r"subtracts 1 times the weight per step"):
        DecoupledDecay(1.0, "constant").scalars(Clock(t=1, lr=0.1))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999999])
def test_decay_below_one_per_step_does_not_warn(share):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DecoupledDecay(share, "constant").scalars(Clock(t=1, lr=0.1))


def test_overshoot_check_includes_the_schedule():
    """There is no warning for lr weight_decay F = 0.9, although lr weight_decay = 1.8."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DecoupledDecay(1.8).scalars(Clock(t=1, lr=1.0, factor=0.5))


def test_rejected_overshoot_changes_nothing():
    p = weight([1.0])
    opt = dp.SGM([p], lr=1.0, decay=DecoupledDecay(2.0))
    p.grad = torch.ones_like(p)
    with pytest.raises(ArgumentError, match="below 2"):
        opt.step()
    assert p.item() == 1.0
    assert opt.state[p] == {}


def test_maximize_negates_the_gradient_but_not_the_decay():
    up, down = weight([1.0]), weight([1.0])
    for p, gradient, maximize in ((up, 0.5, True), (down, -0.5, False)):
        run(dp.SGM([p], 0.1, decay=DecoupledDecay(0.1), maximize=maximize), p, [[gradient]])
    assert up.item() == down.item() == pytest.approx(1 - 0.01 + 0.05, rel=1e-15)
