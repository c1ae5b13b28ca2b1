"""Damaged, foreign and edited files of watched runs: an error, or a report without undefined numbers."""

import json
import random
import re

import pytest

import dashpot as dp
from dashpot.runs.watch_file import WatchFile, read_watch_file
from dashpot.utils.strict_json import decode, encode
from dashpot.watching.page import _lead
from dashpot.watching.report import report_of
from dashpot.watching.series import WatchRecord

HEADER = {"kind": "header", "format": 1, "optimizer": "SGD", "tensors": {"w": [2]}, "budget": 0.03, "groups": [{}]}
TENSOR = {"grad": 1.0, "update": 0.1, "weight": 2.0, "ratio": 0.05, "angle": 0.05}
NORMS = {"series": "norms", "step": 1, "loss": 1.0, "lr": [0.1], **TENSOR, "tensors": {"w": TENSOR}}
NOISE = {"scale": 99.0, "low": 50.0, "high": 200.0, "batch": 8, "samples": 3, "source": "halves"}
CURVATURE = {"eigenvalues": [1.0], "residuals": [0.1], "edge": 2.0, "ratio": 0.5, "examples": 8, "full_batch": False}
ROWS = [
    *({**NORMS, "step": step} for step in range(1, 7)),
    {"series": "noise", "step": 6, **NOISE, "preconditioned": {"scale": 80.0, "low": 40.0, "high": 160.0}},
    {"series": "curvature", "step": 6, **CURVATURE},
    {"series": "temperature", "step": 6, "predicted": 0.1, "measured": 0.1, "excess": 0.01, "steps": 6},
    {"series": "dynamics", "step": 6, "tensors": {"w": {"stalled": 0.9, "agreement": 0.5}}, "rates": {"w": {}}},
    {"series": "warning", "step": 6, "kind": "spike", "tensor": "w", "text": "A spike.", "advice": None},
    {"series": "cost", "step": 6, "share": 0.01, "by_kind": {"norms": 0.01}, "steps": 6, "waiting": []},
]
VALUES = [None, 0, -1, 1e308, 10**400, "x", "nan", True, [], {}, [None], {"w": 1}, [[1]], {"w": {}}]


def written(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def paths(value, before=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*before, key)
        yield from paths(item, (*before, key))


def edited(lines, rng):
    """Return a copy in which one value is replaced or removed."""
    lines = json.loads(json.dumps(lines))
    *before, key = rng.choice(list(paths(lines)))
    place = lines
    for part in before:
        place = place[part]
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(VALUES)
    return lines


def test_edited_files_raise_or_are_reported(tmp_path):
    rng, outcomes = random.Random(0), set()
    for _ in range(400):
        path = written(tmp_path / "watch.jsonl", edited([HEADER, *ROWS], rng))
        try:
            report = report_of(read_watch_file(path))
        except dp.RunError:
            outcomes.add("refused")
            continue
        assert not re.search(r"\b(nan|inf|None)\b", str(report))
        decode(encode(report.to_dict()))
        outcomes.add("reported")
    assert outcomes == {"refused", "reported"}


@pytest.mark.parametrize(
    "row",
    [
        {"series": "norms", "step": 0, "tensors": {}},
        {"series": "norms", "step": 7, "tensors": {"w": 1.0}},
        {"series": "noise", "step": 7, "preconditioned": 1.0},
        {"series": "noise", "step": 7, "batch": 0},
        {"series": "warning", "step": 7},
        {"series": "other", "step": 7, "tensors": 0.5},
        {"series": "cost", "step": 7, "waiting": 1},
    ],
    ids=["order", "tensor", "preconditioned", "batch", "text", "foreign", "waiting"],
)
def test_rows_of_wrong_form_are_damage(row, tmp_path):
    path = written(tmp_path / "watch.jsonl", [HEADER, *ROWS, row])
    with pytest.raises(dp.RunError, match=rf"watch\.jsonl is damaged at line {len(ROWS) + 2}\."):
        read_watch_file(path)


def test_infinite_settings_are_read_as_written(tmp_path):
    record = WatchRecord({"optimizer": "SGD", "groups": [{"lr": float("inf"), "name": "infinite"}]})
    WatchFile(tmp_path / "watch.jsonl", record).start()
    assert read_watch_file(tmp_path / "watch.jsonl").header["groups"] == [{"lr": float("inf"), "name": "infinite"}]


def test_names_that_look_like_numbers_are_texts(tmp_path):
    record = WatchRecord({"optimizer": "SGD", "model": "inf"})
    row = {"step": 1, "kind": "dead", "tensor": "nan", "text": "inf", "advice": None}
    record.add("warning", row)
    WatchFile(tmp_path / "watch.jsonl", record).start()
    found = read_watch_file(tmp_path / "watch.jsonl")
    assert (found.header["model"], found.rows("warning").last) == ("inf", row)


def test_rows_without_tensors_have_a_report():
    record = WatchRecord({"optimizer": "SGD", "tensors": {"w": None}})
    for step in range(1, 4):
        record.add("norms", {"step": step, "reason": "Not finite: loss."})
    report = report_of(record)
    assert [sentence.topic for sentence in report.sentences] == ["non-finite"]
    assert "0 parameters in 1 tensor" in _lead(report)
