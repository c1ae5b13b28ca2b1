"""Rows of norms and pulses: values, and all kinds of parameters, gradients and steps."""

import copy
import io
import json
import math

import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.watching import watch
from dashpot.watching.probe import Probe

ROOT_EPS = 5e-4
"""Error of the angle by the ratio of update to weight: the orthogonal part is a root of a difference of squares."""


def sgd(*params, **options):
    return torch.optim.SGD([p.requires_grad_() for p in params], lr=0.5, **options)


def stepped(watcher, *grads, steps=1):
    """Take steps with given gradients; return the last row of norms."""
    optimizer = watcher.optimizer
    for _ in range(steps):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for p, grad in zip(params, grads, strict=False):
            p.grad = grad.clone() if grad is not None else None
        optimizer.step()
    return watcher.record.rows("norms").last


def test_row_has_norms_ratio_angle_and_rate():
    w = torch.tensor([3.0, 4.0])
    with watch(sgd(w), budget=1.0) as watcher:
        watcher.observe(2.5)
        row = stepped(watcher, torch.tensor([0.8, -0.6]))  # orthogonal to w: the angle is atan(0.5/5)
    expected = {"grad": 1.0, "update": 0.5, "weight": math.hypot(5, 0.5), "ratio": 0.5 / math.hypot(5, 0.5)}
    expected["angle"] = math.atan(0.1)
    assert row["tensors"]["0"] == pytest.approx(expected, rel=1e-6)  # float32
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert (row["step"], row["loss"], row["lr"]) == (1, 2.5, [0.5])


def test_angle_resolves_small_and_radial_updates():
    w = torch.tensor([3.0, 4.0])
    with watch(sgd(w), budget=1.0) as watcher:
        [probe] = [probe for probe in watcher.probes if probe.kind == "norms"]
        probe.every = 1
        small = stepped(watcher, torch.tensor([0.8e-5, -0.6e-5]))
        radial = stepped(watcher, torch.tensor([0.6, 0.8]))
        opposite = stepped(watcher, torch.tensor([12.0, 16.0]))
    assert small["angle"] == pytest.approx(1e-6, rel=0.03)  # rounding of w to float32 changes the update by up to 3 %
    assert radial["angle"] == pytest.approx(0, abs=ROOT_EPS * radial["ratio"])
    assert opposite["angle"] == pytest.approx(math.pi)


def test_totals_are_norms_over_all_tensors():
    params = [torch.randn(3, 2), torch.randn(4)]
    grads = [torch.randn(3, 2), torch.randn(4)]
    with watch(sgd(*params), budget=1.0) as watcher:
        row = stepped(watcher, *grads)
    total = torch.cat([g.flatten() for g in grads]).norm().item()
    assert row["grad"] == pytest.approx(total, rel=1e-6)  # float32
    assert row["update"] == pytest.approx(0.5 * total, rel=1e-5)  # differences of float32 weights


