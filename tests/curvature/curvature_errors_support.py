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
    """It starts with the method or the operation, ends with a full stop, and has no line break."""
    return text.endswith(".") and "\n" not in text and not re.search(r"\. [A-Z]", text)


def refused(optimizer, act, match, kind: Any = dp.CurvatureError):
    """`act` is refused, and weights, state and groups stay bit for bit. Returns the message."""
    before = snapshot(optimizer)
    with pytest.raises(kind, match=match) as caught:
        act()
    assert same(snapshot(optimizer), before)
    assert is_one_sentence(str(caught.value)), str(caught.value)
    return str(caught.value)
