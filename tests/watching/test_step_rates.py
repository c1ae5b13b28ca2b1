"""Elementwise rates: the predicted change of a step equals the change that the optimizer makes."""

import pytest
import torch

import dashpot as dp
from dashpot.watching.rates import RateView

OPTIMIZERS = {
    "torch-sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "torch-adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01, amsgrad=True),
    "torch-adamw": lambda p: torch.optim.AdamW(p, lr=0.1, maximize=True),
    "torch-nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "torch-rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "torch-adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "sgd": lambda p: dp.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: dp.AdamW(p, lr=0.1, schedule=dp.schedules.Cosine(10)),
    "autosgm": lambda p: dp.AutoSGM(p, lr=0.1),
    "autosgm-1": lambda p: dp.AutoSGM(p, lr=0.1, numerator=1),
    "nag": lambda p: dp.NAG(p, lr=0.1),
    "qhadam": lambda p: dp.QHAdam(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_predicted_change_equals_the_step(name):
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[name]([p])
    target = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    for _ in range(4):
        optimizer.zero_grad()
        ((p - target) ** 2).mul(torch.arange(1, 13).view(4, 3)).sum().backward()
        found = RateView(optimizer).tensor(0, p)
        assert found is not None
        before = p.detach().clone()
        optimizer.step()
        predicted = -found.scale * found.direction - found.shrink * before
        # The same arithmetic in a different order; torch's NAdam keeps a product of momenta in float32.
        rtol = 1e-6 if name == "torch-nadam" else 1e-10
        torch.testing.assert_close(p.detach() - before, predicted, rtol=rtol, atol=1e-12)
