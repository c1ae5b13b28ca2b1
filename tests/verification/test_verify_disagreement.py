"""`dashpot.verify` with different optimizers: detection, location and explanation of deviations."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from verify_support import Forgetful, Refusing, quick, tiny, verify_model

import dashpot as dp


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"lr": 2e-3}, ("lr 0.002 and 0.001",)),
        pytest.param({"eps": 1e-3}, ("eps 0.001 and 1e-08",), marks=pytest.mark.slow),
        pytest.param({"weight_decay": 0.02}, ("weight_decay 0.02 and 0.01",), marks=pytest.mark.slow),
        ({"betas": (0.9, 0.99)}, ("betas (0.9, 0.99) and (0.9, 0.999)",)),
    ],
)
def test_different_setting_is_reported(options, settings):
    result = verify_model(tiny(), partial(dp.AdamW, **options), torch.optim.AdamW)
    assert not result.agrees
    assert not result
    assert result.settings == settings
    assert result.first.step <= 2
    assert result.first.ulps > result.first.allowed == pytest.approx(16 * result.first.step**0.5)
    assert f"after step {result.first.step}, {result.first.name} differs by" in result.verdict
    assert "In float64 they differ as well" in result.verdict


def test_small_difference_deviates_only_in_float64():
    ours = partial(dp.AdamW, lr=1e-3 * (1 + 1e-9))
    assert verify_model(tiny(), ours, torch.optim.AdamW)
    result = verify_model(tiny(), ours, torch.optim.AdamW, dtype=torch.float64)
    assert not result
    assert "In float64" not in result.verdict


def test_rounding_is_distinguished_from_different_method():
    result = verify_model(tiny(), partial(dp.Adam, state_dtype=torch.bfloat16), torch.optim.Adam)
    assert not result
    assert "In float64 they agree within" in result.verdict


def test_tolerance_defaults_to_random_walk():
    loose = verify_model(tiny(), partial(dp.SGD, lr=0.0101), partial(torch.optim.SGD, lr=0.01), tolerance=1e9)
    assert (loose.agrees, loose.tolerance) == (True, 1e9)
    strict = verify_model(tiny(), dp.Adam, torch.optim.Adam, tolerance=0)
    assert not strict
    assert verify_model(tiny(), dp.SGD, torch.optim.SGD, steps=4).tolerance == 32


def test_faulty_checkpoint_deviates():
    result = verify_model(tiny(), Forgetful, torch.optim.Adam)
    assert result.first is None
    assert not result.agrees
    assert [checkpoint.outcome for checkpoint in result.checkpoints] == ["deviates", "agrees", "deviates"]
    assert (
        "torch.optim.Adam resumed from a checkpoint of verify_support.Forgetful does not reproduce its run"
        in result.verdict
    )


def test_rejected_state_is_not_applicable_except_own():
    result = verify_model(tiny(), Refusing, torch.optim.Adam)
    assert [checkpoint.outcome for checkpoint in result.checkpoints] == ["agrees", "not applicable", "fails"]
    assert result.checkpoints[1].reason == "ValueError: unsupported state"
    assert not result.agrees


def test_state_that_fails_in_step_is_not_applicable():
    result = verify_model(tiny(), torch.optim.SGD, partial(torch.optim.Adam, lr=1e-3))
    by_target = {checkpoint.target: checkpoint for checkpoint in result.checkpoints}
    assert by_target["torch.optim.Adam"].outcome == "not applicable"
    assert "KeyError" in by_target["torch.optim.Adam"].reason


def test_small_movement_is_reported():
    """In bfloat16, six steps move the first tensor by 15 ulps, which hides a doubled learning rate."""
    start, (slow, fast) = [torch.ones(1), torch.ones(1)], [partial(dp.SGD, lr=lr) for lr in (0.01, 0.02)]
    result = quick(slow, fast, lambda a, b: a.sum() + b.sum() / 1024, params=start, dtype=torch.bfloat16)
    assert result.agrees
    assert "1 of 2 tensors moved by less than the tolerance" in result.verdict
    same = quick(slow, slow, lambda a: a.sum(), params=start[:1], dtype=torch.bfloat16)
    assert "moved by less" not in same.verdict


def diverging(w: torch.Tensor) -> torch.Tensor:
    return (w**4).sum()


def test_divergence_of_both_agrees_with_warning():
    result = quick(dp.SGD, torch.optim.SGD, diverging, params=torch.tensor([40.0]), steps=20)
    assert result.agrees
    assert 1 < result.compared < 20
    assert f"After step {result.compared + 1} the weights of dashpot.SGD and torch.optim.SGD are no" in result.verdict
    assert all(math.isfinite(row.ulps) for row in result.tensors)


def test_divergence_of_one_disagrees():
    result = quick(partial(dp.SGD, nonfinite="skip"), torch.optim.SGD, diverging, params=torch.tensor([40.0]), steps=20)
    assert not result.agrees
    assert result.first.ulps == math.inf
    assert "the weights of torch.optim.SGD are no longer finite" in result.verdict
    json.dumps(result.to_dict(), allow_nan=False)


def test_divergence_in_first_step_raises():
    with pytest.raises(dp.ArgumentError, match="must be finite after the first step"):
        quick(dp.SGD, torch.optim.SGD, lambda w: w.sum() * math.nan, params=torch.ones(2))


def user_model() -> nn.Module:
    return tiny()


MODEL = user_model()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((dp.AdamW(MODEL.parameters()), dp.AdamW, MODEL), {}, "make_optimizer must be a function from parameters"),
        ((dp.AdamW, lambda params: None, MODEL), {}, "make_reference must return an optimizer, got NoneType"),
        ((dp.AdamW, lambda _: dp.AdamW(MODEL.parameters()), MODEL), {}, "must use the parameters passed to it"),
        ((dp.AdamW, dp.AdamW, 3), {}, "model_or_loss must be a torch.nn.Module"),
        ((dp.AdamW, dp.AdamW, MODEL), {"steps": 1}, r"steps must be an integer in \[2, inf\), got 1"),
        ((dp.AdamW, dp.AdamW, MODEL), {"steps": [torch.ones(3)]}, "got list; give batches by keyword"),
        ((dp.AdamW, dp.AdamW, MODEL), {"tolerance": -1}, "tolerance must be None or a number"),
        ((dp.AdamW, dp.AdamW, MODEL), {"dtype": torch.int64}, "dtype must be one of"),
        ((dp.AdamW, dp.AdamW, MODEL), {"takes": "groups"}, "takes must be one of"),
        ((dp.AdamW, dp.AdamW, MODEL), {"timed_steps": -1}, "timed_steps must be"),
        (
            (dp.AdamW, dp.AdamW, MODEL),
            {"batches": None},
            "must be pairs \\(input, target\\) if loss is given, got None",
        ),
        ((dp.AdamW, dp.AdamW, MODEL), {"batches": []}, "at least one batch"),
        ((dp.AdamW, dp.AdamW, MODEL), {"batches": torch.ones(3)}, "a list of batches or a DataLoader, got Tensor"),
        (
            (dp.AdamW, dp.AdamW, MODEL),
            {"batches": [torch.ones(8, 3)]},
            "must be a pair \\(input, target\\), got Tensor",
        ),
        ((dp.AdamW, dp.AdamW, MODEL), {"loss": None, "batches": [torch.ones(8, 3)]}, "one element, got shape"),
        (
            (dp.AdamW, dp.AdamW, MODEL),
            {"loss": lambda output, y: y.sum()},
            "must depend on the model's parameters",
        ),
        ((dp.AdamW, dp.AdamW, MODEL), {"params": [torch.ones(1)]}, "params must be None for a module, got list"),
        ((dp.AdamW, dp.AdamW, abs), {"loss": None}, "batches must be None for a function of tensors"),
        (
            (dp.AdamW, dp.AdamW, abs),
            {"loss": None, "batches": None},
            "params must be the initial tensors of the function, got None",
        ),
        ((dp.AdamW, dp.AdamW, nn.LazyLinear(2)), {}, "the model must be initialized, got uninitialized weight"),
        ((dp.AdamW, dp.AdamW, nn.Linear(3, 2).requires_grad_(False)), {}, "parameter that requires a gradient"),
        (
            (partial(dp.SGD, lr=0.0), partial(dp.SGD, lr=0.0), MODEL),
            {},
            "at least one weight must move, got no change in 6 steps",
        ),
    ],
)
def test_invalid_argument_raises_one_line_message(arguments, options, message):
    with pytest.raises(dp.ArgumentError, match=message) as caught:
        verify_model(arguments[2], *arguments[:2], **options)
    assert str(caught.value).startswith("verify: ")
    assert "\n" not in str(caught.value)


def test_dtype_with_complex_model_raises():
    start = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(dp.ArgumentError, match="dtype must be None for models with complex parameters"):
        quick(dp.SGD, dp.SGD, lambda w: w.abs().sum(), params=start, dtype=torch.float64)


def test_uncopyable_model_or_batch_raises():
    model = tiny()
    batch = (torch.ones(8, 3, requires_grad=True) * 1, torch.ones(8, 2))
    with pytest.raises(dp.ArgumentError, match="a batch cannot be copied"):
        verify_model(model, dp.SGD, dp.SGD, batches=[batch])
    model.cache = model[0].weight * 2
    with pytest.raises(dp.ArgumentError, match="the model cannot be copied"):
        verify_model(model, dp.SGD, dp.SGD)
