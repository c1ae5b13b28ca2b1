"""Faults that a review found, each with the test that would have found it."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dashpot as dp
from dashpot.curvature.probes import scaled_probes

PLAIN = {"betas": (0.0, 0.0), "lr": 0.01}


def weights(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def diagonal(optimizer, p):
    """What AdaHessian took for the Hessian's diagonal, betas (0, 0): its absolute value."""
    return optimizer.state[p]["hess_sq"].sqrt()


@pytest.mark.parametrize("probe", ["auto", "forward"])
def test_reentrant_checkpointing_hides_parameters_and_is_refused_or_left_to_differences(probe):
    layer = nn.Linear(3, 3, dtype=torch.float64)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    opt = dp.AdaHessian(layer.parameters(), **PLAIN, probe=probe)

    def closure():
        opt.zero_grad()
        loss = checkpoint(lambda z: torch.tanh(layer(z)), x, use_reentrant=True).square().mean()
        loss.backward()
        return loss

    if probe == "forward":
        with pytest.raises(dp.CurvatureError, match=r"AdaHessian: .*probe='differences'"):
            opt.step(closure)
        return
    opt.step(closure)
    assert opt.curvature_stats.route == "differences"
    assert "reentrant checkpointing" in str(opt.curvature_stats.reason)
    assert (diagonal(opt, layer.weight) > 0).any()
    with pytest.raises(dp.CurvatureError, match="reentrant checkpointing"):
        opt.backward(checkpoint(lambda z: torch.tanh(layer(z)), x, use_reentrant=True).square().mean())


def test_a_parameter_that_a_product_did_not_reach_stays_in_place():
    a, b = weights([1.0, 2.0], [1.0, 2.0])
    opt = dp.AdaHessian([a, b], **PLAIN, update_d_every=10)
    opt.curvature_step(lambda: (a**4).sum())  # noqa: PLW0108 - evaluated when it is called
    ((a**4).sum() + (b**4).sum()).backward()
    opt.step()
    assert opt.state[a]["products"] == 1
    assert opt.state[b]["products"] == 0
    assert b.tolist() == [1.0, 2.0]
    assert opt.should_create_graph()


@pytest.mark.parametrize("probe", ["auto", "differences"])
def test_buffers_of_a_compiled_model_change_once_a_step(probe):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    compiled = torch.compile(model, backend="eager")
    opt = dp.Sophia(compiled.parameters(), probe=probe, update_d_every=2)
    x = torch.randn(6, 3)

    def closure():
        opt.zero_grad()
        loss = compiled(x).square().mean()
        loss.backward()
        return loss

    counts = []
    for _ in range(4):
        opt.step(closure)
        counts.append(int(model[1].num_batches_tracked))
    assert counts == [1, 2, 3, 4]


@pytest.mark.parametrize("probe", ["closure", "forward", "differences"])
def test_a_closure_may_clip(probe):
    (w,) = weights([3.0, 4.0])
    opt = dp.AdaHessian([w], **PLAIN, probe=probe)

    def closure():
        opt.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        nn.utils.clip_grad_norm_([w], 1.0)
        return loss

    opt.step(closure)
    assert diagonal(opt, w).tolist() == pytest.approx([2.0, 2.0], rel=1e-8)  # differences: ten digits


@pytest.mark.parametrize("probe", ["closure", "forward", "differences"])
def test_what_a_closure_clears_half_way_does_not_count(probe):
    (w,) = weights([1.0, 2.0])
    opt = dp.AdaHessian([w], **PLAIN, probe=probe)

    def closure():
        (5 * (w**2).sum()).backward()
        opt.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    opt.step(closure)
    opt.curvature_step(closure)
    assert diagonal(opt, w).tolist() == pytest.approx([2.0, 2.0], rel=1e-8)
    opt.step(closure)
    assert diagonal(opt, w).tolist() == pytest.approx([2.0, 2.0], rel=1e-8)


