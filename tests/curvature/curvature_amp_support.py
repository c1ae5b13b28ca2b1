"""Model, routes and steps for tests of mixed precision."""

import contextlib
import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import dashpot as dp

ROUTES = ("backward", "graph", "step", "curvature_step", "forward", "differences")


BFLOAT16, FLOAT16 = 2.0**-8, 2.0**-11


SCALE = 2.0**10


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ESGD-1": (dp.ESGD, {"lr": 0.3, "lr_warmup": 0.9, "eps": 1e-2, "update_d_every": 5, "d_warmup": 5}),
    "ESGD-2": (dp.ESGD, {"lr": 0.3, "lr_warmup": 0.5, "eps": 1e-2, "update_d_every": 5, "d_warmup": 5, "version": 2}),
    "AdaHessian": (dp.AdaHessian, {"lr": 0.1, "update_d_every": 2}),
    "Sophia": (dp.Sophia, {"lr": 0.01, "gamma": 1.0, "update_d_every": 5}),
}


def make(name, model, **options):
    method, settings = METHODS[name]
    return method(model.parameters(), **{**settings, **options})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(36, 16), nn.Linear(16, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.tanh(self.conv(x)).flatten(1))))


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net().to(dtype)


def data():
    x = torch.randn(64, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    return x, torch.sin(x.flatten(1)[:, :3].sum(1, keepdim=True))


def loss_of(model, cast=None):
    x, y = data()
    with torch.autocast("cpu", cast) if cast else contextlib.nullcontext():
        out = model(x.to(model.first.weight.dtype))
    return (out.float() - y).square().mean()


def twice_differentiably(loss, opt):
    with warnings.catch_warnings():  # torch warns about a reference cycle, which the step breaks
        warnings.filterwarnings("ignore", "Using backward", UserWarning)
        loss.backward(create_graph=opt.should_create_graph())


def take_step(model, opt, route, cast=None):
    """Take one step by a route and return the previous loss."""

    def closure():
        opt.zero_grad()
        loss = loss_of(model, cast)
        loss.backward()
        return loss

    if route in ("step", "forward", "differences"):
        return opt.step(closure)
    if route == "curvature_step" and opt.should_create_graph():
        opt.curvature_step(lambda: loss_of(model, cast))
    loss = loss_of(model, cast)
    if route == "backward":
        opt.backward(loss)
    elif route == "graph":
        twice_differentiably(loss, opt)
    else:
        loss.backward()
    opt.step()
    opt.zero_grad()
    return loss


def probe_of(route):
    return route if route in ("forward", "differences") else "auto"


def product(route, cast=None, model=None, relative_step=None, around: Any = contextlib.nullcontext):
    """Return the elementwise product u * (H u) for one probe u.

    This is Sophia's accumulator after one product with beta2 = 0.
    """
    model = net() if model is None else model
    settings = {"betas": (0.0, 0.0), "distribution": "rademacher", "relative_step": relative_step}
    opt = dp.Sophia(model.parameters(), lr=0.0, probe=probe_of(route), **settings)
    with around():
        take_step(model, opt, route, cast)
    assert opt.curvature_stats.products == 1
    return torch.cat([opt.state[p]["hess"].float().flatten() for p in model.parameters()])


def distance(a, b):
    return float((a - b).norm() / b.norm())


def tolerance(route, cast, relative_step):
    """Return the bound on the relative distance.

    Rounding errors of the activations are independent, so that their RMS is a few unit roundoffs u; measured: 1.2 u,
    plus the error of finite differences.
    """
    unit = BFLOAT16 if cast == torch.bfloat16 else FLOAT16
    if route != "differences":
        return 4 * unit
    # Truncation error: 1.2 e^2, measured in float32. Noise: gradient roundoff over the step, measured 0.3 to 0.6 u/e.
    return 2.5 * relative_step**2 + 1.2 * unit / relative_step


EACH = pytest.mark.parametrize(
    ("name", "route"),
    [*(("ESGD-1", route) for route in ROUTES), *((name, "backward") for name in METHODS if name != "ESGD-1")],
)


def scaled_step(loss_of_model, opt, scaler, way):
    """Take one step with a scaled loss that is provided in one of several ways."""
    if way == "curvature_step" and opt.should_create_graph():
        opt.curvature_step(loss_of_model)
    loss = loss_of_model()
    if way in ("scaler", "unscaled first"):
        opt.backward(loss, scaler=scaler)
    elif way == "scaled":
        opt.backward(scaler.scale(loss))
    elif way == "graph":
        twice_differentiably(scaler.scale(loss), opt)
    else:
        scaler.scale(loss).backward()
    if way == "unscaled first":
        scaler.unscale_(opt)
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()


def kept(model, opt):
    """Return copies of the weights and the state."""
    return copy.deepcopy([[p.detach(), dict(opt.state.get(p, {}))] for p in model.parameters()])


def assert_identical(mine, expected):
    for (p, state), (q, other) in zip(mine, expected, strict=True):
        assert torch.equal(p, q)
        assert state.keys() == other.keys()
        assert all(torch.equal(state[key], other[key]) for key in state), [
            key for key in state if not torch.equal(state[key], other[key])
        ]
