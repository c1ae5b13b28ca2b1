"""Eigenvalues, traces and densities equal those of explicit matrices."""

import math

import pytest
import torch
from hessian_models import MODELS, explicit, problem

from dashpot.curvature import eigenvalues, hessian, spectral_density, trace
from dashpot.curvature.lanczos import LanczosProcess
from dashpot.errors import ArgumentError


class Matrix:
    """An explicit symmetric matrix with the interface of an operator."""

    device = torch.device("cpu")

    def __init__(self, values, dtype=torch.float64, seed=0):
        n, generator = len(values), torch.Generator().manual_seed(seed)
        q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        self.matrix = (q * torch.tensor(values, dtype=torch.float64)) @ q.T
        self.size, self.dtype, self.count = n, dtype, 0

    def __call__(self, vector):
        self.count += 1
        return self.matrix.to(self.dtype) @ vector


@pytest.mark.parametrize("name", MODELS)
def test_eigenvalues_of_models_equal_explicit(name):
    model, closure = problem(name)
    expected = torch.linalg.eigvalsh(explicit(model, closure))
    with hessian(closure, list(model.parameters())) as h:
        found = eigenvalues(h, 2, tolerance=1e-6)
        total = trace(h, samples=50)
    assert found.converged
    assert found.values == pytest.approx(expected.flip(0)[:2].tolist(), rel=1e-8)  # errors are squares of residuals
    assert abs(total.value - float(expected.sum())) < total.high - total.low  # four standard errors


def test_residuals_bound_the_errors_at_every_iteration():
    matrix = Matrix([*torch.linspace(-1, 1, 60).tolist(), 1.5, 2.0])
    exact = torch.linalg.eigvalsh(matrix.matrix)
    for iterations in range(1, 20):
        found = eigenvalues(matrix, 1, tolerance=1e-12, iterations=iterations)
        error = float((exact - found.values[0]).abs().min())
        assert error <= found.residuals[0] * (1 + 1e-9) + 1e-12  # rounding in float64


def test_clustered_eigenvalues_produce_no_copies():
    values = [1.0, 0.5, 0.5 - 1e-6, *torch.linspace(-0.375, 0.375, 50).tolist()]
    found = eigenvalues(Matrix(values), 4, tolerance=1e-10, iterations=53)
    assert found.values == pytest.approx([1.0, 0.5, 0.5 - 1e-6, 0.375], abs=1e-9)  # float64 with margin
    assert found.lowest == pytest.approx(-0.375, abs=1e-9)


def test_warm_start_needs_fewer_products():
    values = [2.0, *torch.linspace(-1, 1.8, 200).tolist()]
    cold = eigenvalues(Matrix(values), tolerance=0.01)
    warm = eigenvalues(Matrix(values), tolerance=0.01, start=cold.vectors)
    assert warm.iterations < cold.iterations
    assert warm.values[0] == pytest.approx(2.0, rel=1e-3)  # residual 0.01, gap 0.2: error 0.01^2/0.2 = 5e-4


def test_warm_start_from_another_eigenvector_finds_the_largest():
    matrix = Matrix([2.0, 1.0, *torch.linspace(-1, 0.5, 50).tolist()])
    second = torch.linalg.eigh(matrix.matrix)[1][:, -2:-1].T
    assert eigenvalues(matrix, start=second, tolerance=1e-4).values[0] == pytest.approx(2.0, rel=1e-6)


def test_float32_vectors_stay_orthogonal():
    matrix = Matrix([5.0, 4.9, *torch.linspace(-1, 1, 100).tolist()], dtype=torch.float32)
    process = LanczosProcess(matrix, torch.randn(102, generator=torch.Generator().manual_seed(0)))
    for _ in range(60):
        process.advance()
    basis = torch.stack(process.basis).double()
    error = (basis @ basis.T - torch.eye(len(basis), dtype=torch.float64)).abs().max()
    assert float(error) < 1e-5  # some roundoffs of float32; copies of 5.0 appear without reorthogonalization
    assert float(process.ritz().values[-1]) == pytest.approx(5.0, rel=1e-5)


def test_small_matrix_exhausts_the_space():
    found = eigenvalues(Matrix([3.0, -1.0]), 5)
    assert found.values == pytest.approx([3.0, -1.0], rel=1e-9)
    assert (found.iterations, found.converged) == (2, True)


def test_trace_interval_covers_in_95_percent_of_seeds():
    matrix = Matrix([*torch.linspace(-1, 3, 40).tolist()])
    exact = float(matrix.matrix.trace())
    covered = sum(found.low <= exact <= found.high for found in (trace(matrix, 10, seed=s) for s in range(400)))
    assert 400 * 0.95 - 3 * math.sqrt(400 * 0.95 * 0.05) < covered < 397  # three standard deviations


def test_density_matches_the_moments_of_the_spectrum():
    values = torch.cat([torch.linspace(-0.1, 0.1, 180), torch.linspace(1, 2, 20)]).tolist()
    found = spectral_density(Matrix(values), samples=10, iterations=30)
    assert sum(found.weights) == pytest.approx(1, abs=1e-9)
    assert found.share_below(0.5) == pytest.approx(0.9, abs=0.02)  # 10 starts: standard deviation .3/sqrt(200 * 10/2)
    grid = torch.linspace(-1, 3, 4001)
    integral = float(torch.trapezoid(torch.tensor(found.at(grid.tolist(), 0.05)), grid))
    assert integral == pytest.approx(1, abs=1e-3)  # trapezoidal rule, and tails outside the grid


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: eigenvalues(m, 0), r"eigenvalues: count must be an integer in \[1, inf\), got 0\."),
        (lambda m: eigenvalues(m, tolerance=0.0), "eigenvalues: tolerance must be"),
        (lambda m: eigenvalues(m, iterations=1.5), "eigenvalues: iterations must be"),
        (lambda m: trace(m, samples=1), "trace: samples must be"),
        (lambda m: spectral_density(m, samples=1), "spectral_density: samples must be"),
        (lambda m: spectral_density(m, iterations=0), "spectral_density: iterations must be"),
    ],
)
def test_bad_arguments_raise(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(Matrix([1.0, 2.0]))
