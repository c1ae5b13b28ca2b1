"""Clipping inside the step, steps that are skipped or refused, and torch's GradScaler: the same in both engines."""

import numpy as np
import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, values
from engine_support import SGD, fates, feed, is_compiled, march, same, shared_cache, snapshot  # noqa: F401
from registry import SUBJECTS

import dashpot as dp

pytestmark = pytest.mark.needs_compiler

DOUBLE = 1e-12  # float64: the norm is a sum in another order than torch's
ENGINES = ("eager", "compiled")
NAMED = {subject.name: subject for subject in SUBJECTS}
BAD = (float("nan"), float("inf"), -float("inf"))

engines = pytest.mark.parametrize("engine", ENGINES)


def mixed():
    """Tensors that kernels take beside one that they leave to the eager engine (its elements have gaps)."""
    gapped = torch.randn(4, 2, dtype=torch.float64)[:, 0].requires_grad_()
    return [*parameters(shapes=((3, 2), (40000,), (), (0, 2))), gapped, *parameters(torch.complex128, ((3,),), seed=5)]


def grouped(params, **how):
    groups = [{"params": params[:2]}, {"params": params[2:4], "maximize": True}, {"params": params[4:], "lr": 0.3}]
    return dp.SGD(groups, **SGD, **how)


# ---- clipping -------------------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6])
def test_max_norm_is_clip_grad_norm_and_a_step(engine, max_norm):
    params = mixed()
    others = [p.detach().clone(memory_format=torch.preserve_format).requires_grad_() for p in params]
    ours, theirs = grouped(params, engine=engine, max_norm=max_norm), grouped(others, engine="eager")
    for step in range(5):
        feed(params, step)
        feed(others, step)
        before = [p.grad.clone() for p in params]
        ours.step()
        norm = torch.nn.utils.clip_grad_norm_(others, max_norm)
        theirs.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))
        assert ours.last_grad_norm.item() == pytest.approx(norm.item(), rel=DOUBLE)
        assert ours.last_grad_norm.dim() == 0
        assert ours.last_step == ("clipped" if max_norm < norm else "applied")
    assert distance(params, values(others)) < DOUBLE
    assert ("compiled," in fates(ours)) is (engine == "compiled")


@engines
def test_clip_value_is_clip_grad_value_and_a_step(engine):
    params = mixed()[:-1]
    others = [p.detach().clone().requires_grad_() for p in params]
    ours, theirs = grouped(params, engine=engine, clip_value=0.3), grouped(others, engine="eager")
    for step in range(5):
        feed(params, step)
        feed(others, step)
        ours.step()
        torch.nn.utils.clip_grad_value_(others, 0.3)
        theirs.step()
    assert distance(params, values(others)) < DOUBLE
    assert ours.last_grad_norm is None  # nobody asked


@engines
def test_both_clips_the_norm_first(engine):
    params = parameters()
    others = [p.detach().clone().requires_grad_() for p in params]
    ours = dp.AdamW(params, engine=engine, max_norm=1.0, clip_value=0.3)
    theirs = dp.AdamW(others, engine="eager")
    for step in range(5):
        feed(params, step)
        feed(others, step)
        ours.step()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        torch.nn.utils.clip_grad_value_(others, 0.3)
        theirs.step()
    assert distance(params, values(others)) < DOUBLE


def numpy_agc(weights, grads, momenta, share, lr, pole):
    """Adaptive clipping and the heavy ball, written out: Brock et al. with the whole tensor for a unit."""
    for w, g, m in zip(weights, grads, momenta, strict=True):
        allowed = share * max(np.sqrt((w * w).sum()), 1e-3)
        norm = max(np.sqrt((g * g).sum()), 1e-6)
        m[...] = pole * m + (g * (allowed / norm) if norm > allowed else g)
        w[...] = w - lr * m


