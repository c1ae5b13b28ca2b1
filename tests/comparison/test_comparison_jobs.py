"""Worker processes as their parent sees them, with small programs in place of workers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from dashpot.comparison.jobs import Jobs
from dashpot.comparison.progress import StudyProgress
from dashpot.comparison.worker_process import death_reason, threads_per_worker, worker_environment
from dashpot.comparison.worker_times import WorkerTimes
from dashpot.errors import RunError
from dashpot.runs.signals import Interrupted

pytestmark = pytest.mark.needs_posix

START = """
import json, os, signal, sys, time
from pathlib import Path

def send(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)

def first(name="once"):
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def done(key="run/adam/0"):
    send("start", key=key, steps_done=0)
    send("finish", key=key, text="done")
    send("times", times={"items": 1, "training_s": 2.0})
    send("finished")
"""


class Notes(StudyProgress):
    """Progress report that keeps its notes and finished items."""

    def __init__(self) -> None:
        self.begin(2, 10)
        self.notes: list[str] = []
        self.done: list[tuple[str, int]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self, key: str, text: str, worker: int = 0) -> None:
        super().finish(key, text, worker)
        self.done.append((key, worker))


def run_jobs(folder: Path, program: str, jobs: int = 1, check=lambda: None) -> tuple[Notes, Jobs]:
    """Run `jobs` workers with a program in a folder; return the progress report and the finished `Jobs`."""
    notes = Notes()
    command = [sys.executable, "-S", "-c", f"{START}\nos.chdir({str(folder)!r})\n{program}"]
    workers = Jobs(command, dict(os.environ), jobs, notes, check, WorkerTimes())
    workers.run()
    return notes, workers


def test_workers_that_finish_add_their_times(tmp_path):
    notes, workers = run_jobs(tmp_path, 'send("ready"); done()', jobs=2)
    assert sorted(notes.done) == [("run/adam/0", 1), ("run/adam/0", 2)]
    assert notes.notes == []
    assert workers.times.items == 2
    assert workers.times.training_s == 4.0
    assert workers.times.start_s > 0


def test_dead_worker_is_reported_once_and_replaced(tmp_path):
    program = """
send("ready")
if first():
    send("start", key="run/adam/0", steps_done=0)
    die()
done()
"""
    notes, workers = run_jobs(tmp_path, program)
    assert notes.notes == [
        "Worker 1 died during adam seed 0: SIGKILL, which the system sends if memory is exhausted. Its item is taken "
        "over."
    ]
    assert notes.done == [("run/adam/0", 1)]
    assert workers.deaths == {"run/adam/0": 1}


def test_deaths_are_sent_to_other_workers_and_to_new_ones(tmp_path):
    program = """
send("ready")
if first():
    while not os.path.exists("other"):
        time.sleep(0.01)
    send("start", key="run/adam/0", steps_done=0)
    die()
Path("other").touch()
send("note", text=sys.stdin.readline())
"""
    notes, _ = run_jobs(tmp_path, program, jobs=2)
    received = [json.loads(note) for note in notes.notes if note.startswith("{")]
    assert received == [{"deaths": {"run/adam/0": 1}}] * 2


def test_worker_that_always_dies_ends_the_study(tmp_path):
    program = 'send("ready"); send("start", key="run/adam/0", steps_done=0); die()'
    with pytest.raises(RunError, match=r"^Worker 1 died during adam seed 0: SIGKILL"):
        run_jobs(tmp_path, program)


def test_worker_that_cannot_start_ends_the_study_with_its_last_line(tmp_path):
    program = 'Path(f"start-{os.getpid()}").touch(); print("No module named x", file=sys.stderr); sys.exit(1)'
    with pytest.raises(RunError, match=r"^Worker 1 died: exit code 1 \(No module named x\)\.$"):
        run_jobs(tmp_path, program)
    assert len(list(tmp_path.glob("start-*"))) == 3


def test_error_of_all_workers_ends_the_study(tmp_path):
    program = 'send("ready"); send("error", message="Cannot write x: No space left on device."); sys.exit(2)'
    with pytest.raises(RunError, match=r"^Cannot write x: No space left on device\.$"):
        run_jobs(tmp_path, program, jobs=2)


def test_other_workers_continue_after_the_error_of_one(tmp_path):
    program = """
send("ready")
if first():
    send("error", message="Cannot write x.")
    sys.exit(2)
time.sleep(0.2)
done()
"""
    notes, _ = run_jobs(tmp_path, program, jobs=2)
    assert len(notes.done) == 1
    assert len(notes.notes) == 1
    assert notes.notes[0].endswith("has stopped: Cannot write x.")


def test_interrupt_closes_stdin_and_waits_for_the_workers(tmp_path):
    program = """
send("ready")
send("start", key="run/adam/0", steps_done=0)
Path(f"started-{os.getpid()}").touch()
sys.stdin.read()
print("Traceback", file=sys.stderr)
Path(f"stopped-{os.getpid()}").touch()
sys.exit(130)
"""

    def check() -> None:
        if len(list(tmp_path.glob("started-*"))) == 2:
            raise Interrupted(code=143)

    with pytest.raises(Interrupted) as stop:
        run_jobs(tmp_path, program, jobs=2, check=check)
    assert stop.value.code == 143
    assert len(list(tmp_path.glob("stopped-*"))) == 2


def test_stop_of_all_workers_by_a_signal_is_an_interrupt(tmp_path):
    with pytest.raises(Interrupted) as stop:
        run_jobs(tmp_path, 'send("ready"); sys.exit(143)', jobs=2)
    assert stop.value.code == 143


def test_processes_that_keep_the_pipe_open_do_not_delay_the_end(tmp_path):
    program = """
send("ready")
if os.fork() == 0:
    Path("child").write_text(str(os.getpid()))
    time.sleep(60)
    os._exit(0)
while not (os.path.exists("child") and Path("child").read_text()):
    time.sleep(0.01)
done()
os._exit(0)
"""
    start = time.monotonic()
    notes, _ = run_jobs(tmp_path, program)
    os.kill(int((tmp_path / "child").read_text()), 9)
    assert notes.done == [("run/adam/0", 1)]
    assert time.monotonic() - start < 50  # the other process ends after 60 s


def test_same_line_of_stderr_is_shown_once(tmp_path):
    program = 'send("ready"); print("Note: slow.", file=sys.stderr); print("loss", 0.5); done()'
    notes, _ = run_jobs(tmp_path, program, jobs=2)
    assert notes.notes == ["Note: slow."]


@pytest.mark.parametrize(
    ("code", "reason"), [(-11, "SIGSEGV"), (-9, "SIGKILL"), (-500, "signal 500"), (3, "exit code 3")]
)
def test_death_reason_names_the_signal(code, reason):
    assert death_reason(code).startswith(reason)


def test_workers_share_the_cores_and_read_the_url_from_the_environment(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment = worker_environment(3, "postgresql://ada:secret@db/studies")
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["DASHPOT_STORAGE"] == "postgresql://ada:secret@db/studies"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads_per_worker(1) == cores
