"""Report and measurements of a verification."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
import torch
from torch import nn
from verify_support import tiny, verify_model

import dashpot as dp
from dashpot.verification.deviation import UlpScale


@pytest.fixture(scope="module")
def measured():
    return verify_model(
        tiny(nn.Linear(4, 4), nn.Linear(4, 4)), dp.AdamW, partial(torch.optim.AdamW, foreach=True), timed_steps=8
    )


def test_report_fits_one_screen(measured):
    lines = repr(measured).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 23  # leaves one line of the screen for the command
    assert lines[0].startswith("dashpot.AdamW agrees with torch.optim.AdamW within ")
    assert "  4 more tensors, at most" in repr(measured)
    assert measured.text() == str(measured)


def test_report_shortens_long_names_and_reasons():
    row = dp.verification.Deviation("layers." * 30 + "weight", (2, 2), 1.0, 1e-7)
    checkpoint = dp.verification.Checkpoint(
        "module." * 9 + "Mine", "torch.optim.Adam", "not applicable", None, "why " * 40
    )
    result = dataclasses.replace(
        verify_model(tiny(), dp.SGD, torch.optim.SGD), tensors=(row,), checkpoints=(checkpoint,)
    )
    assert max(map(len, repr(result).splitlines())) <= 80
    assert "weight" in repr(result)


def test_costs_match_optimizer_state(measured):
    ours, theirs = measured.costs
    assert (ours.name, theirs.name) == ("dashpot.AdamW", "torch.optim.AdamW")
    elements = sum(p.numel() for p in tiny(nn.Linear(4, 4), nn.Linear(4, 4)).parameters())
    assert theirs.state_bytes == 2 * 4 * elements + 8 * 4  # two moments and a step count for each of 8 tensors
    assert all(cost.first_seconds > 0 and cost.late_seconds > 0 and cost.late == 8 for cost in measured.costs)
    assert theirs.step_bytes >= 4 * elements  # temporaries of foreach are as large as the weights


def test_to_dict_is_json_serializable(measured):
    decoded = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert decoded["agrees"] is True
    assert decoded["costs"][1]["step_bytes"] == measured.costs[1].step_bytes
    assert set(decoded) == {field.name for field in dataclasses.fields(measured)}


def test_ulps_refer_to_largest_magnitude_so_far():
    scale = UlpScale({"w": torch.tensor([1.0, 0.25])})
    after = torch.tensor([1e-6, 0.25])
    scale.update({"w": after})
    eps = torch.finfo(torch.float32).eps
    distance = scale.distances({"w": after + torch.tensor([eps, 0.0])}, {"w": after})["w"]
    assert distance.ulps == pytest.approx(1, rel=1e-3)
    assert distance.relative == pytest.approx(eps / 0.25, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ulp_is_distance_to_next_number(dtype):
    start = torch.tensor([1.5, -3.0, 0.1, 100.0], dtype=dtype)
    step = torch.tensor([1, -2, 2.0**-4, 64], dtype=dtype) * torch.finfo(dtype).eps
    assert UlpScale({"w": start}).distances({"w": start + step}, {"w": start})["w"].ulps == 1


def test_matching_infinities_and_nans_are_equal():
    w = torch.tensor([1.0, torch.inf, torch.nan])
    distances = UlpScale({"w": torch.ones(3)}).distances
    assert distances({"w": w}, {"w": w.clone()})["w"] == (0, 0)
    assert distances({"w": w.flip(0)}, {"w": w})["w"].ulps == torch.inf
