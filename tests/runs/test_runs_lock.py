"""Lock of a folder against other processes."""

import subprocess
import sys
import threading
import time

import pytest
from processes import running

from dashpot.errors import RunError
from dashpot.runs.lock import locked

HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.needs_posix
def test_lock_excludes_other_processes_and_ends_with_its_process(tmp_path):
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running([sys.executable, "-c", HOLD, str(tmp_path)], **options) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="Another process is using"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path), pytest.raises(RunError, match="Another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    with pytest.raises(RunError, match="Cannot open"), locked(tmp_path / "missing"):
        pass


@pytest.mark.needs_posix
def test_lock_waits_for_another_holder(tmp_path):
    held, released = threading.Event(), []

    def hold():
        with locked(tmp_path):
            held.set()
            time.sleep(0.1)
            released.append(True)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with pytest.raises(RunError, match="Another process"), locked(tmp_path, wait=0.01):
        pass
    with locked(tmp_path, wait=10.0):
        assert released
    holder.join()
