"""Benchmarks of second-order methods at toy size, without timing."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import convergence  # noqa: E402
import products as cost  # noqa: E402


@pytest.mark.parametrize("problem", convergence.problems(), ids=lambda problem: problem.name)
def test_problem_derivatives_match_their_values(problem):
    generator = torch.Generator().manual_seed(0)
    w = problem.start + 0.1 * torch.randn(3, len(problem.start), generator=generator, dtype=torch.float64)
    v = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    w.requires_grad_()
    (expected,) = torch.autograd.grad(problem.at(w)[0].sum(), w, create_graph=True)
    (product,) = torch.autograd.grad(expected, w, v)
    w = w.detach()
    for found, right in ((problem.at(w)[1], expected.detach()), (problem.product(w, v), product)):
        assert (found - right).norm() <= 1e-12 * right.norm()  # a few hundred roundings of float64
    assert problem.at(problem.start[None])[0] > 0.9


def test_closed_form_of_gradient_descent_counts_its_steps():
    problem, rate = convergence.quadratic(rotated=False), 0.5
    h = torch.tensor([1.0, 0.02], dtype=torch.float64)
    steps = convergence.descent_steps(h, rate)
    loss = lambda t: ((1 - rate * h) ** (2 * t)).mean()  # noqa: E731
    assert loss(steps) <= convergence.TARGET < loss(steps - 1)
    assert convergence.descent_steps(problem.eigenvalues, rate) == float("inf")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, id=method.name, marks=pytest.mark.slow if method.name == "ESGD, version 2" else ())
        for method in convergence.METHODS
    ],
)
def test_vmapped_search_equals_the_optimizer_class(method, monkeypatch):
    # a diagonal Hessian and signs as probes: products do not depend on chance, so the counts must agree
    h = torch.tensor([1.0, 0.25], dtype=torch.float64)
    easy = convergence.Problem(
        "easy", torch.ones(2, dtype=torch.float64), lambda w: ((w * w * h).sum(1) / 2, w * h), lambda w, v: v * h, h
    )
    monkeypatch.setattr(convergence, "RATES", [0.03, 0.1, 0.3])
    monkeypatch.setattr(convergence, "TARGET", 1e-4)  # the search reaches this target early
    if method.probing:
        method = method._replace(probing=method.probing._replace(distribution="rademacher"))
    found = convergence.best(easy, method, 3000)
    runs = convergence.measure(easy, method, found.pole, found.rate, 3000)
    assert {iterations for iterations, _ in runs} == {found.iterations}


def test_convergence_replaces_its_tables_alone(tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    page.write_text(f"before\n{convergence.SECTION.begin}\nold\n{convergence.SECTION.end}\nafter\n")
    monkeypatch.setattr(convergence, "sections", lambda only, budget: ["new", "newer"])
    convergence.main(["--write", str(page)])
    assert (
        page.read_text() == f"before\n{convergence.SECTION.begin}\n\nnew\n\nnewer\n\n{convergence.SECTION.end}\nafter\n"
    )
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="must contain the lines"):
        convergence.main(["--write", str(page)])


def test_unreached_targets_are_reported(monkeypatch):
    monkeypatch.setattr(convergence, "RATES", [0.001, 0.002])
    line = convergence.row(convergence.quadratic(rotated=True), convergence.METHODS[0], 20)
    assert line.startswith("| SGD |  |  | > 20 | least loss ")


@pytest.mark.parametrize(
    "route",
    [pytest.param(r, marks=() if r == "closure" else pytest.mark.slow) for r in cost.MUST],
)
def test_every_route_of_the_cost_table_trains(route):
    batch = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward", UserWarning)
        row = cost.measured(route, batch, 0.0)
    assert row.route == route
    assert row.value > 0


def test_cost_table_reports_missed_targets():
    row = cost.Row("graph", 1.3, 1.2, 1.4, 0.1, 0.2, 7)
    text = cost.table(1, [row])
    assert text.startswith("### 1 thread\n")
    assert "| graph | 1.25 | 1.30 | 1.20 to 1.40 | **missed** | 100.0 | 200.0 | 7 |" in text
