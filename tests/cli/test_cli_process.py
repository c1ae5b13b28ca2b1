"""Command in a separate process: exit codes, Ctrl-C and closed pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from processes import LIMIT, running

from dashpot.comparison import StudyFolder
from dashpot.training.callbacks.checkpoints import latest

COMPARE = ["compare", "digits", "--methods", "sgd", "--seeds", "1", "--threads", "1", "--out", "out"]
TRAIN = ["train", "digits", "--optimizer", "adamw", "--epochs", "40", "--threads", "1", "--out", "run"]


def start(folder: Path, *words: str, stdout: int = subprocess.PIPE) -> AbstractContextManager[subprocess.Popen[str]]:
    source = str(Path(__file__).parents[2] / "src")
    # PYTHONUNBUFFERED would write every line at once, and thereby hide errors of the last write.
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "dashpot_command", *words]
    return running(command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_compare_resumes_after_ctrl_c(tmp_path):
    words = [*COMPARE, "--epochs", "40"]
    record = tmp_path / "out/runs/sgd-seed0.jsonl"
    with start(tmp_path, *words) as process:
        while not (record.exists() and record.read_text().count('"kind":"epoch"') >= 2):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Stopped. out has 0 of 1 runs, and sgd seed 0 up to step" in err
    assert f"Resume with: dashpot {' '.join(words)}" in err
    [run] = StudyFolder(tmp_path / "out").runs()
    done = len(run.epochs)
    assert 2 <= done < 12

    with start(tmp_path, *words) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert "Report: out/report.html" in out
    [run] = StudyFolder(tmp_path / "out").runs()
    assert (run.status, len(run.epochs), len(run.loss), len(run.resumed)) == ("done", 12, 960, 1)


@pytest.mark.slow
def test_train_stops_with_a_checkpoint_after_ctrl_c(tmp_path):
    with start(tmp_path, *TRAIN) as process:
        assert process.stdout is not None
        while process.stdout.readline().split()[:1] != ["1"]:
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert err.strip() == "Stopped. Resume with: dashpot train --resume run"
    assert json.loads((tmp_path / "run/run.jsonl").read_text().splitlines()[0])["kind"] == "header"
    assert latest(tmp_path / "run/checkpoints") is not None


def test_closed_stdout_ends_a_listing_silently(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with start(tmp_path, "methods", stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (141, "")


@pytest.mark.slow
def test_closed_stdout_ends_the_command_silently(tmp_path):
    with start(tmp_path, *COMPARE, "--epochs", "6") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(timeout=LIMIT)
    assert (process.returncode, err) == (141, "")


@pytest.mark.slow
def test_debug_prints_the_traceback_of_an_error(tmp_path):
    with start(tmp_path, "compare", "digits", "--lr", "sgd=-1") as process:
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (2, "Comparing the standard methods on digits.\n")
    assert err == "sgd: lr must be a number in [0, inf), got -1.0.\n"
    with start(tmp_path, "--debug", "compare", "digits", "--lr", "sgd=-1") as process:
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "Traceback" in err
    assert list(tmp_path.iterdir()) == []
