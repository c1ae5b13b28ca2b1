"""Scalar arithmetic on numbers and tensors."""

import pytest
import torch

from dashpot.utils.scalars import is_number, minimum, where

HALF = torch.tensor(0.5, dtype=torch.float64)


def test_where_with_a_python_condition_returns_the_branch():
    assert where(True, 1, 2) == 1
    assert where(False, 1, HALF) is HALF


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize(("yes", "no"), [(0.9, 0.1), (HALF, 0.1), (0.9, HALF), (HALF, 2 * HALF)])
def test_where_with_a_tensor_condition_keeps_double_precision(truth, yes, no):
    """In float32, 0.9 is wrong in the eighth digit, which would limit the precision of a whole float64 run."""
    out = where(torch.tensor(truth), yes, no)
    assert isinstance(out, torch.Tensor)
    assert out.shape == ()
    assert out.item() == float(yes if truth else no)


def test_where_under_vmap_and_grad():
    x = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    mapped = torch.func.vmap(lambda v: where(v > 0, 0.9, 0.1))(x)
    assert mapped.tolist() == [0.1, 0.9]
    slope = torch.func.grad(lambda v: where(v > 0, 3 * v, v))
    assert [slope(v).item() for v in x] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("a", "b", "smaller"), [(3, 10.0, 3), (4.0, 2, 2), (HALF, 0.25, 0.25), (0.25, HALF, 0.25), (1, 1, 1)]
)
def test_minimum(a, b, smaller):
    assert float(minimum(a, b)) == smaller


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, True), (3, True), (float("nan"), True), (True, False), (HALF, False), ("0.5", False), (None, False)],
)
def test_is_number(value, expected):
    assert is_number(value) is expected
