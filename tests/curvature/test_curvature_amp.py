"""Products in mixed and low precision: autocast, gradient scalers, clipping, half-precision weights."""

import contextlib

import pytest
import torch
from curvature_amp_support import (
    EACH,
    METHODS,
    ROUTES,
    SCALE,
    assert_identical,
    distance,
    kept,
    loss_of,
    make,
    net,
    probe_of,
    product,
    scaled_step,
    take_step,
    tolerance,
    twice_differentiably,
)

import dashpot as dp

"""Unit roundoffs."""


"""A power of two, like all scales that torch's scaler chooses, so that scaling changes only exponents."""


@pytest.mark.diagonal
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
def test_products_under_autocast_match_float32(route, cast):
    step = 0.1 if route == "differences" else None
    found = distance(product(route, cast, relative_step=step), product("backward"))
    assert 0 < found < tolerance(route, cast, step)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("relative_step", [0.02, 0.05, 0.1])
def test_differences_under_autocast_have_the_documented_error(cast, relative_step):
    found = distance(product("differences", cast, relative_step=relative_step), product("backward"))
    assert found < tolerance("differences", cast, relative_step)


@pytest.mark.diagonal
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("before", [False, True])
def test_surrounding_autocast_has_no_effect(route, before):
    """Autocast caches cast weights until its context ends."""
    model, step = net(), 0.1 if route == "differences" else None

    @contextlib.contextmanager
    def around():
        with torch.autocast("cpu", torch.bfloat16):
            if before:
                loss_of(model)
            yield

    found = distance(product(route, model=model, relative_step=step, around=around), product("backward"))
    assert 0 < found < tolerance(route, torch.bfloat16, step)


"""All routes and all methods, which share the computation of products."""


@EACH
def test_loss_falls_under_autocast(name, route):
    model = net()
    step = {"relative_step": 0.1} if route == "differences" else {}
    opt = make(name, model, probe=probe_of(route), **step)
    losses = [take_step(model, opt, route, torch.bfloat16).item() for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    assert opt.curvature_stats.skipped == 0


SCALED = ("scaler", "scaled", "graph", "curvature_step", "unscaled first")


@pytest.mark.diagonal
@pytest.mark.parametrize("way", SCALED)
@pytest.mark.parametrize("name", METHODS)
def test_scaler_does_not_change_the_run(name, way):
    """Weights and accumulators are bit-identical while the scale grows, with and without products."""
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


def test_disabled_scaler():
    model, other = net(), net()
    opt, expected = make("ESGD-1", model), make("ESGD-1", other)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for way in SCALED:
        scaled_step(lambda: loss_of(model), opt, scaler, way)
        take_step(other, expected, "backward")
    assert_identical(kept(model, opt), kept(other, expected))


@pytest.mark.parametrize("way", ["scaled", "graph"])
def test_unscaled_gradients_with_a_scaled_product(way):
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


def test_unscaling_before_a_step_without_a_product():
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
def test_overflow_defers_the_product_to_the_next_step(way, first):
    """Overflow occurs in the first and in the sixth step, in which a product is due."""
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


@pytest.mark.diagonal
@pytest.mark.parametrize("way", SCALED)
@pytest.mark.parametrize("scale", [2.0**16, 2.0**30])
def test_float16_autocast_with_a_scaler(way, scale):
    """2^16 is torch's initial scale; with 2^30, steps are skipped until the gradients are finite. Products are larger
    than gradients and must not overflow."""
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
