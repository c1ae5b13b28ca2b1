"""Random settings, edits and schedules are rejected with a message, or both engines agree on three steps."""

import pytest
import torch
from settings_fuzz import Case, failures

import dashpot as dp

REGRESSIONS = (396, 2145, 4535, 5442, 12357, 14044, 15485, 25970, 35734, 60109, 90998)
"""Seeds of cases that failed in earlier versions."""


def test_random_cases_of_two_methods():
    """Two methods require few kernels; the slow test covers all methods."""
    assert failures(range(150), (dp.AdamW, dp.SGD)) == []


def test_regression_cases():
    assert {seed: Case(seed).outcome() for seed in REGRESSIONS} == dict.fromkeys(REGRESSIONS)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 100_000, 5000))
def test_random_cases_of_all_methods(start):
    assert failures(range(start, start + 5000)) == []


def weights():
    return [torch.ones(3, requires_grad=True), torch.ones((), requires_grad=True)]


def stepped(engine, **options):
    params = weights()
    optimizer = dp.SGD(params, engine=engine, **options)
    for p in params:
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    return params


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum"])
def test_huge_integer_is_abbreviated_in_the_message(name):
    with pytest.raises(dp.ArgumentError, match=rf"^SGD: {name} must be .*, got an integer of 16610 bits\.$"):
        dp.SGD(weights(), **{name: 10**5000})


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("value", [1e39, 1e300, 10**40])
def test_clip_value_beyond_float32_does_not_clip(engine, value):
    assert [p.tolist() for p in stepped(engine, lr=1.0, clip_value=value)] == [[0.5] * 3, 0.5]


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("value", [1e39, 10**40])
def test_lr_beyond_float32_overflows_equally(engine, value):
    assert [p.tolist() for p in stepped(engine, lr=value)] == [[-torch.inf] * 3, -torch.inf]


@pytest.mark.parametrize("cls", [dp.Adam, dp.AdamW])
def test_tensor_flag_is_rejected(cls):
    with pytest.raises(dp.ArgumentError, match=rf"^{cls.__name__}: amsgrad must be one of False, True, got a tensor"):
        cls(weights(), amsgrad=torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("value", ["x", -1, 1.5, None, True, torch.ones(2), 2**60, float("nan"), 10**5000], ids=type)
def test_invalid_step_count_is_rejected(value):
    params = weights()
    optimizer = dp.SGD(params, lr=0.5)
    optimizer.param_groups[0]["steps_done"] = value
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(dp.ArgumentError, match=r"^SGD: steps_done of a parameter group must be an integer in \[0, "):
        optimizer.step()
    assert [p.tolist() for p in params] == [[1.0] * 3, 1.0]


@pytest.mark.parametrize("name", ["initial_lr", "max_lr"])
@pytest.mark.parametrize("value", ["x", None, torch.ones(2), 10**400], ids=type)
def test_invalid_peak_lr_is_rejected(name, value):
    params = weights()
    optimizer = dp.SGD(params, lr=0.5)
    optimizer.param_groups[0][name] = value
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(dp.ArgumentError, match=f"^SGD: {name} must be a number"):
        optimizer.step()


def test_differentiable_step_of_a_leaf_is_rejected():
    with pytest.raises(dp.ArgumentError, match=r"SGD: .* differentiable=True.* got a leaf of shape "):
        stepped("eager", lr=0.5, differentiable=True)
