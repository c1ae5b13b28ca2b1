"""Results of `dynamics`: quantities against independent formulas, the bound, the published form, and bad input."""

import json

import dynamics_support
import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot import analysis

GRADIENTS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.linspace(-1, 1, 5, dtype=torch.float64)


def run(cls, gradients=GRADIENTS, **settings):
    """Return the dynamics of a run on given gradients."""
    w = START.clone().requires_grad_()
    optimizer = cls([w], engine="eager", **settings)
    with analysis.record_steps(optimizer) as recording:
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
    return analysis.dynamics(recording)


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# ---- independent formulas --------------------------------------------------------------------------------------------


def test_adamw_quantities_equal_formulas_on_torch_run():
    lr, beta, beta2, eps, decay = 0.01, 0.9, 0.99, 1e-3, 0.1
    w = START.clone().requires_grad_()
    optimizer = torch.optim.AdamW([w], lr=lr, betas=(beta, beta2), eps=eps, weight_decay=decay)
    alphas, scaled, weights, g = [], [], [], GRADIENTS.numpy()
    for t, gradient in enumerate(GRADIENTS, 1):
        weights.append(w.detach().numpy().copy())
        w.grad = gradient.clone()
        optimizer.step()
        d = np.sqrt(optimizer.state[w]["exp_avg_sq"].numpy() / (1 - beta2**t)) + eps
        alphas.append(lr / d / (1 - beta**t))
        scaled.append(weights[-1] * d * (1 - beta**t))
    e = -g.copy()  # zero = 0
    e -= decay / (1 - beta) * np.array(scaled)
    e[1:] += decay / (1 - beta) * beta * np.array(scaled[:-1])
    tensor = run(dp.AdamW, lr=lr, betas=(beta, beta2), eps=eps, weight_decay=decay)["0"]
    # Both runs compute the same numbers in float64, in a different order.
    assert relative_error(tensor.alpha, np.array(alphas)) < 1e-12
    assert relative_error(tensor.e, e) < 1e-12
    assert relative_error(tensor.dw, np.diff([*weights, w.detach().numpy()], axis=0)) < 1e-12
    assert relative_error(tensor.r[1:], tensor.alpha[1:] / tensor.alpha[:-1]) < 1e-15
    assert set(tensor.pole) == {0.9}
    assert np.allclose(tensor.gain, 0.1, rtol=1e-15)


def test_rmsprop_with_momentum_filters_the_normalized_gradient():
    lr, alpha, eps, momentum = 0.01, 0.9, 1e-3, 0.8
    square, inputs = np.zeros(5), []
    for g in GRADIENTS.numpy():
        square = alpha * square + (1 - alpha) * g**2
        inputs.append(-g / (np.sqrt(square) + eps))
    tensor = run(dp.RMSprop, lr=lr, alpha=alpha, eps=eps, momentum=momentum)["0"]
    assert relative_error(tensor.e, np.array(inputs)) < 1e-12  # the same numbers in a different order
    # The heavy ball has the gain 1, which is 1/(1 - momentum) times that of unit DC gain.
    assert np.allclose(tensor.alpha, lr / (1 - momentum), rtol=1e-12)
    assert np.allclose(tensor.r, 1, rtol=1e-12)


def test_varying_form_of_nadam_has_poles_of_its_formula():
    beta, decay = 0.9, 4e-3
    mu = beta * (1 - 0.5 * 0.96 ** (decay * np.arange(1, 42)))
    product = np.cumprod(mu)
    weight = mu[1:] / (1 - product[1:])  # of the average in the output
    tensor = run(dp.NAdam, betas=(beta, 0.999), momentum_decay=decay)["0"]
    assert not tensor.constant.any()
    assert relative_error(tensor.pole[1:], beta * weight[1:] / weight[:-1]) < 1e-12
    gain = (1 - mu[:-1]) / (1 - product[:-1]) + weight * (1 - beta)
    assert relative_error(tensor.gain, gain) < 1e-12


# ---- bound -----------------------------------------------------------------------------------------------------------


def test_bound_is_attained_by_constant_input_sign():
    # With a constant rate and gradients of one sign, all terms add up. The gain 1 + ... + pole^(t-1) is
    # (1 - pole^t)/(1 - pole), so that the elementwise bound equals the change, and the bound of the run its limit.
    found = run(dp.SGD, torch.ones(40, 5, dtype=torch.float64), lr=0.1, momentum=0.5)
    tensor = found["0"]
    assert relative_error(np.abs(tensor.dw), tensor.bound) < 1e-12
    assert tensor.largest_bound == pytest.approx(0.2, rel=1e-12)
    assert np.abs(tensor.dw).max() == pytest.approx(0.2, rel=1e-11)  # 0.5^40 remains
    assert found.bound_holds


