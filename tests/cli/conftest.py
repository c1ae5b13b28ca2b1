"""Fixtures that run the command line in this process, and a small user-defined task."""

from __future__ import annotations

import sys

import pytest
import torch

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
    """Return a function that runs a command in an empty folder and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # otherwise, the command would replace this process

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


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread, because resume is bit-identical only for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
