"""Several processes started and watched by one: what happens when one of them fails, and how a run goes on then."""

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

import dashpot as dp
from dashpot.training.distributed import launcher
from dashpot.training.distributed.launcher import launch

WORKER = Path(__file__).parent / "launch_worker.py"
LIMIT = 60.0  # seconds for anything here; all but training takes less than one

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_available(), reason="needs processes as POSIX has them"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(launcher, "FAILURE_GRACE", 0.5)
    monkeypatch.setattr(launcher, "TERMINATE_GRACE", 0.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def run(what, folder, devices=2, command="dashpot train --resume R"):
    return launch([sys.executable, str(WORKER), what, str(folder)], devices, lambda: command)


def pids(folder, text):
    return [int(file.read_text()) for file in sorted(folder.glob(f"{text}-?"))]


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


def test_all_end_well(tmp_path, capfd):
    assert run("print_lines", tmp_path, devices=3) == 0
    out, err = capfd.readouterr()
    assert out == "from 0 of 3 at 127.0.0.1\n"  # the first process's alone
    assert err == "note of 0\n"
    assert len(pids(tmp_path, "done")) == 3


def test_a_mistake_of_all_is_told_once(tmp_path, capfd):
    assert run("same_mistake", tmp_path) == 2
    assert capfd.readouterr().err == "The file is not there.\n"


def test_a_mistake_of_one_is_told_and_not_what_it_did_to_the_others(tmp_path, capfd):
    assert run("mistake_of_one", tmp_path) == 2
    assert capfd.readouterr().err == "Its part is damaged.\n"


def test_an_error_is_shown_with_its_process(tmp_path, capfd):
    assert run("crash", tmp_path) == 4
    err = capfd.readouterr().err
    assert "ZeroDivisionError" in err
    assert "Connection closed" not in err
    last = err.splitlines()[-1]
    assert last == (
        "Process 2 of 2 ended with exit code 1; the others were stopped. Resume with: dashpot train --resume R"
    )


def test_a_killed_process_is_named_and_the_others_stop(tmp_path, capfd):
    began = time.monotonic()
    assert run("killed", tmp_path) == 4
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err == (
        "Process 2 of 2 was killed by SIGKILL; the others were stopped. Resume with: dashpot train --resume R\n"
    )
    assert not any(map(is_running, pids(tmp_path, "there")))


def test_nothing_to_go_on_with(tmp_path, capfd):
    assert run("killed", tmp_path, command=None) == 4
    assert capfd.readouterr().err == "Process 2 of 2 was killed by SIGKILL; the others were stopped.\n"


def supervisor(what, folder):
    """A process of its own that supervises two."""
    code = (
        "import sys; from dashpot.training.distributed.launcher import launch\n"
        f"sys.exit(launch([sys.executable, {str(WORKER)!r}, {what!r}, {str(folder)!r}], 2, lambda: None))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def told_while_it_waits(folder, number):
    """Send this process a signal once both that it supervises are there."""

    def tell():
        wait_until(lambda: len(pids(folder, "there")) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)
    thread.start()
    return thread


def test_ctrl_c_reaches_all_and_waits_for_their_tidy_end(tmp_path, capfd):
    thread = told_while_it_waits(tmp_path, signal.SIGINT)
    assert run("tidy", tmp_path) == 130
    thread.join()
    assert capfd.readouterr().err == "Stopped.\n"
    assert len(pids(tmp_path, "tidy")) == 2


def test_a_supervisor_that_is_terminated_stops_all(tmp_path, capfd):
    before = signal.getsignal(signal.SIGTERM)
    thread = told_while_it_waits(tmp_path, signal.SIGTERM)
    assert run("tidy", tmp_path) == 128 + signal.SIGTERM
    thread.join()
    assert capfd.readouterr().err == "Stopped.\n"
    assert not any(map(is_running, pids(tmp_path, "there")))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("held", [False, True])
def test_a_process_ends_well_while_gloo_is_at_work(tmp_path, capfd, held):
    """Once it aborted where a thread of gloo's let go of a tensor at the moment Python ended."""
    if held:
        (tmp_path / "held").touch()
    assert run("late", tmp_path) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_no_process_outlives_a_killed_supervisor(tmp_path):
    process = supervisor("orphan", tmp_path)
    wait_until(lambda: len(pids(tmp_path, "there")) == 2)
    process.kill()
    process.communicate(timeout=LIMIT)
    wait_until(lambda: not any(map(is_running, pids(tmp_path, "there"))))


def test_a_run_goes_on_after_a_killed_process(tmp_path, capfd):
    """To the same bits as a run of two processes that nobody interrupted."""
    (tmp_path / "kill").touch()
    assert run("train", tmp_path) == 4
    assert re.fullmatch(r"Process 2 of 2 was killed by SIGKILL; .*\n", capfd.readouterr().err)
    assert not (tmp_path / "final.pt").exists()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["steps"] == 30
    assert run("train", tmp_path) == 0
    whole, broken = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "final"))
    assert all(torch.equal(value, broken["model"][name]) for name, value in whole["model"].items())
    assert whole["history"] == broken["history"]
    assert len(whole["history"]) == 2
    assert capfd.readouterr() == ("trained\n", "")


@pytest.mark.slow
def test_the_same_script_under_torchrun(tmp_path):
    """The same numbers as under `launch`."""
    folders = [tmp_path / name for name in ("ours", "torchrun")]
    for folder in folders:
        folder.mkdir()
    assert run("train", folders[0]) == 0
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*start, str(WORKER), "train", str(folders[1])], check=True, timeout=LIMIT)
    ours, theirs = (torch.load(folder / "final.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(value, theirs["model"][name]) for name, value in ours["model"].items())


@pytest.mark.parametrize("devices", [0, 1.5, "2"])
def test_devices_is_a_number(devices):
    with pytest.raises(dp.ArgumentError, match="launch: devices"):
        launch(["true"], devices, lambda: None)
