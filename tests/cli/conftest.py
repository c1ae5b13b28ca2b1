"""The command line in this process, and a small task of one's own."""

from __future__ import annotations

import sys

import pytest

from dashpot.__main__ import main

TASK = """
import torch
from torch import nn
from dashpot.data import Batches
from dashpot.tasks import Problem, Task

def build():
    def problem(seed):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(12, 2, generator=draw)
        model = nn.Linear(2, 1)
        nn.init.zeros_(model.weight)
        y = x.sum(1, keepdim=True)
        return Problem(model, Batches(x, y, 4), nn.functional.mse_loss, Batches(x, y, 12))
    return Task("my task", problem, epochs=2)
"""


@pytest.fixture
def dashpot(monkeypatch, tmp_path, capsys):
    """Runs one command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # otherwise the command starts this very process again

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dashpot", *map(str, words)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def my_task(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(TASK)
    return "mine.py:build"
