"""The command `dashpot reproduce nanogpt` on a small text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dashpot.data import shakespeare


@pytest.fixture(autouse=True)
def text(monkeypatch):
    made = "".join(random.Random(0).choices("abcdefgh \n", k=4000))
    monkeypatch.setattr(shakespeare, "load", lambda data_dir=None: made)


@pytest.mark.slow
def test_nanogpt_prints_and_writes_the_table(dashpot):
    words = ("reproduce", "nanogpt", "--tier", "smoke", "--seeds", 1, "--threads", 1)
    code, out, err = dashpot(*words)
    assert (code, err) == (0, "")
    folder = Path("runs/reproduce-nanogpt")
    assert f"Table: {folder / 'results.md'}" in out
    document = (folder / "results.md").read_text()
    assert "Command: `dashpot reproduce nanogpt --tier smoke --seeds 1 --threads 1`" in document
    assert [line.split(" | ")[0] for line in document.splitlines() if line.startswith("| ")][1:] == [
        "| torch-AdamW",
        "| adamw",
        "| nadam",
    ]
    assert len((folder / "results.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--tier", "gpu"), "reproduce: tier must be one of 'smoke', 'cpu', got 'gpu'."),
        (("--rows", "A2"), "Unknown row 'A2'."),
    ],
)
def test_invalid_options_exit_with_2_and_write_nothing(dashpot, words, sentence):
    code, _, err = dashpot("reproduce", "nanogpt", *words)
    assert code == 2
    assert sentence in err
    assert not Path("runs").exists()
