"""Helpers for tests of curvature errors."""

import re
from typing import Any

import pytest
from curvature.second_order_support import (
    same,
    snapshot,
)

import dashpot as dp

CLASSES = (dp.ESGD, dp.AdaHessian, dp.Sophia)


each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def is_one_sentence(text):
    """Check that a message consists of one line, starts with the method or operation and ends with a period."""
    return text.endswith(".") and "\n" not in text and not re.search(r"\. [A-Z]", text)


def refused(optimizer, act, match, kind: Any = dp.CurvatureError):
    """Check that `act` raises an error without changing weights, state or groups; return the message."""
    before = snapshot(optimizer)
    with pytest.raises(kind, match=match) as caught:
        act()
    assert same(snapshot(optimizer), before)
    assert is_one_sentence(str(caught.value)), str(caught.value)
    return str(caught.value)
