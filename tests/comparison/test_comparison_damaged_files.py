"""Damaged study files and records of a comparison: one-line errors instead of tracebacks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from item_support import example_study, run_all
from mutations import VALUES, mutated, paths

from dashpot.comparison import entry
from dashpot.comparison.judge import judge
from dashpot.comparison.page import render_page
from dashpot.comparison.read_results import results_of_folder
from dashpot.comparison.report import write_report
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.table import markdown_summary, text_summary
from dashpot.errors import RunError


def deep(levels=5_000):
    return "[" * levels + "]" * levels


MUTATIONS = {**VALUES, "traversal": "../../x", "deep": "DEEP"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "out"
    entries = (entry("adam", "toy", lr=0.05), entry("sgd", "toy", lr=0.05))
    study = example_study(*entries, budget=1, rate_seeds=1, looks=(2,), seeds=(0, 1), epochs=1, evaluate_every=2)
    outcomes = run_all(study, path)
    StudyFolder(path).record("sgd", 0).write_text(outcomes["run/sgd/0"].data["record"])  # from a different machine
    return path


def mutations(data):
    """Yield a description and the text of each mutation; the last renames every key."""
    for path in paths(data, items_of_long_lists=2):
        yield f"{path} deleted", json.dumps(mutated(data, path, delete=True))
        for name, value in MUTATIONS.items():
            yield f"{path} {name}", json.dumps(mutated(data, path, value)).replace('"DEEP"', deep())
        if isinstance(path[-1], str):
            text = json.dumps(mutated(data, path, "RENAMED"))
            yield f"{path} renamed", text.replace(f'"{path[-1]}": "RENAMED"', '"../../x": 1')


def read(folder):
    """Read, judge and render a study as `dashpot report` does."""
    findings = judge(results_of_folder(folder))
    render_page([findings])
    markdown_summary(findings)
    return StudyFolder(folder).study()


def faults(folder, name, line=None, step=1):
    """Return the faults of the mutations of a file, or of one line of it."""
    path = folder / name
    content = path.read_bytes()
    lines = content.decode().splitlines()
    data = json.loads(content if line is None else lines[line])
    found = []
    for number, (text, mutation) in enumerate(mutations(data)):
        if number % step:
            continue
        rest = [mutation] if line is None else [*lines[:line], mutation, *lines[line + 1 :]]
        path.write_text("\n".join(rest) + "\n")
        try:
            read(folder)
        except RunError as error:
            if not re.fullmatch(r"[^\n]{1,600}\.", str(error)):
                found.append(f"{text}: {error}")
        except Exception as error:  # all faults are reported together
            found.append(f"{text}: {type(error).__name__}: {str(error)[:100]}")
    path.write_bytes(content)
    return found


def test_unchanged_study_is_read(folder):
    assert read(folder)["settings"]["task"] == "toy"


FILES = pytest.mark.parametrize(
    ("name", "line"),
    [
        ("study.json", None),
        *(("runs/adam-seed0.jsonl", line) for line in (0, 1, 2, 3, -1)),
        ("runs/sgd-seed0.jsonl", 2),
        *((name, 0) for name in ("tuning/adam-trial0.jsonl", "sensitivity/adam-x0.1-seed0.jsonl")),
    ],
    ids=["study", "header", "initial", "steps", "epoch", "end", "thinned", "trial", "rate"],
)


@FILES
def test_malformed_values_are_rejected_or_harmless(folder, name, line):
    # Steps that share no factor with the number of mutations of a value, 12, select all kinds of them.
    step = 73 if name.startswith(("tuning", "sensitivity")) else 49 if line == 0 else 25
    assert faults(folder, name, line, step=step) == []


@FILES
@pytest.mark.slow
def test_every_malformed_value_is_rejected_or_harmless(folder, name, line):
    assert faults(folder, name, line) == []


def test_name_outside_the_folder_is_rejected(folder, tmp_path):
    study = json.loads((folder / "study.json").read_text())
    for name in ("../../x", "/x", ".x", "a/b", "a\\b", "a\n", "", "a\x1b[31m", "<b>"):
        study["settings"]["methods"] = {name: "call"}
        (tmp_path / "study.json").write_text(json.dumps(study))
        with pytest.raises(RunError, match=r"a key of settings\.methods must be a name of letters, digits"):
            StudyFolder(tmp_path).runs()


def test_html_and_escape_codes_in_a_study_are_harmless(folder, tmp_path):
    script, code = "<script>alert(1)</script>", "\x1b[31mred"
    shutil.copytree(folder, tmp_path / "out")
    for path in (tmp_path / "out" / "runs").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["task"]["description"] = lines[0]["call"] = lines[0]["machine"]["processor"] = script
        lines[0]["score"]["metric"] = name = f"{script}{code}"
        for line in lines:
            if line["kind"] == "epoch":
                line["eval"][name] = line["train"][name] = 0.5
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    study["command"], study["settings"]["config"] = script, {script: script}
    (tmp_path / "out" / "study.json").write_text(json.dumps(study))
    page = write_report(tmp_path / "out").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert script not in page
    assert "\x1b" not in page
    assert "\x1b" not in text_summary(judge(results_of_folder(tmp_path / "out")))
    assert "\x1b" not in (tmp_path / "out" / "summary.md").read_text()
