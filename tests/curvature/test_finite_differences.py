"""Products by finite differences: accuracy and limits of the default step."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.probes import draw_probes

FLOATS = [torch.float64, torch.float32]
DIGITS = {torch.float64: 1e-9, torch.float32: 1e-3}  # largest measured: 3.4e-10 and 2.3e-4


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perceptron(activation):
    """Return weights of size 1 for three layers, and the mean squared error over 32 random examples as loss."""
    widths = (8, 16, 16, 3)
    layers = list(pairwise(widths))
    params = [normal(b, a, seed=i) / math.sqrt(a) for i, (a, b) in enumerate(layers)]
    inputs, targets = normal(32, widths[0], seed=10), normal(32, widths[-1], seed=11)

    def loss(params):
        h = inputs.to(params[0].dtype)
        for w in params[:-1]:
            h = activation(h @ w.T)
        return functional.mse_loss(h @ params[-1].T, targets.to(h.dtype))

    return params, loss


def logistic():
    inputs, labels = normal(64, 20, seed=1), normal(64, seed=2) > 0

    def loss(params):
        scores = inputs.to(params[0].dtype) @ params[0]
        return functional.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype))

    return [normal(20, seed=3)], loss


def rosenbrock():
    def loss(params):
        x, y = params[0][:-1], params[0][1:]
        return (100 * (y - x**2) ** 2 + (1 - x) ** 2).sum()

    return [normal(20, seed=4)], loss


def quartic():
    return [normal(30, seed=5)], lambda params: (params[0] ** 4).sum() / 4 + (params[0] ** 2).sum()


SMOOTH = {
    "tanh": lambda: perceptron(torch.tanh),
    "silu": lambda: perceptron(functional.silu),
    "softplus": lambda: perceptron(functional.softplus),
    "logistic": logistic,
    "rosenbrock": rosenbrock,
    "quartic": quartic,
}


def problem(name, scale=1.0, unit=1.0):
    """Problem with weights scaled by `scale`, or expressed in a different `unit`."""
    params, loss = SMOOTH[name]()
    return [scale * unit * p for p in params], lambda params: loss([p / unit for p in params])


def flat(tensors):
    return torch.cat([x.detach().double().flatten() for x in tensors])


class Case:
    """A loss with weights in a given dtype, a probe, and the product by double backward in float64."""

    def __init__(self, params, loss, dtype, number=0):
        self.loss = loss
        self.params = [p.to(dtype).requires_grad_() for p in params]
        self.probes = draw_probes("rademacher", 0, number, self.params, range(len(params)))
        wide = [p.detach().double().requires_grad_() for p in self.params]
        gradients = differentiable_gradients(loss(wide), wide)
        self.exact = flat(product_of_gradients(gradients, wide, [v.double() for v in self.probes]))

    def gradients(self):
        return list(torch.autograd.grad(self.loss(self.params), self.params))

    def rule(self, relative=None):
        return step_length(self.params, self.probes, relative or relative_step_for(self.params[0].dtype))

    def error(self, length):
        """Return the relative error of the product by differences, in the norm."""
        found = flat(central_difference(self.gradients, self.params, self.probes, length))
        return ((found - self.exact).norm() / self.exact.norm()).item()


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("scale", "unit"), [(1e-3, 1.0), (1.0, 1.0), (1.0, 1e3)], ids=["tiny", "plain", "large unit"])
def test_default_step_is_near_optimal(name, dtype, scale, unit):
    case = Case(*problem(name, scale, unit), dtype)
    length = case.rule()
    best = min(case.error(length * 2.0**k) for k in range(-12, 13, 2))
    # With tiny weights, some networks are nearly polynomial, so that much longer steps than usual are more accurate.
    assert case.error(length) < (150 if scale == 1e-3 else 10) * best  # largest measured: 103 and 1.3
    assert case.error(length) < DIGITS[dtype]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["rosenbrock", "quartic"])
def test_default_step_for_large_weights_of_polynomials(name, dtype):
    case = Case(*problem(name, scale=1e3), dtype)
    assert case.error(case.rule()) < 10 * min(case.error(case.rule() * 2.0**k) for k in range(-12, 13, 2))
    assert case.error(case.rule()) < DIGITS[dtype]


@pytest.mark.parametrize("name", SMOOTH)
def test_tiny_weights_require_a_custom_relative_step(name):
    # Documented limit: 1 + |w| is about 1, but the gradient changes over lengths of 1e-3.
    case = Case(*problem(name, unit=1e-3), torch.float64)
    assert case.error(case.rule()) > 1e-8
    norm = flat(case.params).norm().item()
    assert case.error(case.rule(relative_step_for(torch.float64) * norm / (1 + norm))) < 1e-9


def test_relative_step_is_the_cube_root_of_the_roundoff():
    for dtype, bits in ((torch.float64, 53), (torch.float32, 24), (torch.float16, 11), (torch.bfloat16, 8)):
        assert relative_step_for(dtype) == pytest.approx(2.0 ** (-bits / 3), rel=1e-15)


def test_step_length_takes_norms_over_all_parameters():
    params = [torch.tensor([3.0, 0.0]), torch.tensor(4.0), torch.empty(0), torch.tensor([12j])]
    probes = [torch.tensor([1.0, -1.0]), torch.tensor(1.0), torch.empty(0), torch.tensor([-1 + 0j])]
    assert step_length(params, probes, 0.5) == pytest.approx(0.5 * (1 + 13) / 2, rel=1e-15)
    assert math.isfinite(step_length([torch.empty(0)], [torch.empty(0)], 0.5))


def test_error_scaling_with_the_step_length():
    case = Case(*problem("tanh"), torch.float64)
    length = case.rule()
    above = [case.error(length * 2.0**k) for k in (6, 7, 8)]
    below = [case.error(length * 2.0**-k) for k in (6, 9, 12)]
    for small, large in pairwise(above):
        assert large / small == pytest.approx(4, rel=0.05)  # truncation is smooth
    for small, large in pairwise(below):
        assert 4 < large / small < 16  # roundoff varies randomly around the factor 8


# --- agreement and weights --------------------------------------------------------------------------------------------


def test_quadratic_has_no_truncation():
    A = normal(12, 12, seed=6)
    H = A + A.T
    case = Case([normal(12, seed=7)], lambda params: params[0] @ H.to(params[0].dtype) @ params[0] / 2, torch.float64)
    assert torch.allclose(case.exact, H @ case.probes[0].double(), rtol=1e-12, atol=1e-12)
    # Only roundoff remains, u |g|/e with u = 1e-16: a step as long as the weights leaves 14 correct digits.
    assert case.error(1.0) < 1e-14
    assert case.error(case.rule()) < 1e-9


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("call", [1, 2, None])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16, torch.complex64], ids=str)
def test_weights_are_restored_bit_for_bit(dtype, call):
    params = [(1e3 * normal(5, 4, seed=8)).to(dtype).requires_grad_(), torch.tensor([-0.0, 0.0, 1e-30]).to(dtype)]
    before = [p.detach().clone() for p in params]
    seen = []

    def gradients():
        seen.append([p.detach().clone() for p in params])
        if len(seen) == call:
            params[0].data.mul_(2)  # even changes by the closure are undone
            raise StopHereError
        return [p.detach().clone() for p in params]

    probes = draw_probes("rademacher", 0, 0, params, [0, 1])
    if call is None:
        central_difference(gradients, params, probes, 10.0)
    else:
        with pytest.raises(StopHereError):
            central_difference(gradients, params, probes, 10.0)
    assert len(seen) == (call or 2)
    for moved in seen:  # the weights were moved
        assert all(not torch.equal(m, b) for m, b in zip(moved, before, strict=True))
    for p, b in zip(params, before, strict=True):
        assert torch.equal(p.detach().view(torch.uint8), b.view(torch.uint8))
    assert params[0].requires_grad


def test_weights_are_restored_after_a_partial_failure():
    params = [torch.ones(3), torch.ones(2)]
    with pytest.raises(RuntimeError):
        central_difference(list, params, [torch.ones(3), torch.ones(5)], 1.0)
    assert all((p == 1).all() for p in params)


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_evaluated_in_the_callers_mode(enabled):
    modes = []

    def gradients():
        modes.append(torch.is_grad_enabled())
        return [torch.ones(1, requires_grad=True) * 1]

    with torch.set_grad_enabled(enabled):
        (product,) = central_difference(gradients, [torch.ones(1)], [torch.ones(1)], 1.0)
    assert modes == [enabled, enabled]
    assert product is not None
    assert not product.requires_grad


def test_parameter_without_a_gradient_has_no_product():
    products = central_difference(lambda: [None, torch.ones(1)], [torch.ones(1)] * 2, [torch.ones(1)] * 2, 1.0)
    assert products[0] is None
    assert products[1] == 0


# --- arithmetic with a coarser dtype than the weights -----------------------------------------------------------------


def classifier(kind):
    torch.manual_seed(0)
    middle = [nn.Tanh()] if kind == "tanh" else [nn.GELU(), nn.LayerNorm(64)]
    model = nn.Sequential(nn.Linear(32, 64), *middle, nn.Linear(64, 64), *copy.deepcopy(middle), nn.Linear(64, 10))
    return model, torch.randn(256, 32), torch.randint(0, 10, (256,))


def autocast_error(kind, dtype, relative, number):
    model, inputs, labels = classifier(kind)
    params = list(model.parameters())
    wide = copy.deepcopy(model).double()
    probes = draw_probes("rademacher", 0, number, params, range(len(params)))
    exact = differentiable_gradients(functional.cross_entropy(wide(inputs.double()), labels), list(wide.parameters()))
    exact = flat(product_of_gradients(exact, list(wide.parameters()), [v.double() for v in probes]))

    def gradients():
        with torch.autocast("cpu", dtype):
            loss = functional.cross_entropy(model(inputs), labels)
        return list(torch.autograd.grad(loss, params))

    found = flat(central_difference(gradients, params, probes, step_length(params, probes, relative)))
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(("kind", "limit"), [("tanh", 0.06), ("gelu", 0.3)])
def test_step_under_autocast_follows_the_coarser_dtype(kind, limit):
    # bfloat16: float32 weights are multiplied with 8 significant bits, whose roundoff exceeds the float32 step.
    coarse = autocast_error(kind, torch.bfloat16, relative_step_for(torch.bfloat16), 0)
    fine = autocast_error(kind, torch.bfloat16, relative_step_for(torch.float32), 0)
    assert coarse < limit  # measured 0.025 and 0.24: with layer norms, truncation dominates
    assert fine > 0.2  # measured 0.45 and 0.29
    assert coarse < fine


# --- discontinuous gradients ------------------------------------------------------------------------------------------


def test_differences_include_curvature_of_kinks():
    # E relu(x w) over standard normal x is |w|/sqrt(2 pi), whose Hessian is (1 - w w'/w^2)/(|w| sqrt(2 pi)); with fixed
    # x the loss is piecewise linear in w.
    w, x = normal(5, seed=12), normal(2**18, 5, seed=13).float()
    case = Case([w], lambda params: functional.relu(x.to(params[0].dtype) @ params[0]).mean(), torch.float32)
    assert (case.exact == 0).all()
    unit = w / w.norm()
    H = (torch.eye(5, dtype=torch.float64) - torch.outer(unit, unit)) / (w.norm() * math.sqrt(2 * math.pi))
    (found,) = central_difference(case.gradients, case.params, case.probes, case.rule(0.1))
    expected = H @ case.probes[0].double()
    assert found is not None
    # About 2^18 * 0.1 examples have a kink between the two points, so the sampling error is 1 %. The truncation error
    # is 0.1^2 for a step of 0.1.
    assert (found.double() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.slow
def test_on_a_relu_network_in_float32_products_agree_in_the_mean():
    # The jumps of the gradient are multiples of the residuals. If the residuals have mean zero for every input (the
    # targets are outputs of the network plus noise), the contribution of the jumps to a product also has mean zero.
    count, params = 400, [normal(8, 6, seed=14) / 2, normal(8, seed=15) / 2, normal(8, seed=16) / 3]
    gaps, sizes = [], []
    for k in range(count):
        inputs, noise = normal(64, 6, seed=100 + k), normal(64, seed=10_000 + k)

        def network(params, x=inputs):
            return functional.relu(x.to(params[0].dtype) @ params[0].T + params[1]) @ params[2]

        targets = network(params) + noise

        def loss(params, network=network, targets=targets):
            return functional.mse_loss(network(params), targets.to(params[0].dtype))

        case = Case(params, loss, torch.float32, number=k)
        found = flat(central_difference(case.gradients, case.params, case.probes, case.rule(0.03)))
        v = flat(case.probes)
        gaps.append(v * (found - case.exact))
        sizes.append(v * case.exact)
    gaps, sizes = torch.stack(gaps), torch.stack(sizes)
    z = gaps.mean(dim=0) / (gaps.std(dim=0) / math.sqrt(count)).clamp_min(1e-12)
    assert z.abs().max() < 6  # 64 elements, nearly normal for 400 draws: the limit is exceeded with probability 1e-7
    # Single products do not agree: in the norm over all draws, the jumps contribute this much to the estimates.
    assert gaps.norm() > 0.1 * sizes.norm()
    # The limit on the mean is small enough to distinguish a product from zero.
    assert (sizes.mean(dim=0) / (gaps.std(dim=0) / math.sqrt(count)).clamp_min(1e-12)).abs().max() > 30