KINDS = {
    "0-d": (torch.tensor(3.0), torch.tensor(4.0)),
    "complex": (torch.tensor([3 + 4j]), torch.tensor([0 + 4j])),
    "bfloat16": (torch.full((300,), 2.0, dtype=torch.bfloat16), torch.full((300,), 2.0, dtype=torch.bfloat16)),
    "float64": (torch.ones(2, dtype=torch.float64), torch.tensor([4.0, 2.0], dtype=torch.float64)),
    "transposed": (torch.randn(3, 2).t(), torch.randn(3, 2).t()),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_parameter_has_norms_and_angle(name):
    w, g = KINDS[name]
    before = w.clone()
    with watch(sgd(w.clone()), budget=1.0) as watcher:
        row = stepped(watcher, g)["tensors"]["0"]
        [after] = watcher.names
    wide = torch.complex128 if w.is_complex() else torch.float64
    old, new = (x.detach().to(wide).flatten() for x in (before, after))
    expected = {"grad": g.to(wide).norm().item(), "update": (new - old).norm().item(), "weight": new.norm().item()}
    expected["ratio"] = expected["update"] / expected["weight"]
    cosine = torch.dot(old, new.conj()).real / old.norm() / new.norm()
    expected["angle"] = math.acos(min(max(cosine.item(), -1.0), 1.0))
    angle = row.pop("angle")
    assert angle == pytest.approx(expected.pop("angle"), abs=ROOT_EPS * expected["ratio"])
    assert row == pytest.approx(expected, rel=1e-5)  # sums of float32 numbers


def test_empty_parameter_has_norms_of_zero():
    with watch(sgd(torch.zeros(0, 2)), budget=1.0) as watcher:
        row = stepped(watcher, torch.zeros(0, 2))["tensors"]["0"]
    assert row == {"grad": 0.0, "update": 0.0, "weight": 0.0, "ratio": None, "angle": None}


def test_mixed_dtypes_and_missing_gradients_are_measured():
    params = [torch.ones(2), torch.ones(2, dtype=torch.bfloat16), torch.ones(2)]
    with watch(sgd(*params), budget=1.0) as watcher:
        row = stepped(watcher, torch.ones(2), None, torch.ones(2))
        assert list(row["tensors"]) == ["0", "2"]
        stepped(watcher, torch.ones(2), torch.ones(2, dtype=torch.bfloat16), torch.ones(2), steps=10)
    pulses = watcher.record.rows("pulse").rows
    assert [len(pulse["tensors"]) for pulse in pulses] == [2] + [3] * 10
    assert pulses[-1]["tensors"]["1"] == pytest.approx(math.sqrt(2))


def test_sparse_gradient_has_the_norm_of_its_coalesced_values():
    p, at = torch.zeros(5, 2), torch.tensor([[1, 1, 3]])
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    grad = torch.sparse_coo_tensor(at, values, (5, 2), check_invariants=True)
    with watch(sgd(p), budget=1.0) as watcher:
        row = stepped(watcher, grad)
    assert row["tensors"]["0"]["grad"] == 5.0


def test_step_without_gradients_has_empty_rows():
    with watch(sgd(torch.ones(2)), budget=1.0) as watcher:
        row = stepped(watcher, None)
    assert (row["grad"], row["update"], row["weight"], row["ratio"], row["tensors"]) == (None, 0.0, 0.0, None, {})


def test_nonfinite_gradient_is_named_and_json_stays_valid():
    with watch(sgd(torch.ones(2), torch.ones(2)), budget=1.0) as watcher:
        watcher.observe(torch.tensor(math.nan))
        row = stepped(watcher, torch.tensor([math.inf, 0.0]), torch.ones(2))
        assert row["tensors"]["0"]["grad"] is None
        assert row["tensors"]["1"]["grad"] == pytest.approx(math.sqrt(2))
        assert row["reason"] == "Not finite: loss, grad, update and 6 more."
        assert watcher.record.rows("pulse").last["tensors"]["0"] == math.inf
    json.dumps(watcher.record.to_dict(), allow_nan=False)


def test_parameters_added_later_and_frozen_are_followed():
    first, second = torch.ones(2), torch.ones(3, requires_grad=True)
    model = nn.ParameterDict({"a": nn.Parameter(first), "b": nn.Parameter(second)})
    with watch(torch.optim.SGD([model["a"]], lr=0.1), model, budget=1.0) as watcher:
        stepped(watcher, torch.ones(2), steps=10)
        watcher.optimizer.add_param_group({"params": [model["b"]], "lr": 0.2})
        row = stepped(watcher, torch.ones(2), torch.ones(3))
        assert (list(row["tensors"]), row["lr"]) == (["a", "b"], [0.1, 0.2])
        assert watcher.record.header["tensors"] == {"a": [2], "b": [3]}
        row = stepped(watcher, None, torch.ones(3), steps=10)
        assert list(row["tensors"]) == ["b"]


def test_lazy_parameters_have_shapes_after_the_first_step():
    model = nn.LazyLinear(2)
    with watch(torch.optim.SGD(model.parameters(), lr=0.1), model, budget=1.0) as watcher:
        assert watcher.record.header["tensors"] == {"weight": None, "bias": None}
        model(torch.ones(1, 3)).sum().backward()
        watcher.optimizer.step()
        assert watcher.record.header["tensors"] == {"weight": [2, 3], "bias": [2]}
        assert list(watcher.record.rows("norms").last["tensors"]) == ["weight", "bias"]


def test_tied_weights_are_measured_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    with watch(torch.optim.SGD(model.parameters(), lr=0.1), model, budget=1.0) as watcher:
        model(torch.ones(1, 2)).sum().backward()
        watcher.optimizer.step()
        assert list(watcher.record.rows("norms").last["tensors"]) == ["0.weight"]


def test_names_are_distinct_and_without_wrappers():
    named = [("w", torch.ones(1, requires_grad=True))]
    optimizer = dp.SGD(named)
    optimizer.add_param_group({"params": [("v", torch.ones(1, requires_grad=True))]})
    optimizer.param_groups[1]["param_names"] = ["w"]
    assert list(watch(optimizer).names.values()) == ["w", "w (1)"]
    compiled = torch.compile(nn.Linear(1, 1), backend="eager")
    assert list(watch(torch.optim.SGD(compiled.parameters()), compiled).names.values()) == ["weight", "bias"]


def test_step_with_closure_measures_the_last_evaluation():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], lr=0.1, max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    class Other(Probe):
        kind = "other"

    with watch(optimizer, budget=1.0) as watcher:
        watcher.probes.append(Other())
        optimizer.step(closure)
        row = watcher.record.rows("norms").last
        assert row["reason"] == "The step was given a closure: the gradient is that of its last evaluation."
        assert row["update"] == pytest.approx(5 - w.norm().item(), rel=1e-4)  # a difference of float32 numbers
        assert watcher.record.rows("pulse").last["grad"] == w.grad.norm()
        assert "inside which its gradients exist" in watcher.record.rows("other").last["reason"]


