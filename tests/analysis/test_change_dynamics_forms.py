"""The recursion of the parameter change with schedules, clipping, restarts and unusual tensors."""

import copy

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot import analysis
from dashpot.schedules import OneCycle, OneCycleMomentum

GRADIENTS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of(cls, **settings):
    return lambda params: cls(params, **settings)


def replayed(make, weights=None, gradients=GRADIENTS, before_step=lambda step, optimizer: None, **options):
    """Return the dynamics of a run on given gradients. A gradient may be None."""
    w = torch.linspace(-1, 1, 6, dtype=torch.float64) if weights is None else weights
    optimizer = make([w.requires_grad_()])
    with analysis.record_steps(optimizer, **options) as recording:
        for step, gradient in enumerate(gradients):
            w.grad = None if gradient is None else gradient.to(w.dtype).reshape(w.shape)
            before_step(step, optimizer)
            optimizer.step()
    return analysis.dynamics(recording)


def holds(found):
    """Check identity and bound at the accuracy of float64, relative to the largest change."""
    return found.residual < 1e-12 and found.holds and found.bound_holds


@pytest.mark.parametrize(
    "make",
    [
        of(dp.AdamW, lr=0.1, max_norm=0.5),
        of(dp.SGD, lr=0.1, momentum=0.9, clip_value=0.5, weight_decay=0.1),
        of(dp.NAG, lr=0.1, adaptive_clip=0.1),
        of(dp.AutoSGM, lr=0.1, zero=0.5, decay="change", weight_decay=0.1, maximize=True),
        of(dp.SGD, lr=0.1, momentum=0.9, dampening=1.0),
        of(dp.Adam, lr=0.1, betas=(0.0, 0.9), eps=0.0),
        of(dp.QHM, lr=0.1, pole=0.9, nu=0.0),
        of(dp.HeavyBall, lr=0.1, pole=0.0),
    ],
)
def test_recursion_holds_with_clipping_and_limiting_settings(make):
    assert holds(replayed(make))


@pytest.mark.parametrize("cls", [dp.HeavyBall, dp.NAG, dp.Adam, dp.NAdam])
def test_recursion_with_scheduled_momentum_has_varying_pole(cls):
    schedule = {"lr": OneCycle(12, div=5, final_div=2), "pole": OneCycleMomentum(12, high=0.9, low=0.6)}
    if cls in (dp.Adam, dp.NAdam):
        schedule["betas[0]"] = schedule.pop("pole")
    found = replayed(of(cls, lr=0.1, schedule=schedule))
    assert holds(found)
    tensor = found["0"]
    assert not tensor.constant[1:].any()
    assert len(set(tensor.pole[2:].round(6))) > 5
    assert np.isnan(tensor.published_residual[1:]).all()


def test_change_of_momentum_by_hand_ends_constant_form_for_one_step():
    def change(step, optimizer):
        optimizer.param_groups[0]["momentum"] = 0.9 if step < 6 else 0.5

    found = replayed(of(dp.HeavyBall, lr=0.1), before_step=change)
    assert holds(found)
    assert found["0"].constant.tolist() == [step != 6 for step in range(12)]


def test_zero_rate_restarts_recursion():
    def stop(step, optimizer):
        optimizer.param_groups[0]["lr"] = 0.0 if step in (4, 5) else 0.1

    found = replayed(of(dp.AdamW, weight_decay=0.1), before_step=stop)
    tensor = found["0"]
    assert holds(found)
    assert tensor.restarts.tolist() == [0, 0, 0, 0, 6, 6, 6, 0, 0, 0, 0, 0]
    assert (tensor.alpha[4:6] == 0).all()
    assert (tensor.dw[4:6] == 0).all()
    assert (tensor.r[4:7] == 1).all()


def test_changes_below_rounding_of_weights_restart_recursion():
    def almost_stop(step, optimizer):
        optimizer.param_groups[0]["lr"] = 1e-18 if step in (3, 7) else 0.1

    found = replayed(of(dp.Adam), before_step=almost_stop)
    assert holds(found)
    assert found["0"].restarts.tolist() == [6 if step in (4, 8) else 0 for step in range(12)]


def test_decay_at_zero_rate_is_the_whole_change():
    found = replayed(of(dp.AdamW, lr=0.0, weight_decay=0.1, decay_scale="constant"))
    assert holds(found)
    assert np.allclose(found["0"].dw, -0.1 * found["0"].w, rtol=1e-12, atol=0)  # rounding of the weights


