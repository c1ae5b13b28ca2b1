"""Launcher: messages, exit codes, signals and shutdown of several processes, and resume after one was killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from processes import LIMIT, running

import dashpot as dp
from dashpot.training.distributed import launcher
from dashpot.training.distributed.launcher import launch

WORKER = Path(__file__).parent / "launch_worker.py"

pytestmark = [pytest.mark.needs_posix, pytest.mark.needs_gloo]


@pytest.fixture(autouse=True)
def worker_environment(monkeypatch):
    monkeypatch.setattr(launcher, "FAILURE_GRACE", 0.5)
    monkeypatch.setattr(launcher, "TERMINATE_GRACE", 0.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    paths = [str(WORKER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def run(behaviour, folder, devices=2, command="dashpot train --resume R"):
    return launch([sys.executable, str(WORKER), behaviour, str(folder)], devices, lambda: command)


def process_ids(folder, event):
    return [int(file.read_text()) for file in sorted(folder.glob(f"{event}-?"))]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_launch_shows_output_of_rank_zero_and_returns_0(tmp_path, capfd):
    assert run("print_lines", tmp_path, devices=3) == 0
    out, err = capfd.readouterr()
    assert out == "from 0 of 3 at 127.0.0.1\n"
    assert err == "note of 0\n"
    assert len(process_ids(tmp_path, "done")) == 3


def test_error_on_all_ranks_is_shown_once(tmp_path, capfd):
    assert run("error_on_all_ranks", tmp_path) == 2
    assert capfd.readouterr().err == "The file does not exist.\n"


def test_error_on_one_rank_is_shown_without_its_consequences(tmp_path, capfd):
    assert run("error_on_one_rank", tmp_path) == 2
    assert capfd.readouterr().err == "The data are damaged.\n"


def test_exception_is_shown_with_rank_and_resume_command(tmp_path, capfd):
    assert run("exception_on_one_rank", tmp_path) == 4
    err = capfd.readouterr().err
    assert "ZeroDivisionError" in err
    assert "Connection closed" not in err
    last = err.splitlines()[-1]
    assert last == (
        "Process 2 of 2 ended with exit code 1; the others were stopped. Resume with: dashpot train --resume R"
    )


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("dashpot train --resume R", " Resume with: dashpot train --resume R"),
        pytest.param(None, "", marks=pytest.mark.slow),
    ],
)
def test_killed_process_is_named_and_others_are_terminated(tmp_path, capfd, command, hint):
    assert run("killed", tmp_path, command=command) == 4
    assert capfd.readouterr().err == f"Process 2 of 2 was killed by SIGKILL; the others were stopped.{hint}\n"
    assert not any(map(is_running, process_ids(tmp_path, "started")))


def send_once_started(folder, number):
    """Start a thread that sends a signal to this process once both workers have started."""

    def send():
        wait_until(lambda: len(process_ids(folder, "started")) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_signal_is_forwarded_and_graceful_stop_awaited(tmp_path, capfd, number):
    before = signal.getsignal(number)
    thread = send_once_started(tmp_path, number)
    assert run("graceful_stop", tmp_path) == 128 + number
    thread.join()
    assert capfd.readouterr().err == "Stopped.\n"
    assert len(process_ids(tmp_path, "saved")) == 2
    assert not any(map(is_running, process_ids(tmp_path, "started")))
    assert signal.getsignal(number) == before


def test_save_signal_is_forwarded_and_processes_continue(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    thread = send_once_started(tmp_path, signal.SIGUSR1)
    assert run("save_signal", tmp_path) == 0
    thread.join()
    assert len(process_ids(tmp_path, "saved")) == 2
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True])
def test_exit_with_pending_collective_succeeds(tmp_path, capfd, held):
    """A process aborts if a gloo thread releases a tensor while the interpreter finalizes."""
    if held:
        (tmp_path / "held").touch()
    assert run("pending_collective", tmp_path) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_processes_exit_when_launcher_is_killed(tmp_path):
    code = (
        "import sys; from dashpot.training.distributed.launcher import launch\n"
        f"sys.exit(launch([sys.executable, {str(WORKER)!r}, 'orphan', {str(tmp_path)!r}], 2, lambda: None))"
    )
    with running([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(process_ids(tmp_path, "started")) == 2)
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_running, process_ids(tmp_path, "started"))))


@pytest.mark.slow  # kills of a single process: test_resume_kills.py
def test_resume_after_killed_process_is_bit_identical(tmp_path, capfd):
    (tmp_path / "kill").touch()
    assert run("train", tmp_path) == 4
    assert re.fullmatch(r"Process 2 of 2 was killed by SIGKILL; .*\n", capfd.readouterr().err)
    assert not (tmp_path / "final.pt").exists()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["steps"] == 30
    assert run("train", tmp_path) == 0
    expected, resumed = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("uninterrupted", "final"))
    assert all(torch.equal(value, resumed["model"][name]) for name, value in expected["model"].items())
    assert expected["history"] == resumed["history"]
    assert len(expected["history"]) == 2
    assert capfd.readouterr() == ("trained\n", "")


@pytest.mark.slow
def test_torchrun_gives_the_results_of_launch(tmp_path):
    folders = [tmp_path / name for name in ("launch", "torchrun")]
    for folder in folders:
        folder.mkdir()
    assert run("train", folders[0]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*torchrun, str(WORKER), "train", str(folders[1])], check=True, timeout=LIMIT)
    expected, actual = (torch.load(folder / "final.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(value, actual["model"][name]) for name, value in expected["model"].items())


@pytest.mark.parametrize("devices", [0, 1.5, "2"])
def test_launch_rejects_invalid_devices(devices):
    with pytest.raises(dp.ArgumentError, match="launch: devices"):
        launch(["true"], devices, lambda: None)
