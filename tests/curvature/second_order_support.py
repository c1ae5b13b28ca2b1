"""Small realistic losses, exact reference products, and the ways to pass a loss to a second-order optimizer."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import conv1d, conv2d

from dashpot.curvature import draw_probes

BATCHES = 3  # batches repeat
WAYS = ("backward", "graph", "closure", "forward", "differences", "curvature_step")
EXACT_WAYS = tuple(way for way in WAYS if way != "differences")


def batch(k, size=6):
    """Return (inputs, targets) of step k."""
    generator = torch.Generator().manual_seed(k % BATCHES)
    x = torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(size, 3, generator=generator, dtype=torch.float64)


def weights(dtype=torch.float64):
    """Return the kernels of a convolution over images and of a convolution over sequences, a matrix and a vector."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((3, 2, 2, 2), (2, 3, 2), (3, 16), (3,))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [(x / math.sqrt(max(x[0].numel(), 1))).to(dtype).requires_grad_() for x in drawn]


def residual(params, data) -> Any:
    """Mean squared error of a network with both kinds of convolution; it is smooth, so its Hessian always exists."""
    image, sequence, matrix, vector = params
    x, y = data
    h = torch.tanh(conv2d(x.to(image.dtype), image))
    h = torch.tanh(conv1d(h.flatten(2), sequence))
    return ((h.flatten(1) @ matrix.T + vector - y.to(image.dtype)) ** 2).mean()


def quartic(params) -> Any:
    """Coupled loss whose Hessian is neither constant nor diagonal."""
    total = sum(p.sum() for p in params)
    return sum((p**4).sum() / 4 + (p * p).sum() for p in params) + total**2 / 2


def leaves(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def exact(loss, params, probes):
    """Return (gradients, H v) by two backward passes, at copies of the parameters."""
    point = [p.detach().clone().requires_grad_() for p in params]
    grads = torch.autograd.grad(loss(point), point, create_graph=True)
    pairs = [(g, v) for g, v in zip(grads, probes, strict=True) if g.requires_grad]  # otherwise, g is constant
    outputs, seeds = zip(*pairs, strict=True)
    products = torch.autograd.grad(outputs, point, seeds, materialize_grads=True)
    return [g.detach() for g in grads], list(products)


def exact_forward(loss, params, probes):
    """Return (gradients, H v) by forward-over-reverse differentiation with torch.func."""
    point = tuple(p.detach().clone() for p in params)
    gradient = torch.func.grad(lambda values: loss(list(values)))
    # The first forward derivative loads scripted formulas of torch, which trigger torch's deprecation warning.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        return tuple(map(list, torch.func.jvp(gradient, (point,), (tuple(probes),))))


def probes_of(optimizer, number, distribution="rademacher", seed=0):
    """Return the probes of product `number` for all parameters of an optimizer, in order."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return draw_probes(distribution, seed, number, params, range(len(params)))


@contextmanager
def ignoring_cycles():
    """Silence torch's single warning about reference cycles created by create_graph=True, which the step breaks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True", UserWarning)
        yield


def backward_with_graph(loss, wanted):
    """Call `loss.backward(create_graph=wanted)`."""
    with ignoring_cycles():
        loss.backward(create_graph=wanted)


def probe_of(way):
    """Return the option `probe` that selects the given route."""
    return way if way in ("forward", "differences") else "auto"


def take_step(way, optimizer, losses):
    """Take one step by the given route; `losses` are functions that return the parts of the mean loss."""

    def closure():
        optimizer.zero_grad()
        return _gone_back(losses, lambda loss: loss.backward())

    if way in ("closure", "forward", "differences"):
        return optimizer.step(closure)
    optimizer.zero_grad()
    if way == "backward":
        loss = _gone_back(losses, optimizer.backward)
    elif way == "graph":
        graph = optimizer.should_create_graph()
        loss = _gone_back(losses, lambda loss: backward_with_graph(loss, graph))
    else:
        if optimizer.should_create_graph():
            optimizer.curvature_step(closure)
        loss = _gone_back(losses, lambda loss: loss.backward())
    optimizer.step()
    return loss


def _gone_back(losses, backward):
    total = 0.0
    for part in losses:
        loss = part()
        backward(loss)
        total += loss.detach()
    return total


def error(got, expected):
    """Return the largest |a - b| / max(1, |b|) over all elements, or infinity if a value is not finite."""
    pairs = list(zip(got, expected, strict=True))
    errors = [((a - b).abs() / b.abs().clamp_min(1)).max().item() for a, b in pairs if b.numel()]
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def snapshot(optimizer):
    """Return copies of weights, gradients, state and groups, which a rejected call must not change."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = (
        {(i, key): value.detach().clone() for i, p in enumerate(params) for key, value in optimizer.state[p].items()}
        if optimizer.state
        else {}
    )
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return [p.detach().clone() for p in params], state, groups


def same(a, b):
    """Return whether snapshots and state dicts are bit-identical."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def scalar_weights(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def diagonal(optimizer, p):
    """Return the absolute value of AdaHessian's diagonal estimate for betas (0, 0)."""
    return optimizer.state[p]["hess_sq"].sqrt()
