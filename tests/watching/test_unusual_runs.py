"""Runs with wrapped optimizers, unusual functions, sparse gradients and other generators are watched, or raise."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.utils.strict_json import decode
from dashpot.watching import watch
from dashpot.watching.series import WatchRecord


class Forwarding(torch.optim.Optimizer):
    """A wrapper like that of accelerate, which does not initialize its base class."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)


def weight():
    return torch.tensor([3.0, 4.0], requires_grad=True)


def only(watcher, *kinds, every=1):
    """Keep the probes of some kinds, at every step."""
    watcher.probes[:] = [probe for probe in watcher.probes if probe.kind in kinds]
    for probe in watcher.probes:
        probe.every = every
    return watcher


def reasons(watcher, kind):
    return {row["reason"] for row in watcher.record.rows(kind)}


def test_wrapped_optimizer_is_watched():
    w = weight()
    wrapper = Forwarding(torch.optim.SGD([w], lr=0.1))
    with watch(wrapper, budget=1.0) as watcher:
        only(watcher, "norms")
        w.grad = torch.ones(2)
        wrapper.step()
    assert watcher.optimizer is wrapper.optimizer
    assert watcher.record.rows("norms").last["update"] == pytest.approx(0.1 * 2**0.5, rel=1e-5)  # float32


def test_wrapper_without_optimizer_raises():
    with pytest.raises(dp.ArgumentError, match=r"watch: optimizer must be a torch optimizer, got "):
        watch(Forwarding(None))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0}, r"size must be None or an integer in \[1, inf\), got 0"),
        ({"size": "8"}, r"size must be None or an integer in \[1, inf\), got '8'"),
        ({"examples": 2.5}, r"examples must be None or an integer in \[1, inf\), got 2.5"),
        ({"closure": 1.0}, "closure must be a function or None, got 1.0"),
        ({"sliced": [1]}, r"sliced must be a function or None, got \[1\]"),
        ({"loss": torch.ones(1, dtype=torch.complex64)}, r"loss must be a number or a real tensor of one element"),
    ],
)
def test_observe_checks_its_arguments(given, message):
    with watch(torch.optim.SGD([weight()], lr=0.1)) as watcher, pytest.raises(dp.ArgumentError, match=message):
        watcher.observe(**given)


@pytest.mark.parametrize("result", [None, torch.ones(2, requires_grad=True) * 2, 1.0], ids=["none", "vector", "number"])
def test_loss_of_a_part_must_be_one_number(result):
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "noise", "temperature")
        for _ in range(4):
            optimizer.zero_grad()
            loss = (w**2).sum()
            loss.backward()
            watcher.observe(loss, sliced=lambda first, last: result, size=8)
            optimizer.step()
        expected = "The function `sliced` must return the mean loss, a tensor of one element with a graph."
        assert expected in reasons(watcher, "noise") & reasons(watcher, "temperature")


def test_failed_measurement_has_one_line():
    def sliced(first, last):
        raise ValueError("first line\nsecond line")

    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "temperature")
        w.grad = torch.ones(2)
        watcher.observe(1.0, sliced=sliced, size=8)
        optimizer.step()
        assert reasons(watcher, "temperature") == {"The measurement failed: ValueError: first line."}


@pytest.mark.parametrize("kind", ["noise", "curvature"])
def test_sparse_gradient_is_a_reason(kind):
    torch.manual_seed(0)
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)

    def loss_of(first=0, last=2):
        return table(torch.arange(first, last)).square().mean()

    with watch(optimizer, table, budget=1.0) as watcher:
        only(watcher, kind)
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            watcher.observe(loss, closure=loss_of, sliced=loss_of, size=2)
            optimizer.step()
        assert reasons(watcher, kind) == {"A gradient is sparse."}


def test_generators_of_python_and_numpy_are_restored():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]

    w = weight()
    optimizer = dp.SGD([w], lr=0.1)

    def loss_of(first=0, last=8):
        return (w**4).sum() * (1 + random.random() + np.random.rand())

    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "noise", "curvature", "temperature")
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            watcher.observe(loss, closure=loss_of, sliced=loss_of, size=8)
            before = states()
            optimizer.step()
            assert states() == before
        assert watcher.record.rows("curvature").last["reason"] is None


def test_results_of_infinite_settings_and_gradients_are_strict_json():
    w = weight()
    optimizer = dp.SGD([w], lr=0.1, max_norm=float("inf"))
    with watch(optimizer, budget=1.0) as watcher:
        optimizer.param_groups[0]["note"] = float("nan")
        w.grad = torch.tensor([1.0, torch.inf])
        optimizer.step()
    for found in (watcher.record.to_dict(), watcher.report().to_dict()):
        decode(json.dumps(found))
    assert "pulse" not in watcher.report().to_dict()["newest"]


