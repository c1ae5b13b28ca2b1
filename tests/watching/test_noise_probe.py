"""Measurement of the noise scale in a run: sources, agreement with single gradients, and undefined results."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.watching import NoiseSample, watch
from dashpot.watching.noise import NoiseProbe

SIZE = 12


def network(*extra):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), *extra, nn.Tanh(), nn.Linear(8, 2)).double()


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(SIZE, n, generator=generator).double() for n in (5, 2))
    return x, 3 * x[:, :2] + 2 + noise


class Run:
    """A run whose noise is measured at every step from the second one on."""

    def __init__(self, model, optimizer, *, pieces=1, sliced=True, size=SIZE, change=None, every=1):
        self.model, self.optimizer, self.pieces, self.sliced = model, optimizer, pieces, sliced
        self.size, self.change, self.evaluations = size, change, 0
        self.watcher = watch(optimizer, model, budget=1.0)
        self.watcher.probes = [NoiseProbe(every)]

    def loss(self, x, y, first, last):
        self.evaluations += 1
        return ((self.model(x[first:last]) - y[first:last]) ** 2).mean()

    def steps(self, count):
        for seed in range(count):
            x, y = data(seed)
            self.optimizer.zero_grad()
            length = SIZE // self.pieces
            for k in range(self.pieces):
                (self.loss(x, y, k * length, (k + 1) * length) / self.pieces).backward()
            if self.change is not None:
                self.change()
            sliced = (lambda first, last, x=x, y=y: self.loss(x, y, first, last)) if self.sliced else None
            self.watcher.observe(sliced=sliced, size=self.size)
            self.optimizer.step()
        return list(self.watcher.record.rows("noise"))


def flat_gradient(model, x, y):
    grads = torch.autograd.grad(((model(x) - y) ** 2).mean(), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in grads]).numpy()


@pytest.mark.parametrize("pieces", [1, 3])
def test_sample_equals_the_gradients_of_the_pieces(pieces):
    model = network()
    run = Run(model, dp.SGD(model.parameters(), lr=0.0), pieces=pieces)
    (row,) = run.steps(2)
    x, y = data(1)
    length = SIZE // max(pieces, 2)
    parts = [flat_gradient(model, x[i : i + length], y[i : i + length]) for i in range(0, SIZE, length)]
    expected = NoiseSample.of_pieces(parts, [length] * len(parts))
    assert row["source"] == ("halves" if pieces == 1 else "microbatches")
    np.testing.assert_allclose([row["sample"][key] for key in expected._fields], expected, rtol=1e-10)  # float64


def test_second_half_is_subtracted_after_verification():
    model = network()
    run = Run(model, dp.SGD(model.parameters(), lr=0.0))
    run.steps(3)
    assert run.evaluations == 3 + 2 + 1
    x, y = data(2)
    parts = [flat_gradient(model, x[i : i + 6], y[i : i + 6]) for i in (0, 6)]
    expected = NoiseSample.of_pieces(parts, [6, 6])
    sample = run.watcher.record.rows("noise").last["sample"]
    np.testing.assert_allclose([sample[key] for key in expected._fields], expected, rtol=1e-10)  # float64


@pytest.mark.parametrize("extra", [nn.BatchNorm1d(8), nn.Dropout(0.5)])
def test_dependent_or_random_halves_take_two_passes(extra):
    model = network(extra)
    run = Run(model, dp.SGD(model.parameters(), lr=0.01))
    run.steps(3)
    assert run.evaluations == 3 + 2 + 2


def test_clipping_between_backward_and_step_does_not_change_the_sample():
    samples = []
    for limit in (1e-3, 1e3):
        model = network()
        change = partial(nn.utils.clip_grad_norm_, list(model.parameters()), limit)
        run = Run(model, dp.SGD(model.parameters(), lr=0.0), change=change)
        samples.append([row["sample"] for row in run.steps(3)])
    for clipped, plain in zip(*samples, strict=True):
        assert clipped == pytest.approx(plain, rel=1e-10)  # float64


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("kind", [dp.AdamW, torch.optim.SGD])
def test_measurement_changes_no_bit_of_the_training(kind, pieces):
    found = []
    for measured in (False, True):
        model = network(nn.BatchNorm1d(8), nn.Dropout(0.5))
        run = Run(model, kind(model.parameters(), lr=0.01), pieces=pieces)
        if not measured:
            run.watcher.close()
        run.steps(4)
        found.append((model.state_dict(), run.optimizer.state_dict()["state"], torch.get_rng_state()))
        assert len(run.watcher.record.rows("noise")) == (3 if measured else 0)
        run.watcher.close()
        assert not any(p._backward_hooks for p in model.parameters())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_preconditioned_scale_of_uniform_rates_equals_the_scale():
    model = network()
    row = Run(model, torch.optim.SGD(model.parameters(), lr=0.01)).steps(8)[-1]
    for key in ("scale", "low", "high"):
        assert row["preconditioned"][key] == pytest.approx(row[key], rel=1e-10)  # float64


def test_preconditioned_scale_of_adam_weighs_elements_by_the_rates():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    row = Run(model, optimizer).steps(8)[-1]
    assert row["preconditioned"]["scale"] is not None
    assert row["preconditioned"]["scale"] != pytest.approx(row["scale"], rel=1e-3)


class Unknown(torch.optim.SGD):
    """An optimizer with its own update rule."""

    def step(self, closure=None):
        return super().step(closure)


def test_unknown_update_rule_has_a_reason_for_the_preconditioned_scale_only():
    model = network()
    row = Run(model, Unknown(model.parameters(), lr=0.01)).steps(8)[-1]
    assert row["scale"] is not None
    assert row["preconditioned"]["scale"] is None
    assert "unknown" in row["preconditioned"]["reason"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sliced": False}, "no micro-batches"),
        ({"size": None}, "number of examples is unknown"),
        ({"size": 1}, "single example"),
    ],
)
def test_missing_information_is_a_reason(options, reason):
    model = network()
    row = Run(model, dp.SGD(model.parameters(), lr=0.01), **options).steps(2)[-1]
    assert row["scale"] is None
    assert reason in row["reason"]


def test_nonfinite_gradient_is_a_reason():
    model = network()
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.0))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    assert "not finite" in run.steps(2)[-1]["reason"]


def test_sparse_gradient_is_a_reason():
    model = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(optimizer, model, budget=1.0)
    watcher.probes = [NoiseProbe(1)]
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([0, 1])).square().mean().backward()
        watcher.observe(size=2)
        optimizer.step()
    assert "sparse" in watcher.record.rows("noise").last["reason"]


def test_gradients_replaced_between_passes_are_not_microbatches():
    model = network()

    def replace():
        for p in model.parameters():
            p.grad = torch.arange(p.numel(), dtype=p.dtype).view(p.shape)

    run = Run(model, dp.SGD(model.parameters(), lr=0.01), pieces=2, sliced=False, change=replace)
    assert "do not add up" in run.steps(2)[-1]["reason"]
