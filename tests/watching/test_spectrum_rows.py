"""Spectra of gradients and updates against the response of the filter."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.watching import watch
from dashpot.watching.spectrum import SpectrumProbe
from dashpot.watching.spectrum_estimates import spectrum

METHODS = {
    "torch-sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "torch-nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "torch-adamw": lambda p: torch.optim.AdamW(p, lr=0.001, weight_decay=0.1),
    "clipped": lambda p: dp.SGD(p, lr=0.01, momentum=0.9, max_norm=3.0),  # of a norm of about 8
    "scheduled": lambda p: dp.SGD(p, lr=0.01, momentum=0.5, schedule=dp.schedules.Cosine(400)),
}


def spectrum_row(make, steps=320, probe=None):
    """Return the last row of a run with noisy gradients on a quadratic."""
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(8, 8, generator=generator))
    optimizer = make([w])
    watcher = watch(optimizer, budget=1.0)
    watcher.budget.affords = lambda *args: True  # rows must not depend on the speed of the machine
    watcher.probes = [probe or SpectrumProbe(10_000, start=30, steps=256)]
    for _ in range(steps):
        w.grad = w.detach() + torch.randn(8, 8, generator=generator)
        optimizer.step()
    return watcher.record.rows("spectrum").last


@pytest.mark.parametrize("name", METHODS)
def test_measured_response_equals_the_filter(name):
    row = spectrum_row(METHODS[name])
    json.dumps(row, allow_nan=False)
    assert (row["steps"], row["segment"], row["elements"]) == (256, 64, 64)
    assert row["scale"] == ("fitted" if name == "torch-adamw" else "exact")
    # Leakage of the window: the frequencies are resolved to 2 pi/64, a pole of .9 has a width of .1.
    assert row["error"] < 0.12
    high = len(row["frequencies"]) // 4
    assert row["measured"][high:] == pytest.approx(row["response"][high:], rel=0.3)  # a sample of 7 segments


def test_wrong_filter_has_a_large_error():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(256, 32))
    right = spectrum(noise, noise, RationalFilter())
    wrong = spectrum(noise, noise, RationalFilter(poles=(0.9,), gain=0.1), fitted=False)
    assert right.error < 1e-6
    assert wrong.error > 1


def test_white_noise_has_power_one():
    noise = np.random.default_rng(0).normal(size=(512, 64)) * np.linspace(1, 9, 64)
    found = spectrum(noise, 0.1 * noise, RationalFilter(gain=0.1), fitted=False)
    # Averages of 64 elements and 7 overlapping segments, about 250 independent values: standard error 6 %.
    assert found.power == pytest.approx(np.ones(64), abs=0.25)
    assert np.mean(found.power) == pytest.approx(1, abs=0.02)
    assert found.measured == pytest.approx(np.full(64, 0.01), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g, y: (g[:40], y[:40]), "40 of the required 64 steps were recorded."),
        (lambda g, y: (g * np.inf, y), "A gradient or an update is not finite."),
        (lambda g, y: (0 * g, y), "All sampled gradients or updates are constant."),
    ],
)
def test_unusable_records_have_a_reason(change, reason):
    noise = np.random.default_rng(0).normal(size=(128, 4))
    found = spectrum(*change(noise, noise), RationalFilter())
    assert (found.reason, found.error, found.power) == (reason, None, None)


def test_unknown_rule_has_a_measured_response_only():
    row = spectrum_row(torch.optim.Adadelta)
    assert (row["response"], row["error"]) == (None, None)
    assert row["reason"] == "The filter of the update rule is unknown."
    assert len(row["measured"]) == 32


def test_first_measurement_has_a_preliminary_row():
    probe = SpectrumProbe(10_000, start=30)
    row = spectrum_row(METHODS["torch-sgd"], steps=170, probe=probe)
    assert (row["step"], row["steps"]) == (158, 128)
    assert probe.pending


def test_steps_that_were_not_measured_restart_the_measurement():
    class Gap(SpectrumProbe):
        def is_due(self, step):
            return step != 100 and super().is_due(step)

    row = spectrum_row(METHODS["torch-sgd"], steps=240, probe=Gap(10_000, start=30))
    assert row["step"] == 101 + 128
    assert row["error"] < 0.12
