"""Functions that read tests/golden: float64 numbers recorded from the original implementations (see its README)."""

import json
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "golden"


@cache
def load(name):
    """Return the contents of a golden file as plain data."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def cases(*names):
    """Return (id, problem, case) for every case in the named files; problem ids are unique only within a file."""
    return [
        (case["id"], load(name)["problems"][case["problem"]], case) for name in names for case in load(name)["cases"]
    ]


def start(problem):
    """Return the initial parameters of a problem in float64, which require gradients."""
    shapes = problem["shapes"]
    if problem["kind"] == "quadratic":
        sizes = [int(torch.tensor(shape).prod()) for shape in shapes]
        parts = torch.tensor(problem["init_vector"], dtype=torch.float64).split(sizes)
    else:
        parts = [torch.tensor(values, dtype=torch.float64) for values in problem["init"]]
    return [part.clone().reshape(shape).requires_grad_() for part, shape in zip(parts, shapes, strict=True)]


def gradients(problem, case):
    """Return the recorded gradients per step. Quadratics store them with the case, other problems with the problem."""
    return case["grads"] if problem["kind"] == "quadratic" else problem["grads"]


def replay(optimizer, params, problem, case):
    """Feed the recorded gradients and return the largest relative error over all steps, elements and parameters.

    Errors are relative to max(|expected|, 1e-3), because the expected value of an entry may pass through zero.
    """
    worst = 0.0
    steps = gradients(problem, case)
    for grads, expected in zip(steps, case["params"], strict=False):
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64).reshape(p.shape)
        optimizer.step()
        for p, e in zip(params, expected, strict=True):
            want = torch.tensor(e, dtype=torch.float64)
            error = (p.detach().flatten() - want).abs() / want.abs().clamp_min(1e-3)
            worst = max(worst, error.max().item())
    return worst
