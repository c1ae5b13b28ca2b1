"""Memory and state of a run, and passwords in text."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

import dashpot as dp
from dashpot.names import known_methods
from dashpot.runs import peak_memory as peak_memory_module
from dashpot.runs.entries import entry
from dashpot.runs.peak_memory import peak_memory, reset_peak_memory
from dashpot.runs.state_size import state_bytes
from dashpot.utils.passwords import without_passwords

CPU = torch.device("cpu")
MEBIBYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the resident memory is read from /proc")
def test_peak_memory_is_that_since_the_last_reset():
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    assert before is not None
    # A tensor may reuse memory that earlier tests have freed and that is still resident; a new mapping cannot.
    with mmap.mmap(-1, 64 * MEBIBYTE) as block:
        block.write(b"1" * len(block))
        used = peak_memory(CPU)
    assert used is not None
    assert used - before > 56 * MEBIBYTE  # other allocations may have been released
    after = peak_memory(CPU)
    assert after is not None
    assert after >= used - MEBIBYTE  # the system counts pages in batches
    reset_peak_memory(CPU)
    again = peak_memory(CPU)
    assert again is not None
    assert again < used - 32 * MEBIBYTE


def test_peak_memory_is_unknown_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory_module, "PROC", tmp_path / "none")
    reset_peak_memory(CPU)
    assert peak_memory(CPU) is None


@pytest.mark.parametrize("name", [name for name in known_methods() if name not in ("esgd", "adahessian", "sophia")])
def test_state_of_every_method_is_a_multiple_of_the_parameters(name):
    weights = torch.ones(1000, requires_grad=True)
    optimizer = entry(name, "toy").optimizer([weights], 10)
    (weights**2).sum().backward()
    optimizer.step()
    size = state_bytes([optimizer])
    assert size is not None
    copies, rest = divmod(size, 4000)
    expected = {"sgd": 0, "heavy-ball": 1, "nag": 1, "qhm": 1, "rmsprop": 1, "adagrad": 1, "adam": 2, "adamw": 2}
    assert copies == expected.get(name, copies)
    assert rest <= 64  # numbers of steps and other scalars


def test_state_of_several_optimizers_counts_shared_tensors_once():
    weights = torch.ones(10, requires_grad=True)
    optimizer = dp.Adam([weights])
    weights.sum().backward()
    optimizer.step()
    assert state_bytes([optimizer, optimizer]) == state_bytes([optimizer])
    assert state_bytes([optimizer, object()]) is None
    assert state_bytes([]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql+psycopg://me:se:cret@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("redis://:secret@host", "redis://:***@host"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("a postgresql://me:secret@host/db b", "a postgresql://me:***@host/db b"),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("dashpot compare digits --lr adam=0.1", "dashpot compare digits --lr adam=0.1"),
    ],
)
def test_passwords_are_removed(text, expected):
    assert without_passwords(text) == expected
