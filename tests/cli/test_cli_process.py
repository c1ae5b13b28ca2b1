"""The command line as a process of its own: exit codes, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dashpot.comparison import Interrupted, StudyFolder
from dashpot.runs.signals import interruptible
from dashpot_command import main

COMMAND = [sys.executable, "-m", "dashpot_command"]
COMPARE = ["compare", "digits", "--methods", "sgd", "--seeds", "1", "--epochs", "6", "--threads", "1", "--out", "out"]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *words], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_ctrl_c_keeps_finished_epochs_says_how_to_go_on_and_the_same_command_does(tmp_path):
    with start(tmp_path, *COMPARE) as process:
        assert process.stdout is not None
        while "epoch 2/6" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Stopped. out has 0 of 1 runs and sgd seed 0 up to epoch" in err
    assert f"Continue with: dashpot {' '.join(COMPARE)}" in err
    [run] = StudyFolder(tmp_path / "out").runs()
    done = len(run.epochs)
    assert 2 <= done < 6

    with start(tmp_path, *COMPARE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"resumes after epoch {done}" in out
    assert "Report: out/report.html" in out
    [run] = StudyFolder(tmp_path / "out").runs()
    assert (run.status, len(run.epochs), len(run.loss)) == ("done", 6, 180)


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path):
    with start(tmp_path, *COMPARE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert (process.returncode, err) == (141, "")


class Replaced(Exception):  # noqa: N818 - what happens, not an error
    """What `os.execve` does to this process, for a test: it does not come back."""


@pytest.mark.needs_linux
@pytest.mark.parametrize("words", [["train", "digits"], ["--debug", "compare", "digits"], ["demo"]])
def test_the_command_lets_threads_sleep_before_torch_is_loaded(monkeypatch, words):
    found = []
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    monkeypatch.setattr("dashpot.cli.main.run", lambda _: found.append(os.environ["OMP_WAIT_POLICY"]) or 5)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # which the next line undoes, and the end of the test what main sets
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main() == 5
    assert found == ["PASSIVE"]


@pytest.mark.needs_linux
@pytest.mark.parametrize("words", [["train", "digits"], ["--debug", "compare", "digits"], ["demo"]])
def test_python_m_dashpot_starts_over_with_sleeping_threads_and_all_its_words(monkeypatch, words):
    calls = []

    def replaced(*call):
        calls.append(call)
        raise Replaced

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "dashpot", *words])
    monkeypatch.setattr(os, "execve", replaced)
    with pytest.raises(Replaced):
        main()
    [(program, line, environment)] = calls
    assert (program, line) == (sys.executable, ["python", "-m", "dashpot", *words])
    assert environment == {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(("words", "setting"), [(["methods"], None), (["demo", "--help"], "OMP_WAIT_POLICY")])
def test_other_commands_and_a_policy_of_ones_own_are_left_alone(monkeypatch, capsys, words, setting):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv(setting, "ACTIVE")
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started over"))
    assert main() == 0
    assert capsys.readouterr().out
    assert os.environ.get("OMP_WAIT_POLICY") == ("ACTIVE" if setting else None)


def test_mistakes_exit_with_code_2_and_a_debugged_one_with_a_traceback(tmp_path):
    with start(tmp_path, "compare", "digits", "--lr", "sgd=-1") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "sgd: lr must be a number in [0, inf), got -1.0.\n"
    with start(tmp_path, "--debug", "compare", "digits", "--lr", "sgd=-1") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in err
    assert list(tmp_path.iterdir()) == []


def test_the_first_interrupt_waits_for_the_step_and_the_second_is_not_caught():
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as check:
        check()
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(Interrupted):
            check()
    assert signal.getsignal(signal.SIGINT) is before
