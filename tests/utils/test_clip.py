"""Gradient clipping against recorded cases and torch, including edge cases."""

import math

import golden_data as golden
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import few, noise, tensor

from dashpot import clip
from dashpot.errors import ArgumentError

CASES = golden.load("clipping")["cases"]


def gradients(case):
    return [tensor(g).reshape(shape) for g, shape in zip(case["grads"], case["shapes"], strict=True)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"max={c['max_norm']}-p={c['norm_type']}")
def test_recorded_case(case):
    """The relative tolerance of 1e-14 allows for one root and one product of float64 numbers."""
    clipped, norm = clip.clip_by_norm(gradients(case), case["max_norm"], float(case["norm_type"]))
    assert norm.item() == pytest.approx(case["total_norm"], rel=1e-14)
    assert [list(g.shape) for g in clipped] == case["shapes"]
    for got, want in zip(clipped, case["clipped"], strict=True):
        torch.testing.assert_close(got.flatten(), tensor(want), rtol=1e-14, atol=0)


def test_all_recorded_cases_are_used():
    assert len(CASES) == 16
    assert {c["norm_type"] for c in CASES} == {1.0, 2.0, "inf"}


@few
@given(st.floats(1e-3, 1e3), st.sampled_from([1.0, 2.0, 3.5, math.inf]), st.integers(0, 5))
def test_equals_torch_in_place_clipping(max_norm, norm_type, seed):
    grads = [noise(3, 2, seed=seed), noise(1, seed=seed + 10), noise(seed=seed + 20)]
    params = [torch.zeros_like(g).requires_grad_() for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type)
    clipped, ours = clip.clip_by_norm(grads, max_norm, norm_type)
    torch.testing.assert_close(ours, norm, rtol=1e-14, atol=0)
    for p, got in zip(params, clipped, strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-14, atol=0)


def test_no_gradients():
    assert clip.total_norm([]).item() == 0.0
    clipped, norm = clip.clip_by_norm([], 1.0)
    assert clipped == []
    assert norm.item() == 0.0


def test_inputs_are_unchanged_and_generators_accepted():
    grads = [torch.full((2,), 3.0), torch.full((1,), 4.0)]
    clipped, _ = clip.clip_by_norm((g for g in grads), 0.1)
    assert len(clipped) == 2
    assert [g.tolist() for g in grads] == [[3.0, 3.0], [4.0]]
    assert len(clip.clip_by_value((g for g in grads), 1.0)) == 2
    assert grads[1].item() == 4.0


def test_small_gradients_are_not_scaled_up():
    grads = [torch.tensor([0.3, 0.4])]
    assert clip.norm_factor(clip.total_norm(grads), 1.0).item() == 1.0
    assert torch.equal(clip.clip_by_norm(grads, 1.0)[0][0], grads[0])


def test_zero_gradients_stay_zero():
    """The constant 1e-6 in the denominator keeps the factor finite."""
    clipped, norm = clip.clip_by_norm([torch.zeros(3)], 1e-3)
    assert norm.item() == 0
    assert torch.equal(clipped[0], torch.zeros(3))


def test_guard_equals_torch():
    """The factor is max_norm/(norm + 1e-6), so a norm of exactly max_norm is reduced by 1e-6."""
    assert clip.norm_factor(tensor(1.0), 1.0).item() == pytest.approx(1 / (1 + 1e-6), rel=1e-15)


def test_infinite_entry_zeroes_finite_ones_and_becomes_nan():
    grads = [torch.tensor([1.0, math.inf]), torch.tensor([-2.0])]
    clipped, norm = clip.clip_by_norm(grads, 1.0)
    assert norm.item() == math.inf
    assert clipped[0][0].item() == 0
    assert math.isnan(clipped[0][1].item())
    assert clipped[1].item() == 0


def test_nan_propagates_to_all_entries():
    clipped, norm = clip.clip_by_norm([torch.tensor([1.0, math.nan]), torch.tensor([2.0])], 1.0)
    assert math.isnan(norm.item())
    assert all(torch.isnan(g).all() for g in clipped)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_error_if_nonfinite_raises(bad):
    with pytest.raises(ArgumentError, match=r"clip_by_norm: the norm of the gradients must be finite, got (inf|nan)"):
        clip.clip_by_norm([torch.tensor([1.0, bad])], 1.0, error_if_nonfinite=True)
    assert clip.clip_by_norm([torch.tensor([1.0])], 1.0, error_if_nonfinite=True)[1].item() == 1.0


def test_gradients_keep_their_dtypes():
    clipped, norm = clip.clip_by_norm([torch.ones(4), torch.ones(4, dtype=torch.bfloat16)], 0.5)
    assert [g.dtype for g in clipped] == [torch.float32, torch.bfloat16]
    assert norm.item() == pytest.approx(math.sqrt(8))


def test_clip_by_value():
    got = clip.clip_by_value([torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0]), torch.tensor(9.0)], 1.0)
    assert got[0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert got[1].item() == 1.0
    extreme = clip.clip_by_value([torch.tensor([math.inf, -math.inf, math.nan])], 2.0)[0]
    assert extreme[:2].tolist() == [2.0, -2.0]
    assert math.isnan(extreme[2].item())


def test_infinite_max_norm_does_not_clip():
    given = [torch.tensor([3.0, math.inf]), torch.tensor([4.0])]
    clipped, norm = clip.clip_by_norm(given, math.inf)
    assert norm.item() == math.inf
    assert all(torch.equal(a, b) for a, b in zip(clipped, given, strict=True))
    with pytest.raises(ArgumentError, match=r"clip_by_value: limit must be a number in \(0, inf\), got inf"):
        clip.clip_by_value(given, math.inf)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, -math.inf, "1", None, True])
def test_invalid_limits_raise(bad):
    with pytest.raises(ArgumentError, match=r"norm_factor: max_norm must be a number in \(0, inf\], got "):
        clip.clip_by_norm([torch.ones(1)], bad)
    with pytest.raises(ArgumentError, match=r"clip_by_value: limit must be a number in \(0, inf\), got "):
        clip.clip_by_value([torch.ones(1)], bad)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, "2", None, True])
def test_invalid_norm_types_raise(bad):
    with pytest.raises(ArgumentError, match=r"total_norm: norm_type must be a positive number or infinity, got "):
        clip.total_norm([torch.ones(1)], bad)
