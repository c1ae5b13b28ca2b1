"""Estimates from products against exact Hessians: unbiased, with the theoretical variance.

With h the row i of a symmetric Hessian H, both estimates are quadratic forms q = v' A v of the probe:

    "diagonal"   q = v_i (H v)_i    A = (e_i h' + h e_i')/2
        mean H_ii; variance sum_(j != i) H_ij^2 for Rademacher probes, 2 H_ii^2 more for Gaussian ones
    "row-norm"   q = (H v)_i^2      A = h h'
        mean s = sum_j H_ij^2 = (H^2)_ii; variance 2 (s^2 - sum_j H_ij^4) for Rademacher probes, 2 s^2 for Gaussian ones
    "diagonal" averaged over a window of elements: A is the mean of the matrices of these elements
        mean of H_ii over the window

For any A: E q = tr A; the variance is 2 sum A_jk^2 over all j, k for Gaussian probes, over j != k for Rademacher ones
(v_j^2 = 1 has no variance). Gaussian probes have the fourth central moment 48 tr A^4 + 3 variance^2 (fourth cumulant
2^3 3! tr A^4); for Rademacher probes, all moments are computed as exact sums over all 2^n probes.

Sampling limits: seeds are fixed, so a test either always passes or always fails. The limit for means is Z exact
standard deviations; the limit for sample variances is Z_VARIANCE of their standard deviations, which follow from the
fourth moment. A normal number exceeds Z = 6 with probability 2e-9. Sample variances of chi-square numbers are skewed
(13 before averaging), so Z_VARIANCE is 9.
"""

import math
import warnings
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch.func import hessian
from torch.nn import functional

import dashpot as dp
from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.forward_over_reverse import forward_tangents, gradients_and_products
from dashpot.curvature.probes import draw, draw_probes
from dashpot.engine.rounding import seed_word, stream
from dashpot.recipes.recipe import BoundStage
from dashpot.stages.base import Observation
from dashpot.stages.curvature import Curvature

Z, Z_VARIANCE = 6.0, 9.0
COUNTS = {"quadratic": 1000, "tanh network": 2000, "convolution": 1000}  # the second is also for wrong estimates
BOTH = ["rademacher", "gaussian"]
PROBES = 0x50524F42  # first key of the probe streams


# --- problems with a known Hessian ------------------------------------------------------------------------------------


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic:
    """w'Hw/2 + b'w over two joined parameters, where H is symmetric with eigenvalues of both signs."""

    def __init__(self):
        M = normal(9, 9, seed=1)
        self.H, self.b = M + M.T, normal(9, seed=2)
        assert torch.linalg.eigvalsh(self.H).sign().unique().tolist() == [-1, 1]
        self.params = [normal(2, 3, seed=3).requires_grad_(), normal(3, seed=4).requires_grad_()]

    def loss(self, params):
        w = torch.cat([p.flatten() for p in params])
        return w @ self.H @ w / 2 + self.b @ w


class _Model:
    """A small model, and its exact Hessian by torch.func in the order of the parameters."""

    def __init__(self, params):
        self.params = [p.requires_grad_() for p in params]
        sizes = [p.numel() for p in params]

        def of_vector(w):
            pieces = w.split(sizes)
            return self.loss([x.view(p.shape) for x, p in zip(pieces, params, strict=True)])

        with warnings.catch_warnings():  # torch scripts its formulas, which triggers its own deprecation warning
            warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
            self.H = hessian(of_vector)(torch.cat([p.detach().flatten() for p in params]))

    def loss(self, params):
        raise NotImplementedError


class TanhNetwork(_Model):
    """2 inputs, 3 units, 1 output; a least-squares loss at weights far from a fit."""

    def __init__(self):
        self.inputs, self.targets = normal(16, 2, seed=5), normal(16, seed=6)
        super().__init__([normal(3, 2, seed=7), normal(3, seed=8), normal(3, seed=9)])

    def loss(self, params):
        W, b, out = params
        return (torch.tanh(self.inputs @ W.T + b) @ out - self.targets).square().mean()


class ConvolutionNetwork(_Model):
    """Two 2 x 2 kernels on one channel, tanh, the mean, and one output."""

    def __init__(self):
        self.images, self.targets = normal(8, 1, 4, 4, seed=10), normal(8, seed=11)
        super().__init__([normal(2, 1, 2, 2, seed=12), normal(2, seed=13)])

    def loss(self, params):
        kernel, out = params
        return (
            (torch.tanh(functional.conv2d(self.images, kernel)).mean(dim=(2, 3)) @ out - self.targets).square().mean()
        )


