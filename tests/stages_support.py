"""Functions that run stages over a sequence of gradients in float64, without an optimizer."""

import torch
from hypothesis import settings

from dashpot import Recipe
from dashpot.engine.eager import new_slots
from dashpot.engine.program import WholeTensor
from dashpot.stages import Clock, Signal

CONTEXT = WholeTensor()
few = settings(max_examples=25)  # each example drives a stage through a dozen steps


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def signals(stages, gradients, *, weights=None, lr=0.1, factor=1.0, window=1.0):
    """Yield the signal after the last stage at t = 1, 2, ..., with the state handling of the engine.

    `stages` is a sequence of stages, or a function from t to such a sequence, for settings that change during a run.
    `weights` contains w at each step; without `weights`, w is zero.
    """
    at = stages if callable(stages) else lambda t: stages
    gradients = [tensor(g) if not isinstance(g, torch.Tensor) else g for g in gradients]
    weights = [torch.zeros_like(g) for g in gradients] if weights is None else weights
    state = new_slots(Recipe(*at(1)), gradients[0])
    out = []
    for t, (g, w) in enumerate(zip(gradients, weights, strict=True), start=1):
        clock = Clock(t=t, lr=lr, factor=factor, window=window)
        x = Signal(w=w, g=g, d=1.0, v=g, rate=lr, shrink=None)
        for line in Recipe(*at(t)).bound_stages:
            held = line.state_type(*(state[key] for key in line.keys))
            x, held = line.stage.apply(x, held, line.stage.prepare(clock), CONTEXT)
            state.update(zip(line.keys, held, strict=True))
        out.append(x)
    return out


def directions(stages, gradients, **settings):
    """Return v after the last stage at every step, stacked along the first axis."""
    return torch.stack([x.v for x in signals(stages, gradients, **settings)])


def stepped(optimizer, params, gradients):
    """Step with the given gradients (per step and parameter) and return the parameters after every step."""
    path = []
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def noise(*shape, seed=0):
    """Return standard normal numbers from a separate generator."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
