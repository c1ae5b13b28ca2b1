"""Fixtures of the tests of training."""

import pytest
from loop_frameworks import forget_accelerate


@pytest.fixture
def clean_frameworks(monkeypatch):
    """Work offline, and reset the process-wide state of Accelerate."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    forget_accelerate()