PROBLEMS = {"quadratic": Quadratic, "tanh network": TanhNetwork, "convolution": ConvolutionNetwork}


# --- products by the library's routes ---------------------------------------------------------------------------------


def joined(tensors):
    return torch.cat([x.detach().flatten() for x in tensors])


def by_double_backward(problem, probes):
    params = problem.params
    gradients = differentiable_gradients(problem.loss(params), params)
    return [product_of_gradients(gradients, params, vs, retain_graph=True) for vs in probes]


def by_forward_over_reverse(problem, probes):
    products = []
    for vs in probes:
        with forward_tangents(problem.params, vs):
            products.append(gradients_and_products(problem.loss(problem.params), problem.params)[1])
    return products


def by_differences(problem, probes):
    params = problem.params

    def gradients():
        return list(torch.autograd.grad(problem.loss(params), params))

    relative = relative_step_for(torch.float64)
    return [central_difference(gradients, params, vs, step_length(params, vs, relative)) for vs in probes]


ROUTES = {"double": by_double_backward, "forward": by_forward_over_reverse, "differences": by_differences}


def probes_of(distribution, params, count):
    """Return the first `count` draws of seed 3 in one batch; a few are checked against `draw_probes`."""
    numbers = torch.arange(count, dtype=torch.int32)
    words = [stream(seed_word(3), PROBES, numbers, ordinal) for ordinal in range(len(params))]
    columns = [draw(distribution, w.view(-1, *[1] * p.dim()), p) for w, p in zip(words, params, strict=True)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    for k in (0, 1, count - 1):
        expected = draw_probes(distribution, 3, k, params, range(len(params)))
        assert all(torch.equal(a, b) for a, b in zip(rows[k], expected, strict=True))
    return rows


@cache
def sample(name, distribution, route="double", count=None):
    """Return (problem, probes, products), where probes and products are lists over draws of lists over parameters."""
    problem = PROBLEMS[name]()
    probes = probes_of(distribution, problem.params, count or COUNTS[name])
    return problem, probes, ROUTES[route](problem, probes)


def estimates(stage, params, probes, products):
    """Return the estimate of each draw, one per row; with beta = 0, the slot contains the last estimate."""
    line, settings = BoundStage.of(stage), SimpleNamespace(beta=0.0)
    columns = []
    for i, p in enumerate(params):
        empty = line.state_type(torch.zeros_like(p, requires_grad=False), *[torch.tensor(0.0)] * (len(line.keys) - 1))

        def estimate(v, hv, empty=empty):
            return stage.observe(Observation(v, hv, empty.hessian.dim()), empty, settings, None).hessian

        vs, hvs = (torch.stack([row[i] for row in rows]) for rows in (probes, products))
        columns.append(torch.func.vmap(estimate)(vs, hvs).flatten(1))
    return torch.cat(columns, dim=1)


ROW_NORM = Curvature(beta=0.0, estimate="row-norm", accumulator="squares")
DIAGONAL = Curvature(beta=0.0, estimate="diagonal", accumulator="mean")
AVERAGED = Curvature(beta=0.0, estimate="diagonal", accumulator="mean", spatial=True)


# --- theory -----------------------------------------------------------------------------------------------------------


def form(stage, H, i, window):
    """Return the matrix A of the estimate of element i; `window` lists the elements over which it is averaged."""
    if stage.estimate == "row-norm":
        return torch.outer(H[i], H[i])
    A = torch.zeros_like(H)
    for j in window if stage.spatial else [i]:
        A[j] += H[j] / 2
        A[:, j] += H[j] / 2
    return A / (len(window) if stage.spatial else 1)


def windows(params):
    """Return the elements of the window of each element of all parameters."""
    found, first = [], 0
    for p in params:
        places = torch.arange(p.numel()).view(p.shape) + first
        area = math.prod(p.shape[2:])
        rows = places.reshape(-1, area) if p.dim() > 2 else places.reshape(-1, 1)
        found += [row for row in rows.tolist() for _ in row]
        first += p.numel()
    return found


def every_probe(n):
    return 1.0 - 2 * ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double()


def moments(A, distribution):
    """Return (mean, variance, fourth central moment) of v'Av."""
    if distribution == "gaussian":
        square = A @ A
        variance = 2 * square.trace()
        return A.trace(), variance, 48 * (square @ square).trace() + 3 * variance**2
    V = every_probe(len(A))
    q = ((V @ A) * V).sum(dim=1)
    return q.mean(), ((q - q.mean()) ** 2).mean(), ((q - q.mean()) ** 4).mean()


def all_moments(stage, problem, distribution):
    areas = windows(problem.params)
    rows = [moments(form(stage, problem.H, i, areas[i]), distribution) for i in range(len(problem.H))]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def scores(found, theory):
    """Return the largest z-scores of the means and of the variances over all elements."""
    mean, variance, fourth = theory
    count = len(found)
    of_means = (found.mean(dim=0) - mean) / (variance / count).sqrt()
    of_variances = (((found - mean) ** 2).mean(dim=0) - variance) / ((fourth - variance**2) / count).sqrt()
    return of_means.abs().max().item(), of_variances.abs().max().item()


def passes(found, theory):
    of_means, of_variances = scores(found, theory)
    return of_means < Z and of_variances < Z_VARIANCE


@pytest.mark.parametrize("distribution", BOTH)
@pytest.mark.parametrize("name", PROBLEMS)
def test_means_and_variances_are_those_of_the_formulas(name, distribution):
    H = PROBLEMS[name]().H
    problem = PROBLEMS[name]()
    squares, fourths, own = (H**2).sum(dim=1), (H**4).sum(dim=1), H.diagonal()
    gaussian = distribution == "gaussian"
    expected = {
        ROW_NORM: ((H @ H).diagonal(), 2 * squares**2 - (0 if gaussian else 2 * fourths)),
        DIAGONAL: (own, squares - own**2 + (2 * own**2 if gaussian else 0)),
    }
    for stage, (mean, variance) in expected.items():
        exact = all_moments(stage, problem, distribution)
        # 1e-12: sums of at most 2^12 terms.
        assert torch.allclose(exact[0], mean, rtol=1e-12, atol=1e-12)
        assert torch.allclose(exact[1], variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("distribution", BOTH)
def test_average_over_a_window_has_the_mean_of_the_diagonal_and_a_smaller_variance(distribution):
    problem = ConvolutionNetwork()
    mean, variance, _ = all_moments(AVERAGED, problem, distribution)
    diagonal = problem.H.diagonal()
    for kernel in (slice(0, 4), slice(4, 8)):
        assert torch.allclose(mean[kernel], diagonal[kernel].mean().expand(4), rtol=1e-12)
        inside = problem.H[kernel, kernel]
        across = problem.H[kernel].square().sum() - inside.square().sum()
        pairs = inside.square().sum() - (0 if distribution == "gaussian" else inside.diagonal().square().sum())
        # Pairs inside the window count twice in v'Av, and pairs across its edge once.
        assert torch.allclose(variance[kernel], ((2 * pairs + across) / 16).expand(4), rtol=1e-12)
    assert torch.allclose(mean[8:], diagonal[8:], rtol=1e-12, atol=0)  # a vector has no window


# --- draws ------------------------------------------------------------------------------------------------------------


def check(stage, problem, probes, products, distribution):
    found = estimates(stage, problem.params, probes, products)
    of_means, of_variances = scores(found, all_moments(stage, problem, distribution))
    assert of_means < Z
    assert of_variances < Z_VARIANCE


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        pytest.param(name, distribution, marks=pytest.mark.slow if fast != distribution else ())
        for name, fast in zip(PROBLEMS, ["gaussian", "rademacher", "gaussian", "rademacher"], strict=False)
        for distribution in BOTH
    ],
)
def test_estimates_have_the_mean_and_the_variance_of_theory(name, distribution):
    problem, probes, products = sample(name, distribution)
    for stage in (ROW_NORM, DIAGONAL, *([AVERAGED] if name == "convolution" else [])):
        check(stage, problem, probes, products, distribution)


