"""A plain PyTorch loop on 1797 real digits, watched: four more lines, and an answer in at most five sentences.

Run: python examples/watch_a_run.py [PAGE.html]
"""

import sys

import torch

import dashpot as dp
from dashpot import tasks


def main(epochs=10, batch_size=50, budget=1.0):
    problem = tasks.get("digits", batch_size=batch_size).build(0)
    model = problem.model.train()
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)  # any optimizer of torch, dashpot or others
    watcher = dp.watch(opt, model, budget)  # 1: no limit of the cost in this short run; the default budget is 0.03

    for epoch in range(epochs):
        for x, y in problem.train.epoch(epoch):

            def loss_of(first=0, last=None, x=x, y=y):  # 2: the loss of a range of the examples
                return problem.loss(model(x[first:last]), y[first:last])

            loss = loss_of()
            opt.zero_grad()
            loss.backward()
            watcher.observe(loss, closure=loss_of, sliced=loss_of, size=len(x))  # 3
            opt.step()
    watcher.close()
    return watcher


if __name__ == "__main__":
    watcher = main()
    report = watcher.report()  # 4
    print(report)
    if len(sys.argv) > 1:
        print(report.save(sys.argv[1]))
