"""Support for comparing engines with equal parameters, gradients and settings."""

from __future__ import annotations

import pytest
import torch
from contracts.trajectories import gradient
from registry import SUBJECTS

import dashpot as dp
from dashpot.engine.native import build, kernel

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """Clear the kernel caches in memory and on disk, so that every new kernel counts as a compilation."""
    monkeypatch.setenv("DASHPOT_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setattr(kernel, "_KERNELS", {})
    monkeypatch.setattr(build, "_libraries", {})


def clone_leaves(params):
    """Clone tensors as leaves with the same values and memory order."""
    return [p.detach().clone(memory_format=torch.preserve_format).requires_grad_() for p in params]


def eager_and_compiled(make, params):
    """Return a pair (parameters, optimizer) for the eager engine and one for the compiled engine."""
    first, second = clone_leaves(params), clone_leaves(params)
    return (first, make(first, engine="eager")), (second, make(second, engine="compiled"))


def set_gradients(params, step, arrange=lambda g, index: g, missing=lambda step, index: False):
    """Set the recorded gradients of a step on all parameters."""
    for index, p in enumerate(params):
        p.grad = None if missing(step, index) else arrange(gradient(p, step, index), index)


def run_steps(pairs, steps, **options):
    """Take the same steps with several pairs (parameters, optimizer)."""
    for step in steps:
        for params, optimizer in pairs:
            set_gradients(params, step, **options)
            optimizer.step()


def explanation(optimizer):
    """Return the rows of `explain_engine`."""
    return "\n".join(dp.explain_engine(optimizer).rows)


def is_compiled(optimizer):
    """Check that every tensor with elements is stepped by a kernel."""
    rows = [row for row in dp.explain_engine(optimizer).rows if "no elements" not in row]
    return bool(rows) and all("compiled," in row for row in rows)


def state_of(optimizer, p):
    return {key: value.detach().clone() for key, value in optimizer.state[p].items()}


def snapshot(params, optimizer):
    """Return a copy of everything that a step can change."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return (
        [p.detach().clone() for p in params],
        [state_of(optimizer, p) for p in params if p in optimizer.state],
        groups,
    )


def is_equal(a, b):
    """Compare snapshots bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(is_equal, a, b))
    return a == b


class CountingBackend:
    """A backend of torch.compile that records graphs and runs them unchanged."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph.forward


DYNAMO_SUBJECTS = frozenset(["sgm-all-stages", "own-stage", "esgd-2"])
"""All kinds of stages, reductions and products, for tests that run torch.compile on every subject."""


def each_for_dynamo(condition=lambda subject: True):
    """Parametrize a test over the subjects that meet a condition. Those not in `DYNAMO_SUBJECTS` are slow tests."""
    subjects = filter(condition, SUBJECTS)
    return pytest.mark.parametrize(
        "subject",
        [pytest.param(s, marks=() if s.name in DYNAMO_SUBJECTS else pytest.mark.slow) for s in subjects],
        ids=str,
    )
