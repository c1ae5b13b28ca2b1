"""Contract: maximize negates the gradient but not the decay."""

import torch
from contracts.trajectories import gradient, identical, parameters, run, values
from registry import each


def both(subject):
    """Return the weights of a maximizing run, and of a minimizing run with negated gradients."""
    params, others = parameters(), parameters()
    run(subject.make(params, maximize=True), params, 5)
    down = subject.make(others)
    for step in range(5):
        for index, p in enumerate(others):
            p.grad = -gradient(p, step, index)
        down.step()
    return params, others


@each(lambda subject: not subject.flips_decay)
def test_maximize_equals_minimizing_the_negative(subject):
    params, others = both(subject)
    assert identical(params, others)


@each(lambda subject: subject.flips_decay)
def test_maximize_quirk_negates_the_decay(subject):
    params, others = both(subject)
    assert not identical(params, others)


@each()
def test_maximize_raises_the_loss(subject):
    w = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = subject.make([w], maximize=True, schedule=None)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = 10 * w.sum()  # steep enough to outweigh the decay in all subjects
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


@each()
def test_maximize_can_differ_between_groups(subject):
    up, down = parameters(seed=1), parameters(seed=2)
    optimizer = subject.make([{"params": up, "maximize": True}, {"params": down}])
    run(optimizer, [*up, *down], 3)
    alone = parameters(seed=2)
    run(subject.make(alone), [*parameters(), *alone], 3)
    assert identical(down, alone)
    rising = parameters(seed=1)
    run(subject.make(rising, maximize=True), rising, 3)
    assert identical(up, rising)
    assert not identical(up, values(parameters(seed=1)))