@pytest.mark.parametrize("settings", [{"zero": 0.5}, {"zero": -0.5}, {"zero": 0.5, "debias": "exact", "numerator": 1}])
def test_changes_stay_below_bound_of_the_run(settings):
    tensor = run(dp.AutoSGM, lr=0.1, decay="change", weight_decay=0.1, **settings)["0"]
    assert np.abs(tensor.dw).max() <= tensor.bound.max() <= tensor.largest_bound


def test_bound_of_the_repository_fails_for_an_initial_change():
    # The repository prints sup alpha (sup|dw_0| + sup|e|/(1 - zero)). dw_0 already contains alpha: its term must
    # be divided by the initial alpha, as in the elementwise bound.
    w = START.clone().requires_grad_()
    optimizer = dp.HeavyBall([w], lr=1e-3, pole=0.9)
    w.grad = torch.full_like(w, 1e3)
    optimizer.step()  # changes every element by -1
    with analysis.record_steps(optimizer) as recording:
        for _ in range(5):
            w.grad = torch.zeros_like(w)
            optimizer.step()
    tensor = analysis.dynamics(recording)["0"]
    sup = {name: values["sup"].max() for name, values in tensor.statistics.items()}
    assert sup["dw"] > 50 * sup["alpha"] * (1 + sup["e"])
    assert (np.abs(tensor.dw) <= tensor.bound * (1 + 1e-12)).all()


# ---- published form --------------------------------------------------------------------------------------------------


def test_published_form_fails_with_bias_correction_until_scale_is_one():
    tensor = run(dp.AutoSGM, lr=0.1)["0"]
    published = tensor.published_residual / (tensor.statistics["dw"]["sup"] / tensor.statistics["dw"]["sup"].max())
    assert published[0] == pytest.approx(0.9, rel=1e-12)  # the first output equals the first input, not 0.1 of it
    assert published[1:10].max() > 0.1
    assert published[-1] < 0.05  # 0.9^40 = 0.015
    assert tensor.residual.max() < 1e-12


def test_published_form_holds_without_bias_correction():
    assert run(dp.AutoSGM, lr=0.1, debias=False, weight_decay=0.1).published_residual < 1e-12
    assert run(dp.QHM, lr=0.1, weight_decay=0.1).published_residual < 1e-12


def test_published_form_with_first_output_unscaled_fails_between_first_two_steps():
    found = run(dp.AutoSGM, lr=0.1, debias=False, zero=0.5, quirks=("first_step_unscaled_zero",))
    published = found["0"].published_residual
    assert (published[:2] > 0.01).all()
    assert published[2:].max() < 1e-14  # rounding; exact from the third step on
    assert found.residual < 1e-12


def test_published_form_of_change_decay_lacks_factor():
    # The update adds gain rho w, whereas the printed term rho/gain belongs to an update that adds rho w.
    assert run(dp.AutoSGM, lr=0.1, debias=False, decay="change", weight_decay=0.1).published_residual > 1e-3
    assert (
        run(dp.SGM, lr=0.1, filter=dp.Filter(0.9, normalise="none"), decay=dp.ChangeDecay(0.1)).published_residual
        < 1e-12
    )


# ---- recording and results -------------------------------------------------------------------------------------------


def make(params):
    return dp.AdamW(params, lr=0.01, engine="eager")


def test_statistics_cover_all_elements_and_kept_elements_are_evenly_spaced():
    every = dynamics_support.record(make, steps=4)
    some = dynamics_support.record(make, steps=4, elements=8)
    for name, tensor in every.tensors.items():
        count = tensor.dw.shape[1]
        index = np.arange(min(8, count)) * count // min(8, count)
        assert np.array_equal(some[name].alpha, tensor.alpha[:, index])
        assert np.array_equal(some[name].statistics["e"]["sd"], tensor.statistics["e"]["sd"])
        e = tensor.statistics["e"]
        # Sums of a thousand float64 numbers in a different order.
        assert np.allclose(e["sup"], np.abs(tensor.e).max(axis=1), rtol=1e-12)
        assert np.allclose(e["mean"], tensor.e.mean(axis=1), rtol=1e-9)
        assert np.allclose(e["sd"], tensor.e.std(axis=1), rtol=1e-12)
        assert np.allclose(e["norm"], np.linalg.norm(tensor.e, axis=1), rtol=1e-12)


