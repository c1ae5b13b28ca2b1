"""Second order in an ordinary loop: micro-batches, dropout, and the same run once more with differences of gradients.

Handwritten digits, a small network. `opt.backward(loss)` stands for `loss.backward()`: every tenth step it also takes a
Hessian-vector product. Where a model has no double backward, a closure and `probe="differences"` do the same with
ordinary gradients.
Run: python examples/second_order.py
"""

import torch
from torch import nn

import dashpot as dp
from dashpot import tasks

EPOCHS, PARTS = 3, 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 10))


def with_backward(data):
    """Each batch in two halves: gradients and products add up alike."""
    model = network()
    opt = dp.ESGD(model.parameters(), lr=0.1)
    for epoch in range(EPOCHS):
        for x, y in data.train.epoch(epoch):
            opt.zero_grad()
            for half, labels in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
                opt.backward(data.loss(model(half), labels) * (len(half) / len(x)))
            opt.step()
    return model, opt


def with_a_closure(data):
    """The same method for a model that can be differentiated only once; the closure is called again with the same
    dropout."""
    model = network()
    opt = dp.ESGD(model.parameters(), lr=0.1, probe="differences")
    for epoch in range(EPOCHS):
        for x, y in data.train.epoch(epoch):

            def closure(x=x, y=y):
                opt.zero_grad()
                loss = data.loss(model(x), y)
                loss.backward()
                return loss

            opt.step(closure)
    return model, opt


def accuracy(model, data):
    data.model = model
    return tasks.evaluate(data)["accuracy"]


def main():
    data = tasks.get("digits").build(0)
    results = {}
    for train in (with_backward, with_a_closure):
        model, opt = train(data)
        stats = opt.curvature_stats
        results[train.__name__] = accuracy(model, data), stats.route, stats.products
        print(
            f"{train.__name__}: accuracy {results[train.__name__][0]:.3f} after {EPOCHS} epochs and {opt.steps_done()} "
            f"steps; {stats.products} products by {stats.route} ({stats.reason})"
        )
    return results


if __name__ == "__main__":
    results = main()