def test_steps_without_observation_have_no_loss():
    with watch(sgd(torch.ones(2)), budget=1.0) as watcher:
        watcher.observe(torch.tensor(1.0), size=3)
        stepped(watcher, torch.ones(2), steps=3)
        assert [pulse["loss"] for pulse in watcher.record.rows("pulse")] == [1.0, None, None]
        assert watcher.record.header["batch"] == 3


def test_loss_is_copied_when_it_is_observed():
    with watch(sgd(torch.ones(2)), budget=1.0) as watcher:
        loss = torch.tensor(1.0)
        watcher.observe(loss)
        loss /= 4
        stepped(watcher, torch.ones(2))
        assert watcher.record.rows("pulse").last["loss"] == 1.0


@pytest.mark.parametrize("loss", ["1", torch.ones(2), True, None])
def test_observe_rejects_losses_that_are_not_numbers(loss):
    watcher = watch(sgd(torch.ones(2)))
    if loss is None:
        watcher.observe(loss)
        return
    with pytest.raises(dp.ArgumentError, match="loss must be a number or a real tensor of one element"):
        watcher.observe(loss)


INVALID = [("steps", 0), ("steps", 1.5), ("budget", 0), ("budget", 1.5), ("model", 3)]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_watch_rejects_invalid_arguments(name, value):
    with pytest.raises(dp.ArgumentError, match=f"watch: {name} must be"):
        watch(sgd(torch.ones(2)), **{name: value})


@pytest.mark.parametrize("make", [torch.optim.AdamW, dp.AdamW])
def test_copies_of_a_watched_optimizer_are_not_watched(make):
    w = torch.ones(2, requires_grad=True)
    with watch(make([w], lr=0.1), budget=1.0) as watcher:
        stepped(watcher, torch.ones(2))
        stream = io.BytesIO()
        torch.save(watcher.optimizer, stream)
        stream.seek(0)
        for other in (copy.deepcopy(watcher.optimizer), torch.load(stream, weights_only=False)):
            other.param_groups[0]["params"][0].grad = torch.ones(2)
            other.step()
    assert watcher.step == 1


def test_two_watchers_of_an_optimizer_agree():
    optimizer = sgd(torch.ones(2))
    with watch(optimizer, budget=1.0) as a, watch(optimizer, budget=1.0) as b:
        assert stepped(a, torch.ones(2)) == b.record.rows("norms").last


def test_rate_includes_schedule_of_dashpot_and_scheduler_of_torch():
    w, v = (torch.ones(2, requires_grad=True) for _ in range(2))
    ours = dp.SGD([w], lr=0.5, schedule=dp.schedules.Exponential(0.5))
    theirs = torch.optim.SGD([v], lr=torch.tensor(0.5))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(theirs, 0.5)
    with watch(ours, budget=1.0) as a, watch(theirs, budget=1.0) as b:
        for watcher in (a, b):
            watcher.probes[:] = [probe for probe in watcher.probes if probe.kind == "norms"]
            watcher.probes[0].every = 1
        for _ in range(3):
            stepped(a, torch.ones(2))
            stepped(b, torch.ones(2))
            scheduler.step()
    assert [row["lr"] for row in a.record.rows("norms")] == [[0.5], [0.25], [0.125]]
    assert [row["lr"] for row in b.record.rows("norms")] == [[0.5], [0.25], [0.125]]


def test_every_eighth_loss_gives_a_row_with_their_mean():
    w = torch.ones(2, requires_grad=True)
    with dp.watch(torch.optim.SGD([w], lr=0.0)) as watcher:
        for step in range(1, 19):
            w.grad = torch.ones(2)
            if step != 3:
                watcher.observe(torch.tensor(float(step)))
            watcher.optimizer.step()
    rows = [(row["step"], row["loss"], row["count"]) for row in watcher.record.rows("loss")]
    assert rows == [(9, 42 / 8, 8), (17, 13.5, 8)]
