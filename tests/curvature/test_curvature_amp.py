"""Products in mixed and low precision: autocast, gradient scalers, clipping, half-precision weights."""

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
"""Unit roundoffs."""
SCALE = 2.0**10
"""A power of two, like every scale that torch's scaler uses by itself: scaling changes exponents only."""

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
    with warnings.catch_warnings():  # torch warns of a circle of references, which step breaks
        warnings.filterwarnings("ignore", "Using backward", UserWarning)
        loss.backward(create_graph=opt.should_create_graph())


def take_step(model, opt, route, cast=None):
    """One step by a route; the loss before it."""

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


# ---- autocast -------------------------------------------------------------------------------------------------------


def product(route, cast=None, model=None, relative_step=None, around: Any = contextlib.nullcontext):
    """u H u of one probe: what Sophia's accumulator holds after one product if it forgets all others."""
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
    """Of the relative distance. Roundings of the values that pass through the network are independent and add up to a
    few units in the root mean square; measured are 1.2 u, for differences beside their own errors."""
    unit = BFLOAT16 if cast == torch.bfloat16 else FLOAT16
    if route != "differences":
        return 4 * unit
    # Truncation: 1.2 e^2 measured in float32. Noise: the gradients' roundoff over the step, 0.3 to 0.6 u/e measured.
    return 2.5 * relative_step**2 + 1.2 * unit / relative_step


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
def test_products_under_autocast_are_those_of_float32(route, cast):
    step = 0.1 if route == "differences" else None
    found = distance(product(route, cast, relative_step=step), product("backward"))
    assert 0 < found < tolerance(route, cast, step)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("relative_step", [0.02, 0.05, 0.1])
def test_differences_under_autocast_err_as_the_documentation_says(cast, relative_step):
    found = distance(product("differences", cast, relative_step=relative_step), product("backward"))
    assert found < tolerance("differences", cast, relative_step)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("before", [False, True])
def test_an_autocast_region_around_everything_changes_nothing(route, before):
    """Autocast keeps the weights it has cast until it ends, and does not see them move."""
    model, step = net(), 0.1 if route == "differences" else None

    @contextlib.contextmanager
    def around():
        with torch.autocast("cpu", torch.bfloat16):
            if before:
                loss_of(model)
            yield

    found = distance(product(route, model=model, relative_step=step, around=around), product("backward"))
    assert 0 < found < tolerance(route, torch.bfloat16, step)


EACH = pytest.mark.parametrize(
    ("name", "route"),
    [*(("ESGD-1", route) for route in ROUTES), *((name, "backward") for name in METHODS if name != "ESGD-1")],
)
"""Every route and every method; what they share is the product."""


@EACH
def test_the_loss_falls_under_autocast(name, route):
    model = net()
    step = {"relative_step": 0.1} if route == "differences" else {}
    opt = make(name, model, probe=probe_of(route), **step)
    losses = [take_step(model, opt, route, torch.bfloat16).item() for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    assert opt.curvature_stats.skipped == 0


# ---- gradient scalers -----------------------------------------------------------------------------------------------

SCALED = ("scaler", "scaled", "graph", "curvature_step", "unscaled first")


def scaled_step(loss_of_model, opt, scaler, way):
    """One step in one of the ways to give the loss of a scaled training step."""
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
    """Weights and state, copied."""
    return copy.deepcopy([[p.detach(), dict(opt.state.get(p, {}))] for p in model.parameters()])


def assert_identical(mine, expected):
    for (p, state), (q, other) in zip(mine, expected, strict=True):
        assert torch.equal(p, q)
        assert state.keys() == other.keys()
        assert all(torch.equal(state[key], other[key]) for key in state), [
            key for key in state if not torch.equal(state[key], other[key])
        ]


@pytest.mark.parametrize("way", SCALED)
@pytest.mark.parametrize("name", METHODS)
def test_a_scaler_leaves_no_trace(name, way):
    """Weights and accumulators, bit for bit, over a growing scale and steps with and without products."""
    model, other = net(), net()
    opt, expected = make(name, model), make(name, other)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=3)
    for _ in range(12):
        scaled_step(lambda: loss_of(model), opt, scaler, way)
        take_step(other, expected, "backward")
    assert scaler.get_scale() == SCALE * 2**4
    assert_identical(kept(model, opt), kept(other, expected))
    assert opt.curvature_stats[2:4] == expected.curvature_stats[2:4]


