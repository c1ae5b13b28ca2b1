"""Gradients with NaN or infinity, and `torch.amp.GradScaler`, in both engines."""

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, values
from engine_support import SGD, explanation, is_compiled, is_equal, run_steps, set_gradients, snapshot  # noqa: F401

import dashpot as dp

pytestmark = pytest.mark.needs_compiler


DOUBLE = 1e-12  # in float64; torch sums the norm in a different order


ENGINES = ("eager", "compiled")


BAD = (float("nan"), float("inf"), -float("inf"))


engines = pytest.mark.parametrize("engine", ENGINES)


def mixed():
    """Return dense tensors for kernels, and a tensor that is not dense and is stepped eagerly."""
    gapped = torch.randn(4, 2, dtype=torch.float64)[:, 0].requires_grad_()
    return [*parameters(shapes=((3, 2), (40000,), (), (0, 2))), gapped, *parameters(torch.complex128, ((3,),), seed=5)]


def grouped(params, **how):
    groups = [{"params": params[:2]}, {"params": params[2:4], "maximize": True}, {"params": params[4:], "lr": 0.3}]
    return dp.SGD(groups, **SGD, **how)


def scheduled(params, **how):
    return dp.AdamW(params, weight_decay=0.1, schedule=dp.schedules.Cosine(20), **how)


def spoil(params, index, value):
    params[index].grad.view(-1)[0] = value


@pytest.mark.diagonal
@engines
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("index", [0, 2, 3])
@pytest.mark.parametrize("how", ["skip", "raise"])
def test_skip_and_raise_leave_everything_unchanged(engine, value, index, how):
    """Later steps equal those of a run without the skipped step."""
    ran = []
    for bad_at in (None, 0, 3):
        params = mixed()[:2] + mixed()[4:]
        with torch.no_grad():
            for i, p in enumerate(params):
                p.copy_(gradient(p, 999, i))
        optimizer = scheduled(params, engine=engine, nonfinite=how)
        for step in range(6):
            set_gradients(params, step)
            if step == bad_at:
                before = snapshot(params, optimizer), len(optimizer.state), optimizer.steps_done()
                spoil(params, index, value)
                if how == "skip":
                    optimizer.step()
                    assert optimizer.last_step == "skipped"
                else:
                    with pytest.raises(dp.NonFiniteError, match="nothing was changed"):
                        optimizer.step()
                assert is_equal((snapshot(params, optimizer), len(optimizer.state), optimizer.steps_done()), before)
                set_gradients(params, step)
            optimizer.step()
            assert optimizer.last_step == "applied"
        ran.append(snapshot(params, optimizer))
    assert is_equal(ran[0], ran[1])
    assert is_equal(ran[0], ran[2])


@engines
def test_allow_matches_torch(engine):
    params = parameters()
    optimizer = dp.SGD(params, **SGD, engine=engine)
    set_gradients(params, 0)
    spoil(params, 1, float("nan"))
    optimizer.step()
    assert optimizer.last_step == "applied"
    assert torch.isnan(params[1]).tolist() == [True, False, False, False]
    assert torch.isfinite(params[0]).all()


@engines
def test_max_norm_with_infinite_gradient_matches_torch(engine):
    params, others = parameters(), parameters()
    ours = dp.SGD(params, **SGD, engine=engine, max_norm=1.0)
    theirs = dp.SGD(others, **SGD, engine="eager")
    set_gradients(params, 0)
    set_gradients(others, 0)
    spoil(params, 1, float("inf"))
    spoil(others, 1, float("inf"))
    ours.step()
    torch.nn.utils.clip_grad_norm_(others, 1.0)
    theirs.step()
    for p, q in zip(params, others, strict=True):
        assert torch.allclose(p, q, rtol=0, atol=DOUBLE, equal_nan=True)
    assert ours.last_grad_norm.item() == float("inf")


@engines
def test_error_names_parameters(engine):
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
def test_error_without_names_gives_index_and_shape(engine):
    params = parameters()
    optimizer = dp.AdamW(params, engine=engine, nonfinite="raise")
    set_gradients(params, 0, missing=lambda step, index: index == 0)
    spoil(params, 1, float("nan"))
    with pytest.raises(dp.NonFiniteError, match=r"parameter 1 of shape \(4,\) \(1 nan of 4\)"):
        optimizer.step()


def test_overflowing_norm_of_finite_gradients_is_not_skipped():
    """All elements are finite, but the sum of their squares is not."""
    for engine in ENGINES:
        p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = dp.SGD([p], lr=1e-200, engine=engine, nonfinite="skip")
        p.grad = torch.full_like(p, 1e200)
        optimizer.step()
        assert optimizer.last_step == "applied"
        assert p.tolist() == [-1.0] * 4


@engines
def test_nan_in_one_group_skips_all_groups(engine):
    params = mixed()
    optimizer = grouped(params, engine=engine, nonfinite="skip")
    run_steps([(params, optimizer)], range(2))
    before = snapshot(params, optimizer)
    set_gradients(params, 2)
    spoil(params, 5, complex(0, float("nan")))
    optimizer.step()
    assert optimizer.last_step == "skipped"
    assert is_equal(snapshot(params, optimizer), before)


@engines
@pytest.mark.parametrize("unscale", [False, True], ids=["scaled gradients", "unscaled by hand"])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_grad_scaler_matches_unscaled_steps(engine, unscale, max_norm):
    """Steps with a scaled loss equal steps without a scaler. Steps with an infinite gradient are skipped."""
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
            assert is_equal((snapshot(params, ours), len(ours.state)), before)
        if not unscale:
            assert all(torch.equal(p.grad, g) or factor != 1.0 for p, g in zip(params, kept, strict=True))
    assert skipped == 2
    assert ours.steps_done() == theirs.steps_done() == 6
    assert scaler.get_scale() == 1024 / 2 * 2 / 2 * 2  # halved at steps 0 and 4, doubled after every two finite steps
    assert distance(params, values(others)) < 2e-6  # in float32; the unscaled gradient is exact, but the norm is not


@engines
def test_last_step_is_skipped_after_scaler_finds_nan(engine):
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine=engine)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(sum((p * float("nan")).sum() for p in params)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.last_step == "skipped"
    assert not optimizer.state
    assert not hasattr(optimizer, "found_inf")
