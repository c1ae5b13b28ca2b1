"""A watched run equals an unwatched run bit for bit: weights, buffers, optimizer state, gradients and random state."""

import random

import numpy as np
import pytest
import registry
import torch
from torch import nn

import dashpot as dp
from dashpot.watching import watch

STEPS = 4
FAST = frozenset({"sgd-nesterov", "autosgm-3-debiased", "esgd"})
TORCH = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"foreach": True},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Adagrad": {"fused": True},
    "Adadelta": {},
    "ASGD": {},
    "Rprop": {},
    "Adafactor": {},
}


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(48, 4)]
    return nn.Sequential(*layers)


def trained(make, watched):
    """Return everything that training changes, after steps with all measurements or none."""
    model = network().train()
    optimizer = make(model.parameters())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    watcher = watch(optimizer, model, budget=1.0) if watched else None
    for probe in watcher.probes if watcher is not None else ():
        probe.every = min(probe.every, 2)
        probe.start = 1
    data = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        x, y = torch.randn(8, 1, 6, 6, generator=data), torch.randint(4, (8,), generator=data)

        def loss_of(first=0, last=8, x=x, y=y):
            return nn.functional.cross_entropy(model(x[first:last]), y[first:last])

        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if watcher is not None:
            watcher.observe(loss, closure=loss_of, sliced=loss_of, size=8)
        optimizer.step()
    if watcher is not None:
        watcher.close()
    numpy_state = torch.from_numpy(np.random.get_state()[1].astype(np.int64))
    drawn = [torch.get_rng_state(), numpy_state, torch.tensor(random.getstate()[1])]
    state = optimizer.state_dict()["state"]
    kept = [value for values in state.values() for value in values.values() if isinstance(value, torch.Tensor)]
    grads = [p.grad for p in model.parameters()]
    return [*model.state_dict().values(), *kept, *grads, *drawn], watcher


def assert_unchanged(make):
    expected, _ = trained(make, watched=False)
    found, watcher = trained(make, watched=True)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    return watcher.record.series


@pytest.mark.parametrize("subject", registry.marked(registry.SUBJECTS, FAST), ids=str)
def test_every_method_trains_equally(subject):
    assert_unchanged(subject.make)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("SGD", "AdamW") else pytest.mark.slow) for name in TORCH]
)
def test_every_optimizer_of_torch_trains_equally(name):
    assert_unchanged(lambda params: getattr(torch.optim, name)(params, lr=0.01, **TORCH[name]))


def test_all_measurements_are_made():
    rows = assert_unchanged(lambda params: dp.AdamW(params, lr=0.01))
    for kind in ("pulse", "norms", "dynamics", "curvature"):
        assert any(not row.get("reason") for row in rows[kind]), kind
    assert len(rows["noise"])  # too few measurements for an estimate
    reasons = [row["reason"] for kind in rows.values() for row in kind if row.get("reason")]
    assert not [reason for reason in reasons if "Error" in reason]  # exceptions