@pytest.mark.parametrize("route", [pytest.param("forward", marks=pytest.mark.slow), "differences"])
def test_estimates_of_other_routes_have_the_theoretical_moments(route):
    problem, probes, products = sample("tanh network", "rademacher", route, 800)
    for stage in (ROW_NORM, DIAGONAL):
        check(stage, problem, probes, products, "rademacher")


@pytest.mark.diagonal
@pytest.mark.parametrize("distribution", BOTH)
@pytest.mark.parametrize("name", PROBLEMS)
def test_routes_agree_draw_by_draw(name, distribution):
    problem = PROBLEMS[name]()
    probes = probes_of(distribution, problem.params, 50)
    exact = torch.stack([problem.H @ joined(vs) for vs in probes])
    for route, limit in (("double", 1e-12), ("forward", 1e-12), ("differences", 1e-8)):  # rounding; truncation
        found = torch.stack([joined(hvs) for hvs in ROUTES[route](problem, probes)])
        assert ((found - exact).norm(dim=1) / exact.norm(dim=1)).max() < limit


WRONG = ["row sums", "squares of row sums", "blocks apart", "half the variance", "the other distribution"]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_estimates_fail_the_moment_test(wrong):
    problem, probes, products = sample("tanh network", "rademacher")
    stage, distribution = ROW_NORM, "rademacher"
    if wrong in ("row sums", "squares of row sums"):
        ones = [[torch.ones_like(p, requires_grad=False) for p in problem.params]] * 2
        probes, products = ones, by_double_backward(problem, ones)
        sums = problem.H.sum(dim=1)
        assert torch.allclose(joined(products[0]), sums, rtol=1e-12, atol=1e-12)
        stage = DIAGONAL if wrong == "row sums" else ROW_NORM
        probes, products = probes * 1000, products * 1000
    elif wrong == "blocks apart":  # one product per parameter, which omits the blocks between parameters
        first, H = 0, torch.zeros_like(problem.H)
        for p in problem.params:
            block = slice(first, first := first + p.numel())
            H[block, block] = problem.H[block, block]
        sizes = [p.numel() for p in problem.params]
        products = [
            [x.view(p.shape) for x, p in zip((H @ joined(vs)).split(sizes), problem.params, strict=True)]
            for vs in probes
        ]
    elif wrong == "half the variance":  # means over two draws
        half = estimates(stage, problem.params, probes, products)
        found = (half[0::2] + half[1::2]) / 2
        assert scores(found, all_moments(stage, problem, distribution))[0] < Z  # the mean is correct
        assert not passes(found, all_moments(stage, problem, distribution))
        return
    else:
        distribution = "gaussian"
    found = estimates(stage, problem.params, probes, products)
    assert not passes(found, all_moments(stage, problem, distribution))


