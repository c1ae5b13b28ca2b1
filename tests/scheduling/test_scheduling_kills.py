"""Workers killed with SIGKILL at random moments: every item finishes, and none finishes twice."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import LIMIT, running

SCRIPT = Path(__file__).with_name("killed_workers.py")

pytestmark = pytest.mark.needs_posix


def killed(folder, spec, meanwhile=lambda: None, **case):
    """Run workers with kills and return all events and outcomes; call `meanwhile` while they work."""
    case |= {"spec": str(spec), "folder": str(folder)}
    command = [sys.executable, "-W", "error", str(SCRIPT), json.dumps(case)]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        meanwhile()
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert set(found["codes"]) == {0}, errors
    return found


def assert_exactly_once(found, items):
    keys = {f"run/{number}" for number in range(items)}
    counts = {kind: Counter(key for event, _, key in found["events"] if event == kind) for kind in ("start", "finish")}
    assert set(found["outcomes"]) == keys  # no item is lost
    assert max(counts["finish"].values()) == 1  # no item finishes twice
    for event, worker, key in found["events"]:
        if event == "finish":
            assert found["outcomes"][key] == int(worker)  # the recorded outcome is that of the worker that finished
    # A worker may be killed between the outcome in the storage and its line in the log.
    assert len(keys) - len(counts["finish"]) <= found["kills"]
    return counts


def assert_no_superfluous_execution(found, counts, items):
    """Each repeated execution has its kill, since lock files reveal dead workers without false alarms."""
    assert sum(counts["start"].values()) <= items + found["kills"]


def test_three_kills_on_journal_lose_nothing(tmp_path):
    found = killed(tmp_path, tmp_path / "study" / "study.journal", items=16, kills=3, seed=0, pause=0.02)
    counts = assert_exactly_once(found, 16)
    assert_no_superfluous_execution(found, counts, 16)


@pytest.mark.slow
def test_workers_without_common_folder_execute_each_item_once(tmp_path):
    """No lock file serialises the claims of these workers; only the order of trials in the journal decides."""
    found = killed(tmp_path, tmp_path / "study.journal", items=24, kills=0, seed=0, own_folders=True)
    counts = assert_exactly_once(found, 24)
    assert max(counts["start"].values()) == 1


@pytest.mark.slow
def test_25_kills_on_journal_lose_nothing(tmp_path):
    found = killed(tmp_path, tmp_path / "study" / "study.journal", items=250, kills=25, seed=1)
    counts = assert_exactly_once(found, 250)
    assert_no_superfluous_execution(found, counts, 250)


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_25_kills_on_postgresql_lose_nothing(tmp_path, database):
    found = killed(tmp_path, database, items=100, kills=25, seed=2)
    counts = assert_exactly_once(found, 100)
    assert_no_superfluous_execution(found, counts, 100)


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_kills_on_different_machines_lose_nothing(tmp_path, database):
    """Workers without a common folder are recognised as dead by their leases; late workers drop their outcome."""
    found = killed(tmp_path, database, items=40, kills=6, seed=3, own_folders=True, lease=3.0)
    assert_exactly_once(found, 40)


@pytest.mark.slow
def test_suspended_workers_drop_their_outcome(tmp_path):
    """Another worker takes over the item after the lease; the suspended one continues and is not accepted."""
    case = {"items": 42, "kills": 6, "seed": 6, "lease": 0.6, "suspend": 1.5, "longest": 0.3}
    found = killed(tmp_path, tmp_path / "study" / "study.journal", **case)
    counts = assert_exactly_once(found, 42)
    dropped = [key for event, _, key in found["events"] if event == "drop"]
    assert dropped
    assert sum(counts["start"].values()) == 42 + len(dropped)


@pytest.mark.slow
def test_kills_on_sqlite_lose_nothing(tmp_path):
    found = killed(tmp_path, f"sqlite:///{tmp_path}/studies.db", items=40, kills=5, seed=4)
    counts = assert_exactly_once(found, 40)
    assert_no_superfluous_execution(found, counts, 40)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.needs_postgresql
def test_restarts_of_postgresql_and_kills_lose_nothing(tmp_path, server, database, end):
    def restart():
        for finished in (8, 24):
            while text(tmp_path / "events").count("finish") < finished:
                time.sleep(0.01)
            getattr(server, end)()
            time.sleep(0.5)
            server.start()

    found = killed(tmp_path, database, restart, items=60, kills=4, seed=5)
    counts = assert_exactly_once(found, 60)
    assert_no_superfluous_execution(found, counts, 60)


def text(path):
    return path.read_text(encoding="ascii") if path.exists() else ""
