"""Routes, bounds and expected products for the closure tests."""

from curvature.second_order_support import (
    exact,
    probe_of,
    probes_of,
)

import dashpot as dp

DOUBLE = 1e-12


DIFFERENCES = 1e-8  # the squared step, roundoff^(2/3) = 2.3e-11, times third derivatives below 100


PROBES = ("auto", "forward", "differences")


ANSWERS = ("loss", "backward")  # kinds of closures allowed in curvature_step


def bound_of(way):
    return DIFFERENCES if way == "differences" else DOUBLE


def methodical(params, way="auto", **changes):
    """Return an optimizer whose state after one step is the last product, (v H v)^2."""
    settings = {"lr": 0.01, "betas": (0.0, 0.0), "spatial_averaging": False, "probe": probe_of(way)}
    return dp.AdaHessian(params, **{**settings, **changes})


def products_held(optimizer, params):
    """Return |v H v|, computed from the state."""
    return [optimizer.state[p]["hess_sq"].sqrt() for p in params]


def expected_products(optimizer, params, loss, number=0):
    probes = probes_of(optimizer, number)
    return [(v * hv).abs() for v, hv in zip(probes, exact(loss, params, probes)[1], strict=True)]


def _backward(loss):
    loss.backward()
    return loss
