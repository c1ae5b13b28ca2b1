"""Gradient norms and clipping inside the step, in both engines."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, values
from engine_support import SGD, explanation, is_compiled, is_equal, run_steps, set_gradients, snapshot  # noqa: F401
from registry import SUBJECTS

import dashpot as dp
from dashpot.clip import total_norm

pytestmark = pytest.mark.needs_compiler


DOUBLE = 1e-12  # in float64; torch sums the norm in a different order


ENGINES = ("eager", "compiled")


NAMED = {subject.name: subject for subject in SUBJECTS}


engines = pytest.mark.parametrize("engine", ENGINES)


def mixed():
    """Return dense tensors for kernels, and a tensor that is not dense and is stepped eagerly."""
    gapped = torch.randn(4, 2, dtype=torch.float64)[:, 0].requires_grad_()
    return [*parameters(shapes=((3, 2), (40000,), (), (0, 2))), gapped, *parameters(torch.complex128, ((3,),), seed=5)]


def grouped(params, **how):
    groups = [{"params": params[:2]}, {"params": params[2:4], "maximize": True}, {"params": params[4:], "lr": 0.3}]
    return dp.SGD(groups, **SGD, **how)


@engines
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6])
def test_max_norm_matches_clip_grad_norm(engine, max_norm):
    params = mixed()
    others = [p.detach().clone(memory_format=torch.preserve_format).requires_grad_() for p in params]
    ours, theirs = grouped(params, engine=engine, max_norm=max_norm), grouped(others, engine="eager")
    for step in range(5):
        set_gradients(params, step)
        set_gradients(others, step)
        before = [p.grad.clone() for p in params]
        ours.step()
        norm = torch.nn.utils.clip_grad_norm_(others, max_norm)
        theirs.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))
        assert ours.last_grad_norm.item() == pytest.approx(norm.item(), rel=DOUBLE)
        assert ours.last_grad_norm.dim() == 0
        assert ours.last_step == ("clipped" if max_norm < norm else "applied")
    assert distance(params, values(others)) < DOUBLE
    assert ("compiled," in explanation(ours)) is (engine == "compiled")


@engines
def test_clip_value_matches_clip_grad_value(engine):
    params = mixed()[:-1]
    others = [p.detach().clone().requires_grad_() for p in params]
    ours, theirs = grouped(params, engine=engine, clip_value=0.3), grouped(others, engine="eager")
    for step in range(5):
        set_gradients(params, step)
        set_gradients(others, step)
        ours.step()
        torch.nn.utils.clip_grad_value_(others, 0.3)
        theirs.step()
    assert distance(params, values(others)) < DOUBLE
    assert ours.last_grad_norm is None  # clipping by value does not measure the norm


@engines
def test_max_norm_applies_before_clip_value(engine):
    params = parameters()
    others = [p.detach().clone().requires_grad_() for p in params]
    ours = dp.AdamW(params, engine=engine, max_norm=1.0, clip_value=0.3)
    theirs = dp.AdamW(others, engine="eager")
    for step in range(5):
        set_gradients(params, step)
        set_gradients(others, step)
        ours.step()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        torch.nn.utils.clip_grad_value_(others, 0.3)
        theirs.step()
    assert distance(params, values(others)) < DOUBLE


def numpy_agc(weights, grads, momenta, share, lr, pole):
    """Step with adaptive clipping and a heavy ball, as in Brock et al. but with the whole tensor as one unit."""
    for w, g, m in zip(weights, grads, momenta, strict=True):
        allowed = share * max(np.sqrt((w * w).sum()), 1e-3)
        norm = max(np.sqrt((g * g).sum()), 1e-6)
        m[...] = pole * m + (g * (allowed / norm) if norm > allowed else g)
        w[...] = w - lr * m


@engines
def test_adaptive_clip_matches_paper(engine):
    params = parameters(shapes=((3, 2), (40,), (), (70000,)))
    with torch.no_grad():
        params[1].zero_()  # a layer initialized to zero must be updated
    weights = [p.detach().numpy().copy() for p in params]
    momenta = [np.zeros_like(w) for w in weights]
    optimizer = dp.SGD(params, lr=0.1, momentum=0.9, engine=engine, adaptive_clip=0.05)
    for step in range(6):
        set_gradients(params, step)
        grads = [np.asarray(p.grad.numpy() * 10.0 ** (-step)) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(g)
        numpy_agc(weights, grads, momenta, 0.05, 0.1, 0.9)
        optimizer.step()
    assert distance(params, [torch.from_numpy(np.asarray(w)) for w in weights]) < DOUBLE
    assert "AdaptiveClip(share=0.05)" in repr(optimizer)


@engines
def test_norm_of_bfloat16_gradients_accumulates_in_float32(engine):
    """In bfloat16, a sum of equal squares stops growing at 256 terms."""
    p = torch.zeros(4096, dtype=torch.bfloat16, requires_grad=True)
    optimizer = dp.SGD([p], lr=1.0, engine=engine, max_norm=1.0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.last_grad_norm.item() == pytest.approx(64.0, rel=1e-6)  # float32: torch sums pairwise
    assert optimizer.last_grad_norm.dtype in (torch.float32, torch.float64)
    assert p.unique().tolist() == [-1 / 64]


@engines
def test_norm_of_float16_gradients_does_not_overflow(engine):
    p = torch.zeros(300, dtype=torch.float16, requires_grad=True)
    optimizer = dp.SGD([p], lr=1.0, engine=engine, max_norm=1.0)
    p.grad = torch.full_like(p, 6e4)
    optimizer.step()
    assert optimizer.last_grad_norm.item() == pytest.approx(60000 * 300**0.5, rel=1e-3)  # 6e4 in float16 is 59968
    assert torch.isfinite(p).all()


def test_step_without_gradients_is_applied():
    optimizer = dp.SGD(parameters(), **SGD, engine="compiled", max_norm=1.0, nonfinite="raise")
    optimizer.step()
    assert optimizer.last_step == "applied"
    assert optimizer.steps_done() == 0


def test_last_step_and_norm_are_none_before_first_step():
    optimizer = dp.SGD(parameters(), **SGD, max_norm=1.0)
    assert optimizer.last_step is None
    assert optimizer.last_grad_norm is None


def test_engines_agree_with_all_clipping_options():
    pairs = []
    for engine in ENGINES:
        params = parameters()
        options = {"max_norm": 0.5, "clip_value": 0.2, "adaptive_clip": 0.1, "nonfinite": "skip"}
        pairs.append((params, NAMED["adamw-decay"].make(params, engine=engine, **options)))
    run_steps(pairs, range(10))
    assert distance(pairs[1][0], values(pairs[0][0])) < DOUBLE
    assert is_compiled(pairs[1][1])


METHOD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"nonfinite": "skip"}], ids=str)
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_infinite_max_norm_only_measures(engine, options):
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
def test_infinite_max_norm_keeps_infinite_gradient(engine):
    weights = []
    for options in ({}, {"max_norm": math.inf}):
        p = torch.ones(2, requires_grad=True)
        p.grad = torch.tensor([1.0, math.inf])
        dp.SGD([p], lr=0.5, engine=engine, **options).step()
        weights.append(p.tolist())
    assert weights == [[0.5, -math.inf]] * 2
