"""`max_norm=math.inf` measures the gradients' norm and clips nothing."""

import math
from typing import Any

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters

import dashpot as dp
from dashpot.clip import total_norm

METHOD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"nonfinite": "skip"}], ids=str)
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_it_measures_and_clips_nothing(engine, options):
    params, others = parameters(), parameters()
    ours = dp.SGD(params, **METHOD, engine=engine, max_norm=math.inf, **options)
    plain = dp.SGD(others, **METHOD, engine="eager")
    for optimizer, weights in ((ours, params), (plain, others)):
        for index, p in enumerate(weights):
            p.grad = gradient(p, 0, index)
        optimizer.step()
    assert distance(params, others) < 1e-12
    assert ours.last_step == "applied"
    assert ours.last_grad_norm is not None
    assert ours.last_grad_norm.item() == pytest.approx(total_norm(p.grad for p in params if p.grad is not None).item())


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_an_infinite_gradient_goes_through_as_without(engine):
    weights = []
    for options in ({}, {"max_norm": math.inf}):
        p = torch.ones(2, requires_grad=True)
        p.grad = torch.tensor([1.0, math.inf])
        dp.SGD([p], lr=0.5, engine=engine, **options).step()
        weights.append(p.tolist())
    assert weights == [[0.5, -math.inf]] * 2
