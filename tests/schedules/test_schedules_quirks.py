"""Window quirks against trajectories of the original optimizer."""

import numpy as np
import pytest
from schedules_support import golden

from dashpot.errors import ArgumentError
from dashpot.schedules import QUIRKS, OriginalWindow, Window

DATA = golden("autosgm_windows")


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def directions(config, gradients):
    """Return the step divided by rate and window: the filtered gradient over the root of its mean square."""
    adaptive = config["lr_cfg"][0]
    _, decay, pole, zero, *_ = config["beta_cfg"]
    (eps,) = config["eps_cfg"]
    state = square = np.zeros_like(gradients[0])
    for t, gradient in enumerate(gradients, start=1):
        total = state + (1 - pole) * gradient
        filtered = total / (1 if t == 1 else 1 - zero) / (1 - pole**t)
        state = pole * total - zero * (1 - pole) * gradient
        square = decay * square + (1 - decay) * (gradient + eps) ** 2
        yield filtered / (np.sqrt(square / (1 - decay**t)) + eps) if adaptive else filtered


@pytest.mark.parametrize("case", DATA["cases"], ids=lambda case: case["id"])
def test_window_matches_the_original_optimizer(case):
    config, problem = case["config"], DATA["problems"][case["problem"]]
    window = Window.from_rc_cfg(config["rc_cfg"], quirks=[name for name in case["quirks"] if name in QUIRKS])
    before = flat(problem["init"])
    moves = directions(config, [flat(step) for step in problem["grads"]])
    for step, (move, params) in enumerate(zip(moves, case["params"], strict=False)):
        after = before - config["lr_cfg"][1] * window(step) * move
        np.testing.assert_allclose(after, flat(params), rtol=1e-10, atol=1e-13, err_msg=f"step {step}")
        before = flat(params)


def test_last_epoch_passes_the_end_from_the_second_window():
    window = Window.from_rc_cfg((1, 0, 0, 2, 1, 4, 9, 0, 0), quirks=QUIRKS)
    assert window.steps == 16  # four epochs of tau = 4 steps, not of spe = 9
    last = [[round(window(frame * 16 + step), 3) for step in range(12, 16)] for frame in range(3)]
    assert last == [[0.146] * 4, [0.146, *[-0.854] * 3], [0.146, *[-1.854] * 3]]
    regular = [step for step in range(48) if step % 16 < 13]
    documented = Window("raised-cosine", steps=16, hold=4)
    assert [window(step) for step in regular] == [documented(step) for step in regular]


def test_epoch_quirks_are_independent():
    cfg = (1, 0, 0, 2, 1, 4, 9, 0, 0)
    assert Window.from_rc_cfg(cfg, ["epoch_counts_tau_steps"]) == Window("raised-cosine", steps=16, hold=4)
    frame = Window.from_rc_cfg(cfg, ["epoch_window_second_frame"])
    assert frame == OriginalWindow("raised-cosine", steps=36, hold=9, second_frame=True)
    assert round(frame(36 + 27), 3) == 0.146
    assert round(frame(36 + 28), 3) == -0.854


@pytest.mark.parametrize(
    ("order", "second", "third"),
    [(1, -0.75, -1.75), (2, 0.5625, 3.0625)],  # (1 - u)^order at u = 1.75 and 2.75
)
def test_polynomials_are_extrapolated(order, second, third):
    window = OriginalWindow("polynomial", steps=8, hold=2, order=order, second_frame=True)
    assert [window(15), window(23)] == [second, third]


def test_fractional_polynomial_with_second_frame_raises():
    with pytest.raises(ArgumentError, match=r"order must be an integer .* second_frame, got 1\.5"):
        OriginalWindow("polynomial", steps=8, hold=2, order=1.5, second_frame=True)


@pytest.mark.parametrize("cfact", [1, 2, 3])
def test_inapplicable_quirks_have_no_effect(cfact):
    cfg = (5, 0, 0, 4, 1, 4, 9, cfact, 0)
    assert Window.from_rc_cfg(cfg, quirks=QUIRKS) == Window.from_rc_cfg(cfg)


def test_original_window_without_quirks_is_a_window():
    assert OriginalWindow("late-logistic", steps=8, hold=2).table(40) == Window("late-logistic", 8, hold=2).table(40)


@pytest.mark.parametrize("quirks", [["late_logistic_unormalised"], "late_logistic_unormalised"])
def test_unknown_quirk_raises(quirks):
    with pytest.raises(ArgumentError, match="did you mean 'late_logistic_unnormalised'"):
        Window.from_rc_cfg((1, 0, 0, 2, 1, 4, 9, 0, 0), quirks=quirks)