def test_cleared_state_asks_for_a_product():
    (w,) = weights([1.0, 2.0])
    opt = dp.AdaHessian([w], **PLAIN, update_d_every=1000)
    for _ in range(3):
        opt.zero_grad()
        opt.backward((w**4).sum())
        opt.step()
    opt.state.clear()
    for _ in range(2):
        opt.zero_grad()
        opt.backward((w**4).sum())
        opt.step()
    assert opt.state[w]["products"] == 1


@pytest.mark.parametrize("probe", ["closure", "forward", "differences"])
def test_a_product_that_is_lazily_conjugated(probe):
    w = torch.tensor([1.0 + 2.0j, 0.5j], dtype=torch.complex128, requires_grad=True)
    opt = dp.ESGD([w], lr=0.1, probe=probe)
    opt.curvature_step(lambda: (w.conj() ** 2).abs().pow(2).sum())
    w.grad = torch.ones_like(w)
    opt.step()
    assert opt.state[w]["products"] == 1
    assert torch.isfinite(torch.view_as_real(w.detach())).all()


def test_probes_of_half_precision_are_not_divided_away():
    v = torch.tensor([1.0, -1.0, 0.37], dtype=torch.float16)
    (small,), rest = scaled_probes([v], 2.0**26)
    assert rest == 2.0**16
    torch.testing.assert_close(small * 1024, v, rtol=0, atol=0)
    (small,), rest = scaled_probes([v.float()], 2.0**26)
    assert rest == 1.0


def test_the_first_group_may_be_empty():
    (w,) = weights([1.0, 2.0])
    opt = dp.ESGD([{"params": []}, {"params": [w]}], d_warmup=1)
    for _ in range(3):
        opt.zero_grad()
        opt.backward((w**4).sum())
        opt.step()
    assert opt.curvature_stats.products == 1


@pytest.mark.parametrize("probe", ["auto", "differences"])
def test_gradients_of_others_keep_their_identity(probe):
    a, b = weights([1.0, 2.0], [3.0, 4.0])
    opt = dp.AdaHessian([a], **PLAIN, probe=probe)
    b.grad = held = torch.full_like(b, 7.0)
    opt.curvature_step(lambda: (a**2 * b).sum())  # noqa: PLW0108
    assert b.grad is held
    assert held.tolist() == [7.0, 7.0]


def test_betas_may_be_learned_through_products():
    beta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def outcome(beta):
        w = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True) * 1.0
        opt = dp.Sophia([w], lr=0.01, betas=(0.9, beta), gamma=1.0, differentiable=True, update_d_every=1,
                        distribution="rademacher", probe=lambda weights, probes: [3.0 * v for v in probes])  # fmt: skip
        for step in range(3):
            w.grad = torch.tensor([1.0, -0.5], dtype=torch.float64) * (0.1 + 0.01 * step)
            opt.step()
        return (w**2).sum()

    (slope,) = torch.autograd.grad(outcome(beta), beta)
    h = 1e-6
    expected = (
        outcome(torch.tensor(0.5 + h, dtype=torch.float64)) - outcome(torch.tensor(0.5 - h, dtype=torch.float64))
    ).item() / (2 * h)
    assert slope.item() == pytest.approx(expected, rel=1e-5)  # truncation h^2, cancellation 1e-16/h
    assert expected != 0


def test_the_schedule_of_products_is_saved_and_may_be_edited():
    (w,), (other,) = weights([1.0, 2.0]), weights([1.0, 2.0])
    opt = dp.ESGD([w], d_warmup=2, update_d_every=5)
    second = dp.ESGD([other], d_warmup=1, update_d_every=100)
    second.load_state_dict(opt.state_dict())
    assert (second.probing.d_warmup, second.probing.update_d_every) == (2, 5)
    opt.param_groups[0]["update_d_every"] = 3
    taken = []
    for k in range(9):
        taken += [k] * opt.should_create_graph()
        opt.zero_grad()
        opt.backward((w**4).sum())
        opt.step()
    assert taken == [0, 1, 4, 7]
    opt.param_groups[0]["update_d_every"] = 0
    with pytest.raises(dp.ArgumentError, match=r"^ESGD: update_d_every must be an integer in \[1, inf\), got 0\.$"):
        opt.step()
