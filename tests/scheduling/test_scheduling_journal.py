"""Journal file: incomplete lines, damage, other files, full disks, concurrent writers."""

import json
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest

from dashpot.errors import RunError
from dashpot.scheduling import file_lock
from dashpot.scheduling.file_lock import wait_for_lock
from dashpot.scheduling.journal import JournalFile


def log(number):
    return {"op_code": 0, "worker_id": "w", "study_name": f"study{number}", "directions": [1]}


def names(journal, start=0):
    return [entry["study_name"] for entry in journal.read_logs(start)]


@pytest.fixture
def journal(tmp_path):
    journal = JournalFile(tmp_path / "study.journal")
    journal.append_logs([log(0), log(1)])
    return journal


def test_incomplete_last_line_is_ignored_and_then_removed(journal):
    with journal.path.open("ab") as file:
        file.write(b'{"op_code":0,"worker')
    assert names(journal) == ["study0", "study1"]
    journal.append_logs([log(2)])
    assert names(JournalFile(journal.path)) == ["study0", "study1", "study2"]


def test_incomplete_line_longer_than_a_block_is_removed(journal):
    with journal.path.open("ab") as file:
        file.write(b'{"op_code":0,"x":"' + b"x" * 200_000)
    journal.append_logs([log(2)])
    assert names(journal) == ["study0", "study1", "study2"]


def test_incomplete_first_line_is_removed(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_c')
    journal = JournalFile(path)
    journal.append_logs([log(0)])
    assert names(journal) == ["study0"]


def test_read_logs_reads_only_new_bytes(journal):
    assert names(journal) == ["study0", "study1"]
    damaged = journal.path.read_bytes().replace(b"study0", b"stud\x000")
    journal.path.write_bytes(damaged)
    JournalFile(journal.path).append_logs([log(2)])
    assert names(journal, 2) == ["study2"]
    assert names(journal, 3) == []


def test_read_logs_continues_in_the_middle_of_a_batch(journal):
    """Optuna stops reading at an entry that it rejects, and continues with the next one."""
    next(iter(journal.read_logs(0)))
    assert names(journal, 1) == ["study1"]


def test_damaged_line_raises_with_its_number(journal):
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"study0"', b"study0"))
    with pytest.raises(RunError, match=r"study\.journal is damaged in line 1: restore a copy"):
        names(journal)


@pytest.mark.parametrize("content", [b"notes\n", b"notes", b'{"epoch": 1}\n', b"[1]\n"])
def test_other_file_raises_and_remains_unchanged(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"notes\.txt is not the journal of a study"):
        JournalFile(path)
    assert path.read_bytes() == content


def test_truncated_file_raises(journal):
    names(journal)
    journal.path.write_bytes(b"")
    with pytest.raises(RunError, match="has been truncated or replaced"):
        names(journal, 2)


def test_removed_file_raises(journal):
    journal.path.unlink()
    with pytest.raises(RunError, match=r"Cannot write the journal .*No such file"):
        journal.append_logs([log(2)])
    assert not journal.path.exists()  # an empty journal would start the study again


def test_missing_folder_raises(tmp_path):
    with pytest.raises(RunError, match=r"Cannot create the journal .*No such file"):
        JournalFile(tmp_path / "missing" / "study.journal")


def test_journal_of_optunas_backend_is_read(tmp_path):
    path = tmp_path / "study.journal"
    optuna.storages.journal.JournalFileBackend(str(path)).append_logs([log(0)])
    journal = JournalFile(path)
    journal.append_logs([log(1)])
    assert names(journal) == ["study0", "study1"]


@pytest.mark.needs_posix
def test_full_disk_raises_and_leaves_the_journal_readable(journal):
    import resource

    size = journal.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        with pytest.raises(RunError) as caught:
            journal.append_logs([log(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(f"Cannot write the journal {journal.path}: File too large")
    assert journal.path.stat().st_size == size
    journal.append_logs([log(3)])
    assert names(journal) == ["study0", "study1", "study3"]


def test_concurrent_writers_and_readers_see_complete_lines(journal):
    def write(writer):
        own = JournalFile(journal.path)
        for number in range(5):
            own.append_logs([{**log(f"-{writer}-{number}"), "text": "x" * 20_000}])
            assert all(len(entry.get("text", "")) in (0, 20_000) for entry in own.read_logs(0))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(set(names(journal))) == 2 + 20


@pytest.mark.needs_posix
def test_lock_of_a_suspended_process_raises_after_the_limit(journal):
    with journal.path.open("rb") as first, journal.path.open("rb") as second:
        wait_for_lock(first.fileno(), journal.path)
        with pytest.raises(RunError, match=r"Another process has locked .*continue or end suspended processes"):
            wait_for_lock(second.fileno(), journal.path, 0.01)


@pytest.mark.needs_posix
def test_file_system_without_locks_raises(journal, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_lock.fcntl, "flock", unsupported)
    with pytest.raises(RunError, match=r"has no file locks .*--storage postgresql://"):
        journal.append_logs([log(2)])


def test_journal_without_flock_uses_a_lock_file(journal, monkeypatch):
    monkeypatch.setattr("dashpot.scheduling.journal.HAS_FLOCK", False)  # as on Windows
    journal.append_logs([log(2)])
    assert names(journal) == ["study0", "study1", "study2"]
    assert [path.name for path in journal.path.parent.iterdir()] == ["study.journal"]


def test_lines_are_json(journal):
    assert [json.loads(line)["op_code"] for line in journal.path.read_text(encoding="utf-8").splitlines()] == [0, 0]