def test_header_of_infinite_settings_is_strict_json():
    assert WatchRecord({"groups": [{"lr": float("inf")}]}).to_dict()["header"] == {"groups": [{"lr": "inf"}]}


@pytest.mark.parametrize("lr", ["fast", None, torch.ones(2)], ids=["text", "none", "vector"])
def test_rate_of_other_types_is_none(lr):
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    optimizer.step = torch.optim.Optimizer.profile_hook_step(lambda self: None).__get__(optimizer)
    with watch(optimizer, budget=1.0) as watcher:
        optimizer.param_groups[0]["lr"] = lr
        w.grad = torch.ones(2)
        optimizer.step()
        assert watcher.record.rows("norms").last["lr"] == [None]
        assert not len(watcher.record.rows("alarms"))  # failures


def test_pair_of_steps_with_different_gradients_has_a_reason():
    params = [weight(), weight()]
    optimizer = dp.SGD(params, lr=0.1, momentum=0.9)
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "dynamics")
        for step in range(2):
            params[0].grad = None if step else torch.ones(2)
            params[1].grad = torch.ones(2)
            optimizer.step()
        row = watcher.record.rows("dynamics").last["tensors"]["1"]
        assert row["alpha"] is None
        assert row["reason"] == "The two steps of a measurement did not both update the parameters."


@pytest.mark.parametrize(
    ("grad", "loss", "text"),
    [
        (torch.nan, 1.0, "The gradient of 0 is not finite."),
        (1.0, torch.nan, "The loss is not finite; all gradients are finite."),
    ],
)
def test_warnings_of_numbers_that_are_not_finite(grad, loss, text):
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "pulse", "alarms")
        w.grad = torch.full((2,), grad)
        watcher.observe(loss)
        optimizer.step()
    assert watcher.record.rows("warning").last["text"] == text


def test_closure_without_a_loss_is_a_reason_for_maximizing_optimizers():
    w = weight()
    optimizer = dp.SGD([w], lr=0.1, maximize=True)
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "curvature")
        w.grad = torch.ones(2)
        watcher.observe(1.0, closure=lambda: None)
        optimizer.step()
        assert "Error" not in watcher.record.rows("curvature").last["reason"]


@pytest.mark.parametrize("decay", [1.0, 2.0])
def test_settings_of_torch_without_equivalent_give_no_warnings(decay, recwarn):
    w = weight()
    optimizer = torch.optim.AdamW([w], lr=1.0, weight_decay=decay)
    with watch(optimizer, budget=1.0) as watcher:
        for probe in watcher.probes:
            probe.every = 1
        for _ in range(3):
            w.grad = torch.ones(2)
            optimizer.step()
        watcher.report()
    assert not recwarn.list


def test_overflow_gives_no_warnings(recwarn):
    w = weight().double().detach().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=1.0)
    with watch(optimizer, budget=1.0) as watcher:
        for probe in watcher.probes:
            probe.every = 1
        for step in range(40):
            w.grad = torch.full_like(w, (-1) ** step * 1e307)
            watcher.observe((-1) ** step * 1e308)
            optimizer.step()
        report = watcher.report()
    assert not recwarn.list
    assert report.missing["loss"] == "The losses are too large for a trend."


def test_description_of_a_step_that_raised_is_not_used_for_the_next_one():
    w = weight()
    optimizer = dp.SGD([w], lr=0.1, nonfinite="raise")
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "pulse")
        w.grad = torch.full((2,), torch.nan)
        watcher.observe(5.0)
        with pytest.raises(dp.NonFiniteError):
            optimizer.step()
        w.grad = torch.ones(2)
        optimizer.step()
        assert [row["loss"] for row in watcher.record.rows("pulse")] == [5.0, None]


def test_curvature_omits_frozen_parameters_with_an_old_gradient():
    params = [weight(), weight()]
    optimizer = dp.SGD(params, lr=0.5)
    with watch(optimizer, budget=1.0) as watcher:
        only(watcher, "curvature")
        for p in params:
            p.grad = torch.ones(2)
        params[0].requires_grad_(False)
        watcher.observe(1.0, closure=lambda: sum((p**2).sum() for p in params))
        optimizer.step()
        assert watcher.record.rows("curvature").last["ratio"] == pytest.approx(0.5)  # 2 lr of the edge 2
