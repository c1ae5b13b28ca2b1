"""Checks of optional packages."""

import sys

import pytest

from dashpot.errors import RunError
from dashpot.utils.optional_packages import need


def test_need_names_all_missing_packages(monkeypatch):
    for package in ("optuna", "scipy"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError) as caught:
        need("A study", "optuna", "numpy", "scipy", extra="study")
    assert str(caught.value) == "A study needs optuna and scipy: pip install 'dashpot[study]'."