# --- whole optimizers -------------------------------------------------------------------------------------------------


def run(method, problem, count, **settings):
    """Return the method's average after `count` products at the same weights (lr = 0)."""
    opt = method(problem.params, lr=0.0, weight_decay=0.0, update_d_every=1, **settings)
    for _ in range(count):
        opt.backward(problem.loss(problem.params))
        opt.step()
        opt.zero_grad()
    assert opt.curvature_stats.products == count
    key = "hess" if method is dp.Sophia else "hess_sq"
    return joined([opt.state[p][key] for p in problem.params])


def average_z(found, theory, beta, count):
    """Return the z-score of an exponential average that starts at 0 and has the weights (1 - beta) beta^k."""
    mean, variance, _ = theory
    expected = (1 - beta**count) * mean
    spread = (1 - beta) / (1 + beta) * (1 - beta ** (2 * count)) * variance
    return ((found - expected) / spread.sqrt()).abs().max().item()


def test_optimizer_state_matches_the_predicted_average():
    problem, beta, count = TanhNetwork(), 0.98, 60
    kept = run(dp.ESGD, problem, count, betas=(0.9, beta))
    assert average_z(kept, all_moments(ROW_NORM, problem, "rademacher"), beta, count) < Z
    kept = run(dp.Sophia, problem, count, betas=(0.9, beta))
    assert average_z(kept, all_moments(DIAGONAL, problem, "gaussian"), beta, count) < Z
    problem = ConvolutionNetwork()
    kept = run(dp.AdaHessian, problem, count, betas=(0.9, beta))
    mean, variance, fourth = all_moments(AVERAGED, problem, "rademacher")
    # The square of the estimate z: its mean is variance + mean^2; its variance is at most E z^4.
    theory = mean**2 + variance, fourth + 6 * mean**2 * variance + mean**4 + 4 * mean.abs() * fourth**0.75, None
    assert average_z(kept, theory, beta, count) < Z
    wrong = all_moments(DIAGONAL, problem, "rademacher")
    assert average_z(kept, (wrong[0] ** 2 + wrong[1], theory[1], None), beta, count) > Z
