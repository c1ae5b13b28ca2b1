"""A cell of the table of docs/watching.md: the measured ratio at equilibrium is about 1."""

import statistics

import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.curvature import eigenvalues
from dashpot.data import digits
from dashpot.watching import preconditioned_hessian


@pytest.mark.slow
def test_full_batch_training_equilibrates_at_the_edge():
    torch.manual_seed(0)
    found = digits.load()
    x = torch.from_numpy(found.train_images[:200]).float().div_(8).sub_(1).flatten(1)
    y = nn.functional.one_hot(torch.from_numpy(found.train_labels[:200]).long(), 10).float()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = dp.SGD(model.parameters(), 0.1)

    def closure():
        return (model(x) - y).square().sum(1).mean() / 2

    ratios, start = {}, None
    for step in range(1, 901):
        optimizer.zero_grad()
        closure().backward()
        if step in (1, 2) or (step > 600 and step % 20 == 0):
            with preconditioned_hessian(optimizer, closure) as operator:
                top = eigenvalues(operator, start=start, tolerance=0.02)
            ratios[step], start = top.values[0], top.vectors
        optimizer.step()
    assert ratios[1] < 0.7  # the loss is flat initially: progressive sharpening raises the ratio to 1
    late = [ratio for step, ratio in ratios.items() if step > 600]
    assert statistics.fmean(late) == pytest.approx(1, abs=0.1)  # docs/watching.md: the deviation of this cell is 0.003
