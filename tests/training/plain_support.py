"""Optimizer classes without torch's interface, and learners that use them."""

from __future__ import annotations

import torch
from learner_support import linear_learner, pairs


class Lesson:
    """The published base class: gradient descent with weight decay."""

    def __init__(self, params, lr, wd=0):
        params = list(params)
        self.params, self.lr, self.wd, self.i = params, lr, wd, 0

    def step(self):
        with torch.no_grad():
            for p in self.params:
                self.reg_step(p)
                self.opt_step(p)
        self.i += 1

    def opt_step(self, p):
        p -= p.grad * self.lr

    def reg_step(self, p):
        if self.wd != 0:
            p *= 1 - self.lr * self.wd

    def zero_grad(self):
        for p in self.params:
            p.grad.data.zero_()


class MomentumSGD(Lesson):
    def __init__(self, params, lr, wd=0, mom=0.9):
        super().__init__(params, lr, wd)
        self.mom = mom

    def opt_step(self, p):
        grad_avg = getattr(p, "grad_avg", torch.zeros_like(p.grad))
        p.grad_avg = grad_avg * self.mom + p.grad * (1 - self.mom)
        p -= p.grad_avg * self.lr


class Saved(MomentumSGD):
    """MomentumSGD with a state."""

    def state_dict(self):
        return {"i": self.i, "averages": [getattr(p, "grad_avg", torch.zeros_like(p)) for p in self.params]}

    def load_state_dict(self, state):
        self.i = state["i"]
        for p, average in zip(self.params, state["averages"], strict=True):
            p.grad_avg = average


def learner_of(make, lr=1.25, **options):
    return linear_learner(pairs(), make, lr=lr, **options)