def test_micro_batches_of_a_scaled_loss():
    model, other = net(), net()
    opt, expected = make("ESGD-1", model), make("ESGD-1", other)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for _ in range(8):
        for _ in range(2):
            opt.backward(loss_of(model) / 2, scaler=scaler)
            expected.backward(loss_of(other) / 2)
        scaler.step(opt)
        scaler.update()
        expected.step()
        opt.zero_grad()
        expected.zero_grad()
    assert_identical(kept(model, opt), kept(other, expected))


def test_a_scaler_that_is_switched_off():
    model, other = net(), net()
    opt, expected = make("ESGD-1", model), make("ESGD-1", other)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for way in SCALED:
        scaled_step(lambda: loss_of(model), opt, scaler, way)
        take_step(other, expected, "backward")
    assert_identical(kept(model, opt), kept(other, expected))


@pytest.mark.parametrize("way", ["scaled", "graph"])
def test_unscaled_gradients_beside_a_product_that_is_still_scaled(way):
    model = net()
    opt = make("ESGD-1", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    loss = scaler.scale(loss_of(model))
    if way == "scaled":
        opt.backward(loss)
    else:
        twice_differentiably(loss, opt)
    scaler.unscale_(opt)
    before = kept(model, opt)
    with pytest.raises(dp.CurvatureError, match=r"use opt\.backward\(loss, scaler=scaler\)"):
        scaler.step(opt)
    assert_identical(kept(model, opt), before)
    assert opt.steps_done() == 0


def test_unscaling_before_a_step_without_a_product_is_nobodys_concern():
    model = net()
    opt = make("ESGD-1", model, d_warmup=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaled_step(lambda: loss_of(model), opt, scaler, "scaler")
    assert not opt.should_create_graph()
    opt.backward(scaler.scale(loss_of(model)))
    scaler.unscale_(opt)
    scaler.step(opt)
    assert opt.steps_done() == 2


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("way", SCALED)
def test_an_overflow_skips_the_step_and_the_next_one_takes_the_product(way, first):
    """At the very first step and at the sixth, where a product is due after some without."""
    model, other = net(), net()
    opt, expected = make("ESGD-1", model, d_warmup=1), make("ESGD-1", other, d_warmup=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for _ in range(0 if first else 5):
        scaled_step(lambda: loss_of(model), opt, scaler, way)
        take_step(other, expected, "backward")
    assert opt.should_create_graph()
    before, stats, done = kept(model, opt), opt.curvature_stats[2:4], opt.steps_done()
    scaled_step(lambda: loss_of(model) * float("inf"), opt, scaler, way)
    assert opt.last_step == "skipped"
    assert scaler.get_scale() == SCALE / 2
    assert_identical(kept(model, opt), before)
    assert (opt.curvature_stats[2:4], opt.steps_done()) == (stats, done)
    assert opt.should_create_graph()
    scaled_step(lambda: loss_of(model), opt, scaler, way)
    take_step(other, expected, "backward")
    assert opt.curvature_stats.products == stats[0] + 1
    assert_identical(kept(model, opt), kept(other, expected))


@pytest.mark.parametrize("way", SCALED)
@pytest.mark.parametrize("scale", [2.0**16, 2.0**30])
def test_float16_autocast_with_a_scaler(way, scale):
    """2^16 is torch's first scale. With 2^30 steps are skipped until the scale just fits the gradients. Products are
    larger than gradients, and must not be lost for that."""
    model, losses = net(), []
    opt = make("ESGD-1", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def loss():
        value = loss_of(model, torch.float16)
        losses.append(value.item())
        return value

    for _ in range(40):
        scaled_step(loss, opt, scaler, way)
    assert (opt.steps_done() < 40) == (scaler.get_scale() < scale) == (scale > 2.0**16)
    assert opt.curvature_stats.products >= 8
    assert opt.curvature_stats.skipped == 0
    assert losses[-1] < 0.5 * losses[0]


# ---- clipping -------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("clip", [{"max_norm": 1e-3}, {"clip_value": 1e-5}], ids=str)
def test_clipping_leaves_the_product_alone(name, clip, route):
    keys = {"hess", "hess_sq", "hess_weight", "products"}
    found = []
    for options in ({}, clip):
        model = net()
        opt = make(name, model, probe=probe_of(route), **options)
        take_step(model, opt, route)
        found.append((model, [{k: v for k, v in opt.state[p].items() if k in keys} for p in model.parameters()]))
    (free, expected), (clipped, states) = found
    for state, other in zip(states, expected, strict=True):
        assert state
        assert all(torch.equal(state[key], other[key]) for key in other)
    assert not torch.equal(free.last.weight, clipped.last.weight)


def test_clipping_a_scaled_loss():
    """`max_norm` is that of the gradient without the scale; the product has no scale either."""
    model, other = net(), net()
    opt, expected = (make("ESGD-1", m, max_norm=0.05) for m in (model, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for _ in range(6):
        scaled_step(lambda: loss_of(model), opt, scaler, "scaled")
        take_step(other, expected, "backward")
        assert opt.last_step == "clipped"
    assert_identical(kept(model, opt), kept(other, expected))


# ---- half-precision weights -----------------------------------------------------------------------------------------


@EACH
def test_weights_in_bfloat16_take_products(name, route):
    model = net(torch.bfloat16)
    options = {"rounding": "stochastic", "state_dtype": torch.bfloat16}
    opt = make(name, model, probe=probe_of(route), **options)
    losses = [take_step(model, opt, route).item() for _ in range(12)]
    assert losses[-1] < losses[0]
    assert opt.curvature_stats.skipped == 0
    for p in model.parameters():
        for key in {"hess", "hess_sq"} & opt.state[p].keys():
            assert opt.state[p][key].dtype == torch.bfloat16
            assert opt.state[p][key].isfinite().all()


@pytest.mark.parametrize("route", ROUTES)
def test_products_of_bfloat16_weights(route):
    """Against float32 arithmetic with the same, rounded, weights."""
    rounded = net(torch.bfloat16)
    same = copy.deepcopy(rounded).float()
    step = 0.1 if route == "differences" else None
    found = distance(product(route, model=rounded, relative_step=step), product("backward", model=same))
    assert 0 < found < 2 * tolerance(route, torch.bfloat16, step)


def test_an_accumulator_in_bfloat16_is_right_in_the_mean():
    """D = beta D + (1 - beta) q^2 moves by less than half of what bfloat16 resolves, thousands of times: rounded to
    nearest it would stay where it is."""
    count, products = 1024, 200
    held = {}
    for dtype, options in (
        (torch.float32, {}),
        (torch.bfloat16, {"rounding": "stochastic", "state_dtype": torch.bfloat16}),
    ):
        w = nn.Parameter(torch.zeros(count))
        given = torch.linspace(0.5, 1.5, products)
        draws = iter(given)

        def product(params, probes, draws=draws):
            return [torch.full((count,), float(next(draws)))]

        opt = dp.ESGD([w], lr=0.0, betas=(0.0, 0.999), update_d_every=1, probe=product, **options)
        for _ in range(products):
            w.grad = torch.ones(count)
            opt.step()
        held[dtype] = opt.state[w]["hess_sq"].double()
    exact, mean = float(held[torch.float32].mean()), float(held[torch.bfloat16].mean())
    # Each of 200 roundings of numbers below 0.3 has a variance of at most (2^-9)^2/4, of mean 0.
    deviation = (products * 2.0**-18 / 4 / count) ** 0.5
    assert abs(mean - exact) < 5 * deviation
    assert exact > 20 * deviation
