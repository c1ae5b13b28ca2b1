"""Recorded steps of torch's optimizers equal those of their counterparts."""

import pytest
import torch

import dashpot as dp
from dashpot.analysis import record_steps

SETTINGS = {
    "SGD": {"lr": 0.004},
    "SGD-nesterov": {"lr": 0.004, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "SGD-dampening": {"lr": 0.004, "momentum": 0.9, "dampening": 0.3},
    "AdamW": {"lr": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1},
}


def rows(module, name, every):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = getattr(module, name.partition("-")[0])([w], **SETTINGS[name])
    with record_steps(optimizer, every=every) as recording:
        for _ in range(7):
            optimizer.zero_grad()
            (w**4).sum().backward()
            optimizer.step()
    return recording.rows["0"]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_rows_of_torch_optimizer_equal_those_of_counterpart(name, every):
    found, expected = rows(torch.optim, name, every), rows(dp, name, every)
    assert [row.step for row in found] == [row.step for row in expected] == list(range(1, 8, every))
    for row, other in zip(found, expected, strict=True):
        assert row.error < 1e-14  # rounding of weights of magnitude 1
        for quantity, values in row.statistics.items():
            # The steps of torch and dashpot differ by rounding, which e/alpha of small changes amplifies.
            assert values == pytest.approx(other.statistics[quantity], rel=1e-10, abs=1e-12)
