"""Rows of kind "dynamics": the recursion and the effective rates of real steps."""

import json

import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.watching import watch
from dashpot.watching.dynamics import DynamicsProbe

OPTIMIZERS = {
    "torch-sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "torch-sgd-without-momentum": lambda p: torch.optim.SGD(p, lr=0.1),
    "torch-adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01, amsgrad=True),
    "torch-nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "torch-rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adamw": lambda p: dp.AdamW(p, lr=0.01, schedule=dp.schedules.Cosine(10)),
    "autosgm-parcor": lambda p: dp.AutoSGM(p, lr=0.01, numerator=1),
}


def watcher_of(optimizer, model=None, every=4):
    watcher = watch(optimizer, model, budget=1.0)
    watcher.probes = [DynamicsProbe(every)]
    return watcher


def watched(make, steps=6, every=4, clip=None, dtype=torch.float64):
    """Return the rows of a small run, and the model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 1)).to(dtype)
    x = torch.randn(64, 5).to(dtype)
    optimizer = make(model.parameters())
    watcher = watcher_of(optimizer, model, every)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    watcher.close()
    return list(watcher.record.rows("dynamics")), model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recursion_and_rate_agree_with_the_steps(name):
    rows, _ = watched(OPTIMIZERS[name])
    assert [row["step"] for row in rows] == [2, 6]
    json.dumps(rows, allow_nan=False)
    for row in rows:
        assert list(row["tensors"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        for tensor, values in row["tensors"].items():
            # Float64 arithmetic in a different order; torch's NAdam keeps a product of momenta in float32.
            assert values["residual"] < (1e-6 if name == "torch-nadam" else 1e-9), tensor
            rate = row["rates"][tensor]
            assert rate["measured"] == pytest.approx(rate["predicted"], rel=1e-6)
            assert rate["unexplained"] < 1e-6


def test_statistics_equal_those_of_record_steps():
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(30, dtype=torch.float64))
    optimizer = dp.Adam([w], lr=0.1)
    watcher = watcher_of(optimizer)
    with dp.analysis.record_steps(optimizer) as recording:
        for _ in range(2):
            optimizer.zero_grad()
            (w**4).sum().backward()
            optimizer.step()
    found = watcher.record.rows("dynamics").last["tensors"]["0"]
    for name in ("alpha", "r", "e", "dw"):
        # The same float64 numbers, except for the factor 1 of the sample.
        assert found[name] == pytest.approx(recording.rows["0"][-1].statistics[name], rel=1e-14)


def test_scheduler_of_torch_and_heavy_ball_gain_show_in_the_rate():
    def make(params):
        optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
        optimizer.param_groups[0]["lr"] = 0.02  # as a scheduler does
        return optimizer

    rate = watched(make)[0][-1]["rates"]["0.weight"]
    assert (rate["nominal"], rate["clip"]) == (0.02, 1.0)
    assert rate["applied"] == pytest.approx(0.2, rel=1e-9)  # lr/(1 - momentum)


def test_effective_lr_is_the_applied_rate():
    row = watched(OPTIMIZERS["torch-sgd"])[0][-1]
    assert row["effective_lr"] == {name: rate["applied"] for name, rate in row["rates"].items()}


@pytest.mark.parametrize("inside", [False, True], ids=["clip_grad_norm_", "max_norm"])
def test_clipping_shows_in_the_applied_rate(inside):
    options = {"max_norm": 0.1} if inside else {}
    rows, model = watched(lambda p: dp.SGD(p, lr=0.1, **options), steps=2, clip=None if inside else 0.1)
    rate = rows[-1]["rates"]["0.weight"]
    assert rate["measured"] == pytest.approx(0.1, rel=1e-9)
    assert rate["clip"] < 0.5
    assert rate["applied"] == pytest.approx(0.1 * rate["clip"], rel=1e-9)
    # The clipped gradients are those of the last step: their joint norm is the limit.
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert float(norm) * (rate["clip"] if inside else 1) == pytest.approx(0.1, rel=1e-4)  # eps of the clip factor


def test_decoupled_decay_is_separated_from_the_rate():
    rate = watched(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5))[0][-1]["rates"]["0.weight"]
    assert rate["decay"] == pytest.approx(0.005, rel=1e-9)
    assert rate["measured"] == pytest.approx(0.01, rel=1e-9)


def test_bfloat16_weights_stall_unless_rounding_is_compensated():
    shares = {}
    for rounding in ("nearest", "kahan", "stochastic"):
        rows, _ = watched(lambda p, r=rounding: dp.SGD(p, lr=1e-4, rounding=r), steps=2, dtype=torch.bfloat16)
        shares[rounding] = rows[-1]["tensors"]["0.weight"]["stalled"]
    assert shares["nearest"] > 0.9
    assert shares["kahan"] < 0.2
    assert shares["stochastic"] == 0


def test_measured_rate_shows_stalled_weights():
    rows, _ = watched(lambda p: dp.SGD(p, lr=1e-5), steps=2, dtype=torch.bfloat16)
    rate = rows[-1]["rates"]["0.weight"]
    assert rate["predicted"] == 1e-5
    assert abs(rate["measured"]) < 0.5e-5


def test_unknown_rule_has_the_ratio_and_a_reason():
    row = watched(torch.optim.Adadelta)[0][-1]
    assert row["tensors"]["0.weight"]["alpha"] is None
    assert row["tensors"]["0.weight"]["reason"] == "The update rule of torch.optim.adadelta.Adadelta is unknown."
    assert row["effective_lr"]["0.weight"] == row["rates"]["0.weight"]["ratio"] > 0
    assert row["meaning"].startswith("Norm of the change over the norm of the gradient")


def test_method_without_recursion_has_a_reason():
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(30))
    optimizer = dp.Sophia([w], lr=0.01)
    watcher = watcher_of(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward((w**4).sum())
        optimizer.step()
    found = watcher.record.rows("dynamics").last["tensors"]["0"]
    assert found["alpha"] is None
    assert found["reason"].startswith("ClipElements limits each element")
    assert found["stalled"] == 0


def test_large_tensors_are_sampled_and_parameters_without_gradients_are_excluded():
    w, other = nn.Parameter(torch.randn(64, 512)), nn.Parameter(torch.ones(3))
    optimizer = dp.SGD([w, other], lr=0.1)
    watcher = watcher_of(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        w.square().sum().backward()
        before = w.detach().clone()
        optimizer.step()
    found = watcher.record.rows("dynamics").last["tensors"]
    assert list(found) == ["0"]
    assert found["0"]["sampled"] == 256
    exact = float((w.detach() - before).norm())
    assert found["0"]["dw"][3] == pytest.approx(exact, rel=0.2)  # 256 squared normals: standard error 4 %


@pytest.mark.parametrize("make", [dp.SGD, torch.optim.SGD], ids=["dashpot", "torch"])
def test_gradient_scaler_does_not_count_as_clipping(make):
    model = nn.Linear(8, 4)
    optimizer = make(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    watcher = watcher_of(optimizer, model)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(16, 8)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    rate = watcher.record.rows("dynamics").last["rates"]["weight"]
    assert rate["clip"] == 1
    assert rate["measured"] == pytest.approx(0.1, rel=1e-4)  # rounding of float32 weights
    assert rate["ratio"] == pytest.approx(0.1, rel=1e-4)


def test_groups_have_their_own_rates():
    def make(params):
        weight, *others = params
        return torch.optim.SGD([{"params": [weight], "lr": 0.01}, {"params": others}], lr=0.1)

    rates = watched(make)[0][-1]["rates"]
    assert rates["0.weight"]["measured"] == pytest.approx(0.01, rel=1e-9)
    assert rates["0.bias"]["measured"] == pytest.approx(0.1, rel=1e-9)
