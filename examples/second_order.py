"""A second-order method in a plain loop with micro-batches, dropout, and products from differences of gradients.

`opt.backward(loss)` replaces `loss.backward()` and additionally computes a Hessian-vector product every tenth step. For
models without double backward, a closure with `probe="differences"` requires only first-order gradients.
Run: python examples/second_order.py
"""

import torch
from torch import nn

import dashpot as dp
from dashpot import tasks

EPOCHS, MICRO_BATCHES = 3, 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 10))


def with_backward(data):
    """Train with two micro-batches per step, over which gradients and products accumulate."""
    model = network()
    opt = dp.ESGD(model.parameters(), lr=0.1)
    for epoch in range(EPOCHS):
        for x, y in data.train.epoch(epoch):
            opt.zero_grad()
            for x_micro, y_micro in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
                opt.backward(data.loss(model(x_micro), y_micro) * (len(x_micro) / len(x)))
            opt.step()
    return model, opt


def with_a_closure(data):
    """Train without double backward; for a product, the closure is called again with the same dropout masks."""
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
