"""Constraints: allowed and rejected values, and messages."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dashpot.constraints import ARGUMENTS, Interval, OneOf, Optional, Pair, check, check_fields, field, unknown
from dashpot.errors import ArgumentError, DashpotError, DataError, RunError

UNIT = {closed: Interval(0, 1, closed) for closed in ("neither", "left", "right", "both")}


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (UNIT["neither"], "a number in (0, 1)"),
        (UNIT["left"], "a number in [0, 1)"),
        (UNIT["right"], "a number in (0, 1]"),
        (UNIT["both"], "a number in [0, 1]"),
        (Interval(), "a number in (-inf, inf)"),
        (Interval(1, math.inf, "left", integer=True), "an integer in [1, inf)"),
        (OneOf((None, "a", 1)), "one of None, 'a', 1"),
        (Pair(UNIT["left"]), "a pair, each a number in [0, 1)"),
        (Optional(UNIT["both"]), "None or a number in [0, 1]"),
    ],
)
def test_str_of_an_interval(constraint, text):
    assert str(constraint) == text


@pytest.mark.parametrize(
    ("closed", "low", "high"),
    [("neither", False, False), ("left", True, False), ("right", False, True), ("both", True, True)],
)
def test_interval_ends(closed, low, high):
    interval = UNIT[closed]
    assert (interval.allows(0), interval.allows(1)) == (low, high)
    assert interval.allows(0.5)
    assert not interval.allows(-1e-300)
    assert not interval.allows(math.nextafter(1, 2))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_unbounded_interval_allows_all_finite_numbers(value):
    assert Interval().allows(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "0.5", None, True, False, (0.5,), [0.5], 0.5j, 10**400]
)
def test_non_numbers_are_rejected(value):
    assert not Interval().allows(value)


def test_integer_intervals():
    count = Interval(0, 5, "both", integer=True)
    assert [count.allows(v) for v in (0, 5, 6, -1, 2.0, True)] == [True, True, False, False, False, False]
    assert count.allows(torch.tensor(3))
    assert not count.allows(torch.tensor(3.0))


def test_scalar_tensors_count_as_numbers():
    interval = UNIT["left"]
    assert interval.allows(torch.tensor(0.5))
    assert not interval.allows(torch.tensor(1.0))
    assert not interval.allows(torch.tensor(math.nan))
    assert not interval.allows(torch.tensor([0.5, 0.5]))
    assert not interval.allows(torch.tensor(True))
    assert not interval.allows(torch.tensor(0.5 + 0j))


def test_unreadable_tensors_are_allowed():
    """Vmapped and meta tensors have no readable value."""
    assert UNIT["left"].allows(torch.tensor(7.0, device="meta"))
    seen = []
    torch.func.vmap(lambda v: seen.append(UNIT["left"].allows(v)) or v)(torch.tensor([5.0, 6.0]))
    assert seen == [True]


def test_numpy_float64_counts_as_float():
    assert UNIT["left"].allows(np.float64(0.5))


def test_one_of_distinguishes_bool_from_number():
    flag, level = OneOf((False, True)), OneOf((0, 1))
    assert [flag.allows(v) for v in (True, False, 1, 0, None)] == [True, True, False, False, False]
    assert [level.allows(v) for v in (0, 1, True, False, 1.0, 2)] == [True, True, False, False, False, False]
    assert not OneOf(("a",)).allows(torch.zeros(2))
    assert not OneOf(("a",)).allows(["a"])


def test_pairs():
    pair = Pair(UNIT["left"])
    assert pair.allows((0.9, 0.999))
    assert pair.allows([0.0, torch.tensor(0.5)])
    for bad in [0.9, (0.9,), (0.9, 0.9, 0.9), "ab", {0.1, 0.2}, (0.9, 1.0), (1.0, 0.9), None, torch.tensor([0.9, 0.9])]:
        assert not pair.allows(bad)


def test_optional():
    maybe = Optional(UNIT["both"])
    assert maybe.allows(None)
    assert maybe.allows(1)
    assert not maybe.allows(2)
    assert None not in maybe.refused()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_constraints_reject_invalid_values(name):
    """The bad-input tests of all optimizers use these values."""
    allowed = ARGUMENTS[name]
    refused = allowed.refused()
    assert len(refused) >= 3
    for value in refused:
        assert not allowed.allows(value)
        with pytest.raises(ArgumentError) as caught:
            check("Owner", name, value, allowed)
        assert str(caught.value) == f"Owner: {name} must be {allowed}, got {value!r}."


@pytest.mark.parametrize("closed", UNIT)
def test_interval_rejects_open_ends_and_values_beyond(closed):
    refused = UNIT[closed].refused()
    assert -1 in refused
    assert 2 in refused
    assert (0 in refused) is (closed in ("neither", "right"))
    assert (1 in [v for v in refused if v is not True]) is (closed in ("neither", "left"))


def test_check_accepts_allowed_values():
    assert check("Owner", "lr", 0.1, ARGUMENTS["lr"]) is None


@dataclasses.dataclass(frozen=True)
class Settings:
    need: Any = field(dataclasses.MISSING, UNIT["both"])
    beta: Any = field(0.9, UNIT["left"])
    free: Any = "anything"

    def __post_init__(self):
        check_fields(self)


def test_fields_carry_their_constraints():
    assert Settings(1, free=object()).beta == 0.9
    with pytest.raises(ArgumentError, match=r"^Settings: beta must be a number in \[0, 1\), got 1\.$"):
        Settings(0, beta=1)
    with pytest.raises(ArgumentError, match=r"^Settings: need must be a number in \[0, 1\], got 1\.5\.$"):
        Settings(1.5)
    with pytest.raises(TypeError, match="need"):
        Settings()


def test_unknown_names_suggest_the_closest_match():
    error = unknown("method", "adamm", {"sgd": 1, "adam": 2})
    assert isinstance(error, ArgumentError)
    assert str(error) == "Unknown method 'adamm': did you mean 'adam'? Known: adam, sgd."
    assert str(unknown("method", "zzz", ["adam"])) == "Unknown method 'zzz'. Known: adam."
    assert "did you mean 'adamw'?" in str(unknown("method", "AdamW", ["adam", "adamw"]))
    assert "Unknown method 3" in str(unknown("method", 3, ["adam"]))  # pyright: ignore[reportArgumentType]


def test_errors_share_a_base_and_a_builtin_type():
    assert issubclass(ArgumentError, ValueError)
    assert all(issubclass(error, RuntimeError) for error in (DataError, RunError))
    assert all(issubclass(error, DashpotError) for error in (ArgumentError, DataError, RunError))
