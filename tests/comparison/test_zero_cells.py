"""Files of final figures: round trip, schema and damage; committed files and their tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zero_support import FACTS, cell, grid

from dashpot.comparison.zero_cells import Grid, read_grids, write_grids
from dashpot.errors import RunError


@pytest.fixture
def path(tmp_path) -> Path:
    write_grids(
        [grid({"0": 0.1, "none": -0.1}), Grid("digits", "cpu", FACTS, (cell(0, "0", [1.0, None, 2.0]),))],
        tmp_path / "r.jsonl",
    )
    return tmp_path / "r.jsonl"


def test_grids_are_read_as_written(path):
    first, second = read_grids(path)
    assert first == grid({"0": 0.1, "none": -0.1})
    assert (second.tier, second.cells) == ("cpu", (cell(0, "0", [1.0, None, 2.0]),))
    assert (first.zeros, first.numerators, first.sign) == (("0", "none"), (0, 1), -1.0)


def edited(path: Path, line: int, **changes: object) -> None:
    """Change values of a line of the file; None removes them."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[line] = {key: value for key, value in {**lines[line], **changes}.items() if value is not None}
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))


@pytest.mark.parametrize(
    ("line", "changes", "reason"),
    [
        (0, {"format": 2}, "line 1: format must be"),
        (0, {"workload": "mnist"}, "line 1: workload must be one of"),
        (1, {"workload": "wikitext"}, "line 2: the cell is not below the line of its workload"),
        (1, {"score": [1.0]}, "line 2: score must have 3 values, got 1"),
        (1, {"trials": [1.0]}, "line 2: trials must have 3 values, got 1"),
        (1, {"status": ["done", "done", "lost"]}, "line 2: status[2] must be one of"),
        (2, {"kind": "curve"}, "line 3: kind must be one of"),
        (2, {"train_loss": None}, "line 3: train_loss is missing"),
        (2, {"lr": "fast"}, "line 3: lr must be a number, got 'fast'"),
        (0, {"seeds": [0, 1, 1]}, "line 1: seeds must be different, got [0, 1, 1]"),
        (1, {"zero": "<b>"}, "line 2: zero must be a number or none, got '<b>'"),
        (2, {"numerator": 0}, "line 3: the cell of numerator 0 and zero 0 is repeated"),
        (5, {"tier": "smoke"}, "line 6: the workload digits at the tier smoke is repeated"),
    ],
)
def test_damaged_line_raises_its_number_and_reason(path, line, changes, reason):
    edited(path, line, **changes)
    with pytest.raises(RunError, match="is not a file of final figures") as caught:
        read_grids(path)
    assert reason in str(caught.value)


def test_workload_without_cells_raises(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(RunError, match="it is truncated"):
        read_grids(path)
    path.write_text(lines[5] + lines[0])
    with pytest.raises(RunError, match="line 2: the line of the workload digits is not followed by cells"):
        read_grids(path)


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\n", b"{", b"[1]\n", b"not json\n"])
def test_foreign_file_raises(tmp_path, text):
    (tmp_path / "r.jsonl").write_bytes(text)
    with pytest.raises(RunError, match="is not a file of final figures"):
        read_grids(tmp_path / "r.jsonl")


def test_every_truncation_raises_or_ends_after_a_line(path):
    content = path.read_bytes()
    for end in range(len(content) - 1, 0, -97):
        path.write_bytes(content[:end])
        with pytest.raises(RunError):
            read_grids(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(RunError, match=r"Cannot read .*: No such file"):
        read_grids(tmp_path / "gone.jsonl")