def test_every_records_some_steps_with_the_values_of_all():
    every = dynamics_support.record(make, steps=8)
    third = dynamics_support.record(make, steps=8, every=3, names=["1.bias"])
    assert list(third.tensors) == ["1.bias"]
    assert third["1.bias"].steps.tolist() == [1, 4, 7]
    assert np.array_equal(third["1.bias"].e, every["1.bias"].e[::3])
    assert third.residual < 1e-12
    assert third.bound_holds


def test_summary_and_quantities_are_plain_data():
    found = dynamics_support.record(make, steps=3)
    assert found.summary().startswith("AdamW, 4 tensors, 3 steps: Dw_{t+1} = 0.9 r_t Dw_t + 0.1 alpha_t e_t holds to ")
    assert "no change exceeds its bound" in found.summary()
    assert "published form" in found.summary()
    data = json.loads(json.dumps(found.to_dict()))
    assert data["holds"] is data["bound_holds"] is True
    assert len(data["tensors"]["1.weight"]["alpha"]["sup"]) == 3
    assert "residual" in found._repr_html_()
    nadam = dynamics_support.record(lambda params: dp.NAdam(params, engine="eager"), steps=3)
    assert "pole_t between" in nadam.summary()
    assert nadam.published_residual is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"record_steps: every must be an integer in \[1, inf\), got 0."),
        ({"elements": 0.5}, r"record_steps: elements must be None or an integer in \[1, inf\), got 0.5."),
        ({"names": "weight"}, "record_steps: names must be a sequence of names, got 'weight'."),
        ({"names": ["2"]}, "Unknown parameter '2'"),
        ({"names": []}, "record_steps: names must contain at least one parameter, got none."),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(dp.ArgumentError, match=message):
        analysis.record_steps(dp.AdamW([START.clone().requires_grad_()]), **options)


def test_invalid_optimizer_raises():
    params = [START.clone().requires_grad_()]
    with pytest.raises(dp.ArgumentError, match=r"must be of dashpot, or of torch\.optim with a counterpart"):
        analysis.record_steps(torch.optim.Adadelta(params))
    with pytest.raises(dp.ArgumentError, match="2 filters in sequence"):
        analysis.record_steps(dp.SGM(params, filter=(dp.Filter(0.9), dp.Filter(0.5, slot="other"))))
    with pytest.raises(dp.ArgumentError, match="optimizer must have capturable=False"):
        analysis.record_steps(dp.SGD(params, capturable=True))
    with pytest.raises(dp.ArgumentError, match="optimizer must have differentiable=False"):
        analysis.record_steps(dp.SGD(params, differentiable=True))
    recipe = dp.Recipe(dp.Filter(0.9), dp.CoupledDecay(0.1))
    with pytest.raises(dp.ArgumentError, match="CoupledDecay after the filter"):
        analysis.record_steps(dp.SGM.from_recipe(params, recipe))


def test_names_may_be_a_mapping_to_parameters():
    one, two = START.clone().requires_grad_(), START.clone().requires_grad_()
    optimizer = dp.SGD([{"params": [one]}, {"params": [two], "lr": 0.2}], lr=0.1)
    one.grad, two.grad = GRADIENTS[0].clone(), GRADIENTS[1].clone()
    with analysis.record_steps(optimizer, {"first": one, "second": two}) as recording:
        optimizer.step()
    found = analysis.dynamics(recording)
    assert [found[name].lr.tolist() for name in ("first", "second")] == [[0.1], [0.2]]
    with pytest.raises(dp.ArgumentError, match="names must map to parameters of the optimizer, got 'other'"):
        analysis.record_steps(optimizer, {"other": START})


def test_uninitialized_parameter_raises():
    layer = torch.nn.LazyLinear(2)
    with pytest.raises(dp.ArgumentError, match="parameters must be initialized, got the uninitialized weight"):
        analysis.record_steps(dp.SGD(layer.named_parameters(), lr=0.1))


def test_recording_without_steps_raises():
    with analysis.record_steps(dp.AdamW([START.clone().requires_grad_()])) as recording:
        pass
    with pytest.raises(dp.ArgumentError, match="recording must contain at least one step, got none"):
        analysis.dynamics(recording)
    with pytest.raises(dp.ArgumentError, match="recording must be a recording of record_steps, got None"):
        analysis.dynamics(None)


def test_infinite_change_raises():
    with pytest.raises(dp.ArgumentError, match="changes must be finite, got nan or inf in 0 at step 2"):
        run(dp.SGD, [GRADIENTS[0], torch.full((5,), torch.inf, dtype=torch.float64)], lr=0.1)


def test_unknown_tensor_raises():
    with pytest.raises(dp.ArgumentError, match=r"Unknown tensor '1'\. Known: 0"):
        run(dp.SGD, GRADIENTS[:2], lr=0.1)["1"]