@engines
def test_adaptive_clip_is_that_of_the_paper(engine):
    params = parameters(shapes=((3, 2), (40,), (), (70000,)))
    with torch.no_grad():
        params[1].zero_()  # a fresh layer of zeros can move
    weights = [p.detach().numpy().copy() for p in params]
    momenta = [np.zeros_like(w) for w in weights]
    optimizer = dp.SGD(params, lr=0.1, momentum=0.9, engine=engine, adaptive_clip=0.05)
    for step in range(6):
        feed(params, step)
        grads = [np.asarray(p.grad.numpy() * 10.0 ** (-step)) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(g)
        numpy_agc(weights, grads, momenta, 0.05, 0.1, 0.9)
        optimizer.step()
    assert distance(params, [torch.from_numpy(np.asarray(w)) for w in weights]) < DOUBLE
    assert "AdaptiveClip(share=0.05)" in repr(optimizer)


@engines
def test_the_norm_of_bfloat16_gradients_is_measured_in_float32(engine):
    """In bfloat16 a sum of equal squares stops growing at 256 of them."""
    p = torch.zeros(4096, dtype=torch.bfloat16, requires_grad=True)
    optimizer = dp.SGD([p], lr=1.0, engine=engine, max_norm=1.0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.last_grad_norm.item() == pytest.approx(64.0, rel=1e-6)  # float32: torch sums pairwise
    assert optimizer.last_grad_norm.dtype in (torch.float32, torch.float64)
    assert p.unique().tolist() == [-1 / 64]


@engines
def test_the_norm_of_float16_gradients_does_not_overflow(engine):
    p = torch.zeros(300, dtype=torch.float16, requires_grad=True)
    optimizer = dp.SGD([p], lr=1.0, engine=engine, max_norm=1.0)
    p.grad = torch.full_like(p, 6e4)
    optimizer.step()
    assert optimizer.last_grad_norm.item() == pytest.approx(60000 * 300**0.5, rel=1e-3)  # 6e4 in float16 is 59968
    assert torch.isfinite(p).all()


def test_no_gradients_at_all():
    optimizer = dp.SGD(parameters(), **SGD, engine="compiled", max_norm=1.0, nonfinite="raise")
    optimizer.step()
    assert optimizer.last_step == "applied"
    assert optimizer.steps_done() == 0


def test_before_the_first_step_nothing_is_said():
    optimizer = dp.SGD(parameters(), **SGD, max_norm=1.0)
    assert optimizer.last_step is None
    assert optimizer.last_grad_norm is None


# ---- gradients that are not finite ----------------------------------------------------------------------------------


def scheduled(params, **how):
    return dp.AdamW(params, weight_decay=0.1, schedule=dp.schedules.Cosine(20), **how)


def spoil(params, index, value):
    params[index].grad.view(-1)[0] = value


@engines
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("index", [0, 2, 3])
@pytest.mark.parametrize("how", ["skip", "raise"])
def test_a_bad_step_leaves_everything_as_it_was(engine, value, index, how):
    """The steps after it go on as if it had not been."""
    ran = []
    for bad_at in (None, 0, 3):
        params = mixed()[:2] + mixed()[4:]
        with torch.no_grad():
            for i, p in enumerate(params):
                p.copy_(gradient(p, 999, i))
        optimizer = scheduled(params, engine=engine, nonfinite=how)
        for step in range(6):
            feed(params, step)
            if step == bad_at:
                before = snapshot(params, optimizer), len(optimizer.state), optimizer.steps_done()
                spoil(params, index, value)
                if how == "skip":
                    optimizer.step()
                    assert optimizer.last_step == "skipped"
                else:
                    with pytest.raises(dp.NonFiniteError, match="nothing was changed"):
                        optimizer.step()
                assert same((snapshot(params, optimizer), len(optimizer.state), optimizer.steps_done()), before)
                feed(params, step)
            optimizer.step()
            assert optimizer.last_step == "applied"
        ran.append(snapshot(params, optimizer))
    assert same(ran[0], ran[1])
    assert same(ran[0], ran[2])


@engines
def test_allow_is_torchs_way(engine):
    params = parameters()
    optimizer = dp.SGD(params, **SGD, engine=engine)
    feed(params, 0)
    spoil(params, 1, float("nan"))
    optimizer.step()
    assert optimizer.last_step == "applied"
    assert torch.isnan(params[1]).tolist() == [True, False, False, False]
    assert torch.isfinite(params[0]).all()


@engines
def test_max_norm_alone_does_with_an_infinite_gradient_what_torch_does(engine):
    params, others = parameters(), parameters()
    ours = dp.SGD(params, **SGD, engine=engine, max_norm=1.0)
    theirs = dp.SGD(others, **SGD, engine="eager")
    feed(params, 0)
    feed(others, 0)
    spoil(params, 1, float("inf"))
    spoil(others, 1, float("inf"))
    ours.step()
    torch.nn.utils.clip_grad_norm_(others, 1.0)
    theirs.step()
    for p, q in zip(params, others, strict=True):
        assert torch.allclose(p, q, rtol=0, atol=DOUBLE, equal_nan=True)
    assert ours.last_grad_norm.item() == float("inf")


@engines
def test_the_error_names_the_parameters(engine):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).double()
    optimizer = dp.AdamW(model.named_parameters(), engine=engine, nonfinite="raise")
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    model[0].weight.grad[0, 1] = float("nan")
    model[1].bias.grad[0] = float("inf")
    with pytest.raises(dp.NonFiniteError) as caught:
        optimizer.step()
    assert "parameter 0.weight (1 nan of 6), parameter 1.bias (1 infinite of 1)" in str(caught.value)
    assert "0.bias" not in str(caught.value)
    assert not optimizer.state


@engines
def test_without_names_the_error_says_place_and_shape(engine):
    params = parameters()
    optimizer = dp.AdamW(params, engine=engine, nonfinite="raise")
    feed(params, 0, missing=lambda step, index: index == 0)
    spoil(params, 1, float("nan"))
    with pytest.raises(dp.NonFiniteError, match=r"parameter 1 of shape \(4,\) \(1 nan of 4\)"):
        optimizer.step()


def test_a_finite_norm_that_overflows_is_no_reason_to_skip():
    """Every element is finite; the sum of their squares is not."""
    for engine in ENGINES:
        p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = dp.SGD([p], lr=1e-200, engine=engine, nonfinite="skip")
        p.grad = torch.full_like(p, 1e200)
        optimizer.step()
        assert optimizer.last_step == "applied"
        assert p.tolist() == [-1.0] * 4


@engines
def test_a_skipped_step_moves_no_tensor_schedule_of_another_group(engine):
    params = mixed()
    optimizer = grouped(params, engine=engine, nonfinite="skip")
    march([(params, optimizer)], range(2))
    before = snapshot(params, optimizer)
    feed(params, 2)
    spoil(params, 5, complex(0, float("nan")))
    optimizer.step()
    assert optimizer.last_step == "skipped"
    assert same(snapshot(params, optimizer), before)


# ---- GradScaler -----------------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("unscale", [False, True], ids=["scaled gradients", "unscaled by hand"])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_grad_scaler(engine, unscale, max_norm):
    """Steps with a scaled loss are those without a scaler; one with an infinite gradient is left out."""
    params, others = parameters(torch.float32), parameters(torch.float32)
    ours = dp.AdamW(params, lr=0.1, engine=engine, max_norm=max_norm)
    theirs = dp.AdamW(others, lr=0.1, engine="eager", max_norm=max_norm)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    skipped = 0
    for step in range(8):
        for p, q in zip(params, others, strict=True):
            p.grad = q.grad = None
        target = [gradient(p, step, index) for index, p in enumerate(params)]
        factor = float("inf") if step in (0, 4) else 1.0
        loss = sum((p * t).sum() for p, t in zip(params, target, strict=True)) * factor
        before = snapshot(params, ours), len(ours.state)
        scaler.scale(loss).backward()
        kept = [p.grad.clone() for p in params]
        if unscale:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
        if factor == 1.0:
            assert ours.last_step == ("applied" if max_norm is None else "clipped")
            sum((q * t).sum() for q, t in zip(others, target, strict=True)).backward()
            theirs.step()
            if max_norm is not None:
                assert ours.last_grad_norm.item() == pytest.approx(theirs.last_grad_norm.item(), rel=1e-6)
        else:
            skipped += 1
            assert same((snapshot(params, ours), len(ours.state)), before)
        if not unscale:
            assert all(torch.equal(p.grad, g) or factor != 1.0 for p, g in zip(params, kept, strict=True))
    assert skipped == 2
    assert ours.steps_done() == theirs.steps_done() == 6
    assert scaler.get_scale() == 1024 / 2 * 2 / 2 * 2  # halved at 0 and 4, doubled after two good steps each
    assert distance(params, values(others)) < 2e-6  # float32: the unscaled gradient is exact, the norm is not


@engines
def test_what_the_scaler_found_is_visible_in_last_step(engine):
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine=engine)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(sum((p * float("nan")).sum() for p in params)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.last_step == "skipped"
    assert not optimizer.state
    assert not hasattr(optimizer, "found_inf")


# ---- options --------------------------------------------------------------------------------------------------------


def test_both_engines_with_all_clips_at_once():
    pairs = []
    for engine in ENGINES:
        params = parameters()
        options = {"max_norm": 0.5, "clip_value": 0.2, "adaptive_clip": 0.1, "nonfinite": "skip"}
        pairs.append((params, NAMED["adamw-decay"].make(params, engine=engine, **options)))
    march(pairs, range(10))
    assert distance(pairs[1][0], values(pairs[0][0])) < DOUBLE
    assert is_compiled(pairs[1][1])
