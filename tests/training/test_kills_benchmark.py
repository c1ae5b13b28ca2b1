"""Kill benchmark: few kills of every kind of command, and detection of every kind of difference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LIMIT
from run_support import quiet
from slow_values import others_slow

from dashpot.runs.settings import Settings
from dashpot.training.callbacks.checkpoints import best, latest
from dashpot.training.run.run import start
from dashpot.training.state import checkpoint_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from kill_checks import differences  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all logs of text, on batches of dicts with a loss of (sum, count), of 12 steps."""
    folder = tmp_path_factory.mktemp("kills") / "whole"
    options = {"lr": 0.01, "steps": 12, "evaluate_every": 6, "accumulate": 2, "ema": 0.9, "log": ("csv", "jsonl")}
    task = f"{BENCHMARKS / 'kill_tasks.py'}:tokens"
    start(Settings(task=task, optimizer="adamw", threads=1, accelerator="cpu", **options), folder, write_line=quiet)
    return folder


def change_line(path, number, key, value):
    lines = path.read_text().splitlines(keepends=True)
    before = json.loads(lines[number])
    assert before[key] != value
    lines[number] = json.dumps({**before, key: value}) + "\n"
    path.write_text("".join(lines))


def change_checkpoint(path, *keys):
    """Flip the sign of a tensor in a checkpoint."""
    state = checkpoint_file.read(path)
    part = state
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = -part[keys[-1]]
    checkpoint_file.write(path, state)


def change_best(folder):
    mark = json.loads((folder / "best.json").read_text())
    (folder / "best.json").write_text(json.dumps({**mark, "value": mark["value"] + 1e-9}))


CHANGES = {
    "run.jsonl differs": lambda folder: change_line(folder / "run.jsonl", 1, "first", 1),
    "log.jsonl differs": lambda folder: change_line(folder / "log.jsonl", 0, "lr", 0.02),
    "log.csv differs": lambda folder: (folder / "log.csv").write_text((folder / "log.csv").read_text()[:-30] + "\n"),
    "run.toml is missing": lambda folder: (folder / "run.toml").unlink(),
    ".run.jsonl.0a.part was left": lambda folder: (folder / ".run.jsonl.0a.part").touch(),
    "step-1.ckpt.damaged was left": lambda folder: (folder / "step-1.ckpt.damaged").touch(),
    "its best checkpoint differs": lambda folder: change_best(folder / "checkpoints"),
}


def test_differences_equal_runs_are_accepted(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    change_line(tmp_path / "copy" / "run.jsonl", 2, "wall_s", 123.0)
    assert differences(tmp_path / "copy", whole) == []


@pytest.mark.parametrize(
    "fault", others_slow(CHANGES, "run.jsonl differs", "run.toml is missing", "its best checkpoint differs")
)
def test_differences_names_the_changed_file(whole, tmp_path, fault):
    shutil.copytree(whole, tmp_path / "copy")
    CHANGES[fault](tmp_path / "copy")
    assert differences(tmp_path / "copy", whole) == [f"copy: {fault}"]


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(("model", "output.bias"), marks=pytest.mark.slow),
        ("optimizer", "state", "output.bias", "exp_avg"),
        pytest.param(("callbacks", "EMA", "averages", "output.bias"), marks=pytest.mark.slow),
    ],
)
def test_differences_detects_changed_tensors(whole, tmp_path, keys):
    shutil.copytree(whole, tmp_path / "copy")
    checkpoints = tmp_path / "copy" / "checkpoints"
    newest = latest(checkpoints)
    change_checkpoint(newest, *keys)
    expected = ["copy: its last checkpoint differs"]
    if newest == best(checkpoints) and keys[0] == "model":
        expected.append("copy: its best checkpoint differs")
    assert differences(tmp_path / "copy", whole) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks processes that have loaded torch")
@pytest.mark.parametrize(
    ("kills", "cases"),
    [
        (9, "digits-esgd,tokens-adamw,gan-adamw"),
        (6, "compare-digits,compare-tokens"),
        pytest.param(3, "tokens-adamw-devices", marks=pytest.mark.needs_gloo),
    ],
)
def test_killed_commands_have_no_differences(kills, cases):
    command = [sys.executable, str(BENCHMARKS / "kills.py"), "--kills", str(kills), "--cases", cases, "--seed", "4"]
    paths = os.pathsep.join(filter(None, [str(BENCHMARKS.parent / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills of" in done.stdout
    assert ", 0 faults." in done.stdout
