"""Commands on damaged settings and records: exit code 2, one-line errors, and unchanged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import refused

DEEP = "[" * 5_000 + "]" * 5_000
VALUES = ("'text'", "nan", "-inf", "-1", "1" + "0" * 400, "[]", "{}", "true", "'../../x'", "[1, 'a']", DEEP)


@pytest.fixture
def run(dashpot, my_task) -> Path:
    """Return the folder of a finished run."""
    dashpot("train", my_task, "--optimizer", "adamw", "--epochs", 1, "--threads", 1, "--out", "run")
    return Path("run")


def test_unchanged_run_is_complete(dashpot, run):
    code, out, _ = dashpot("train", "--resume", "run")
    assert (code, "is complete" in out) == (0, True)


@pytest.mark.parametrize("step", [len(VALUES), pytest.param(5, marks=pytest.mark.slow)])
def test_malformed_settings_are_rejected(dashpot, run, step):
    """Every setting gets one of the values in turn, or in the slow test several."""
    path = run / "run.toml"
    lines = path.read_text().splitlines()
    codes = set()
    settings = [number for number, line in enumerate(lines) if " = " in line]
    for index, number in enumerate(settings):
        name = lines[number].partition(" = ")[0]
        for value in VALUES[index % step :: step]:
            path.write_text("\n".join([*lines[:number], f"{name} = {value}", *lines[number + 1 :]]) + "\n")
            code, _, err = dashpot("train", "--resume", "run")
            assert "Traceback" not in err
            assert code in (0, 2), (name, value, err)
            codes.add(code)
            assert code == 0 or err.strip().count("\n") <= 1, (name, value, err)
    assert 2 in codes


@pytest.mark.parametrize("step", [8, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["header", "steps", "epoch", "end"])
def test_malformed_records_are_rejected(dashpot, run, kind, step):
    path = run / "run.jsonl"
    lines = path.read_text().splitlines()
    [number] = [i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind]
    data = json.loads(lines[number])
    for index, name in enumerate(data):
        for value in (None, "text", -1, 10**400, [], {}, True, "deleted")[index % step :: step]:
            changed = {key: item for key, item in data.items() if key != name}
            changed |= {} if value == "deleted" else {name: value}
            path.write_text("\n".join([*lines[:number], json.dumps(changed), *lines[number + 1 :]]) + "\n")
            before = path.read_bytes()
            code, _, err = dashpot("train", "--resume", "run")
            assert code in (0, 2), (name, value, err)
            assert "Traceback" not in err
            assert path.read_bytes() == before


BEST = ("", "[]", "{}", '{"file": "../x"}', '{"file": 1}', DEEP)


@pytest.mark.parametrize("contents", [("", '{"file": "../x"}', DEEP), pytest.param(BEST, marks=pytest.mark.slow)])
def test_malformed_best_json_does_not_prevent_a_resume(dashpot, my_task, contents):
    dashpot("train", my_task, "--optimizer", "adamw", "--epochs", 2, "--threads", 1, "--out", "run")
    lines = Path("run/run.jsonl").read_text().splitlines(keepends=True)
    Path("run/run.jsonl").write_text("".join(lines[:-1]))
    mark = Path("run/checkpoints/best.json")
    intact = mark.read_bytes()
    for content in contents:
        mark.write_text(content)
        assert dashpot("train", "--resume", "run")[0] == 0
        assert mark.read_bytes() == intact
        Path("run/run.jsonl").write_text("".join(lines[:-1]))


def test_traversal_in_the_names_of_a_study_is_rejected(dashpot, my_task):
    dashpot("compare", my_task, "--methods", "sgd", "--seeds", 1, "--out", "study")
    path = Path("study/study.json")
    study = json.loads(path.read_text())
    study["settings"]["methods"] = {"../../x": study["settings"]["methods"]["sgd"]}
    path.write_text(json.dumps(study))
    assert "a key of settings.methods must be a name" in refused(dashpot("report", "study"))


def test_escape_codes_in_messages_are_printed_as_escapes(dashpot):
    Path("\x1b[31mstudy").mkdir()
    Path("\x1b[31mstudy/study.json").write_text("{}")
    message = refused(dashpot("report", "\x1b[31mstudy"))
    assert "\x1b" not in message
    assert "\\x1b[31mstudy" in message