def test_elements_without_gradient_and_eps_stay():
    gradients = GRADIENTS.clone()
    gradients[:, 2] = 0
    gradients[:5, 3] = 0
    tensor = replayed(of(dp.Adam, lr=0.1, eps=0.0), gradients=gradients)["0"]
    assert tensor.residual.max() < 1e-12  # float64
    assert (tensor.alpha[:, 2] == 0).all()
    assert (tensor.alpha[:5, 3] == 0).all()
    assert tensor.alpha[5, 3] > 0


def test_recording_from_a_later_step_starts_with_measured_change():
    w = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    optimizer = dp.AdamW([w], lr=0.1, weight_decay=0.1)
    for gradient in GRADIENTS[:4]:
        w.grad = gradient.clone()
        optimizer.step()
    with analysis.record_steps(optimizer) as recording:
        for gradient in GRADIENTS[4:]:
            w.grad = gradient.clone()
            optimizer.step()
    found = analysis.dynamics(recording)
    assert holds(found)
    assert found["0"].steps.tolist() == list(range(6, 13))


def test_steps_without_gradient_and_skipped_steps_have_no_row():
    gradients = [*GRADIENTS[:3], None, torch.full((6,), float("nan")), *GRADIENTS[3:6]]
    found = replayed(of(dp.AdamW, lr=0.1, nonfinite="skip"), gradients=gradients)
    assert holds(found)
    assert found["0"].steps.tolist() == [1, 2, 3, 4, 5, 6]


def test_change_of_weights_between_steps_is_not_a_parameter_change():
    def move(step, optimizer):
        if step == 5:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].add_(1.0)

    assert holds(replayed(of(dp.AutoSGM, lr=0.1, decay="change", weight_decay=0.1), before_step=move))


def test_loading_state_starts_recursion_again():
    saved = {}

    def load(step, optimizer):
        if step == 2:
            saved.update(copy.deepcopy(optimizer.state_dict()))
        if step == 7:
            optimizer.load_state_dict(saved)

    found = replayed(of(dp.NAG, lr=0.1), before_step=load)
    assert holds(found)
    assert found["0"].steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]  # the step after loading only starts


@pytest.mark.parametrize("shape", [(), (2, 3), (6, 1, 1)])
def test_recursion_holds_for_any_shape(shape):
    size = int(np.prod(shape))
    weights = torch.linspace(-1, 1, max(size, 1), dtype=torch.float64)[:size].reshape(shape)
    assert holds(replayed(of(dp.AutoSGM, lr=0.1, numerator=4, beta_n=0.9), weights, GRADIENTS[:, :size]))


def test_recursion_holds_for_complex_weights():
    weights = torch.view_as_complex(torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2))
    gradients = list(torch.view_as_complex(GRADIENTS.reshape(12, 3, 2)))
    found = replayed(of(dp.AdamW, lr=0.1), weights, gradients)
    assert holds(found)
    assert found["0"].dw.shape == (12, 6)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {"rounding": "kahan"}),
        (torch.float32, {"state_dtype": torch.bfloat16}),
    ],
    ids=str,
)
def test_recursion_holds_to_rounding_for_narrow_types(dtype, options):
    weights = torch.linspace(-1, 1, 6, dtype=dtype)
    found = replayed(of(dp.AdamW, lr=0.1, **options), weights)
    assert found.holds
    assert found.bound_holds
    if dtype == torch.float32 and not options:
        assert 1e-9 < found.residual < 1e-5  # rounding of float32


def test_recording_does_not_change_the_run():
    def weights(record):
        w = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
        optimizer = dp.AutoSGM([w], lr=0.1, numerator=3, beta_n=0.9, zero=0.5)
        recording = analysis.record_steps(optimizer) if record else None
        for gradient in GRADIENTS:
            w.grad = gradient.clone()
            optimizer.step()
        if recording:
            recording.close()
            assert not optimizer._optimizer_step_pre_hooks
            assert not optimizer._optimizer_step_post_hooks
        return w.detach()

    assert torch.equal(weights(True), weights(False))


def test_gradient_of_a_closure_is_recorded():
    w = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    optimizer = dp.Adam([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    with analysis.record_steps(optimizer) as recording:
        for _ in range(5):
            optimizer.step(closure)
    assert holds(analysis.dynamics(recording))


def test_scaled_gradients_are_recorded_unscaled():
    w = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    optimizer = dp.SGD([w], lr=0.1, momentum=0.9, max_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with analysis.record_steps(optimizer) as recording:
        for _ in range(5):
            optimizer.zero_grad()
            scaler.scale((w**2).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    found = analysis.dynamics(recording)
    assert holds(found)
    assert found["0"].statistics["e"]["norm"][0] == pytest.approx(1.0, rel=1e-5)  # max_norm, with its eps of 1e-6
