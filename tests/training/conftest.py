"""Fixtures for the tests of training."""

import pytest
from loop_frameworks import forget_accelerate
from process_setup import cache_entry_points
from run_support import TASK

from dashpot.runs.settings import Settings

cache_entry_points()


@pytest.fixture
def clean_frameworks(monkeypatch):
    """Work offline, and reset the process-wide state of Accelerate."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    forget_accelerate()


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Return settings of a run of the small task in `run_support`."""
    path = tmp_path / "small.py"
    path.write_text(TASK)
    return Settings(task=f"{path}:build", optimizer="adamw", lr=0.05, threads=1, accelerator="cpu")


@pytest.fixture
def xterm(monkeypatch):
    """Set the variables of a terminal of 80 columns with colors."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
