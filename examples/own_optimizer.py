"""Optimizers in a file of your own, compared with those of dashpot and torch.

`Lion` is an optimizer class with its own search space. `lion_and_adam` combines two optimizers: Lion updates the
weights, and Adam the biases and other vectors.

Compare them, tuned with the same number of trials:

    dashpot compare digits --methods adamw,torch.optim.RAdam,examples/own_optimizer.py:Lion --seeds 5 --budget 8

Run: python examples/own_optimizer.py
"""

import tempfile
from pathlib import Path

import torch
from torch.optim import Adam, Optimizer

from dashpot import tasks
from dashpot.comparison import CombinedOptimizer, Study, entry, run_study


class Lion(Optimizer):
    """Lion: the sign of a moving average of the gradient, with decoupled weight decay.

    c = b1 m + (1 - b1) g,    w <- w - lr (sign(c) + decay w),    m <- b2 m + (1 - b2) g

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675.
    """

    SEARCH_SPACE = {  # noqa: RUF012
        "lr": (1e-5, 1e-2, "log"),
        "weight_decay": (1e-3, 1.0, "log"),
        "betas[0]": (0.5, 0.99),
        "warmup": (0, 0.2),
    }

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("average", torch.zeros_like(p))
                direction = torch.lerp(p.grad, m, b1).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                m.lerp_(p.grad, 1 - b2)


def lion_and_adam(params, lr=1e-4, adam_lr=1e-3):
    """Return Lion for the weights, and Adam for biases and other vectors.

    A factory with a parameter `model` also gets the model, for example to choose parameters by name.
    """
    params = list(params)
    weights, vectors = [p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]
    return CombinedOptimizer([Lion(weights, lr), Adam(vectors, adam_lr)], ["weights", "vectors"])


lion_and_adam.SEARCH_SPACE = {"lr": (1e-5, 1e-2, "log"), "adam_lr": (1e-4, 1e-1, "log")}


def main():
    task = tasks.get("digits")
    rates = {"adamw": 0.01, "torch.optim.RAdam": 0.01, f"{__file__}:Lion": 0.003, f"{__file__}:lion_and_adam": 0.003}
    entries = tuple(entry(name, task.name, lr=lr, schedule="cosine") for name, lr in rates.items())
    study = Study(task, entries, seeds=(0,), epochs=1, threads=1)
    runs = run_study(study, Path(tempfile.mkdtemp()) / "study")
    for run in runs:
        print(f"{run.entry:<28} {run.header['recipe'].partition('(')[0]:<10} {run.end['test']['accuracy']:.3f}")
    return runs


if __name__ == "__main__":
    runs = main()
