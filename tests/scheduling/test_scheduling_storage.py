"""Storage: retries during outages, messages, log output of Optuna, URLs."""

import io
import logging
import re
import sys
import time

import optuna
import pytest

from dashpot.errors import RunError
from dashpot.scheduling.optuna_library import load_optuna
from dashpot.scheduling.outages import StorageLost, is_outage, reason
from dashpot.scheduling.storage import Storage, open_storage
from dashpot.scheduling.storage_url import with_driver
from dashpot.scheduling.work_items import WorkItem
from dashpot.scheduling.work_queue import WorkQueue


class OperationalError(Exception):
    """Named like the error of a database driver whose server restarts."""


class Flaky:
    """A storage whose next `failures` operations fail, after they have been applied if `late`."""

    def __init__(self, base, late=False):
        self.base, self.late, self.failures = base, late, 0

    def __getattr__(self, name):
        method = getattr(self.base, name)

        def call(*arguments, **options):
            if self.failures > 0:
                self.failures -= 1
                if self.late:
                    method(*arguments, **options)
                raise OperationalError("server closed the connection")
            return method(*arguments, **options)

        return call


@pytest.fixture
def journal(tmp_path):
    return open_storage(tmp_path / "study.journal")._base


def test_operation_is_repeated_during_an_outage(journal):
    notices = []
    flaky = Flaky(journal)
    storage = Storage(flaky, "db", limit=10.0, notify=notices.append)
    flaky.failures = 3
    assert storage.call(lambda base: base.get_all_studies()) == []
    assert notices == []  # an outage below one second is not worth a message


def test_long_outage_raises_with_text_on_resume_and_one_notice(journal):
    notices = []
    flaky = Flaky(journal)
    options = {"notify": notices.append, "resume_text": lambda: "1 of 2 runs. Resume with: again"}
    storage = Storage(flaky, "postgresql://db/studies", limit=0.2, **options)
    with WorkQueue(storage, "digits", {}, None) as queue:
        queue.add([WorkItem("run/adam/0", "runs"), WorkItem("run/adam/1", "runs")])
        queue.claim().finish("done", 1.0, {})
        flaky.failures = 10**6
        with pytest.raises(
            StorageLost,
            match=r"^postgresql://db/studies has not answered for 0 s \(server closed the connection\)\. "
            r"1 of 2 runs\. Resume with: again$",
        ):
            queue.claim()
        flaky.failures = 0
    assert len(notices) == 1
    assert notices[0].startswith("postgresql://db/studies does not answer (server closed the connection); waiting")


def test_lost_storage_is_tried_once_until_it_answers(journal):
    """After the limit, giving items back must not wait for the limit again."""
    flaky = Flaky(journal)
    storage = Storage(flaky, "db", limit=0.2, notify=lambda text: None)
    flaky.failures = 10**6
    with pytest.raises(StorageLost):
        storage.call(lambda base: base.get_all_studies())
    flaky.failures = 1
    with pytest.raises(StorageLost):
        storage.call(lambda base: base.get_all_studies())
    assert storage.call(lambda base: base.get_all_studies()) == []
    flaky.failures = 1
    assert storage.call(lambda base: base.get_all_studies()) == []


def test_operations_applied_before_the_connection_is_lost_have_one_effect(journal, tmp_path):
    """The answer to every operation is lost once; the repeated operation must not claim or finish twice."""
    flaky = Flaky(journal, late=True)
    storage = Storage(flaky, "db")

    def once(operation, original=storage.attempt):
        flaky.failures = 1
        try:
            return original(operation)
        finally:
            flaky.failures = 0
            storage.attempt = original

    with WorkQueue(storage, "digits", {}, tmp_path) as queue:
        queue.add([WorkItem("run/adam/0", "runs"), WorkItem("run/adam/1", "runs")])
        keys = []
        for _ in range(2):
            storage.attempt = once
            claim = queue.claim()
            storage.attempt = once
            assert claim.finish("done", 1.0, {"n": len(keys)})
            keys.append(claim.key)
        assert keys == ["run/adam/0", "run/adam/1"]
        assert queue.claim() is None
        assert [outcome.data["n"] for outcome in queue.outcomes().values()] == [0, 1]


def test_heartbeat_survives_an_outage(journal, tmp_path):
    flaky = Flaky(journal)
    storage = Storage(flaky, "db")
    with WorkQueue(storage, "digits", {}, tmp_path, lease=0.08) as queue:
        queue.add([WorkItem("run/adam/0", "runs")])
        claim = queue.claim()
        flaky.failures = 3
        wait_until(lambda: flaky.failures == 0)
        trial = claim._trial
        before = journal.get_trial(trial).user_attrs["lease"]["count"]
        wait_until(lambda: journal.get_trial(trial).user_attrs["lease"]["count"] > before)
        assert claim.finish("done", 1.0, {})


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class PendingRollbackError(Exception):
    """Named like the error of SQLAlchemy for a transaction whose connection is lost."""


def test_error_after_a_lost_connection_is_an_outage():
    error = PendingRollbackError("cannot reconnect")
    error.__context__ = OperationalError("server closed the connection")
    assert is_outage(error)
    assert reason(error) == "server closed the connection"


def test_permanent_errors_are_not_repeated():
    assert is_outage(OperationalError("the database system is shutting down"))
    assert not is_outage(OperationalError("attempt to write a readonly database"))
    assert not is_outage(ValueError("connection"))


def test_newer_operation_in_the_journal_raises(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text('{"op_code":99,"worker_id":"w"}\n', encoding="ascii")
    with pytest.raises(RunError, match=r"study\.journal has entries of a newer optuna: pip install -U optuna\."):
        open_storage(path)


def test_missing_optuna_raises(tmp_path, monkeypatch):
    load_optuna.cache_clear()
    monkeypatch.setitem(sys.modules, "optuna", None)
    try:
        with pytest.raises(RunError, match=re.escape("A study needs optuna: pip install 'dashpot[study]'")):
            open_storage(tmp_path / "study.journal")
    finally:
        load_optuna.cache_clear()


def test_optuna_is_silent_and_its_verbosity_unchanged(tmp_path, monkeypatch):
    level = optuna.logging.get_verbosity()
    shown = io.StringIO()
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [logging.StreamHandler(shown)])
    with open_storage(tmp_path / "study.journal") as storage, WorkQueue(storage, "digits", {}, tmp_path) as queue:
        queue.add([WorkItem("run/adam/0", "runs")])
        queue.claim().finish("done", 1.0, {})
    assert shown.getvalue() == ""
    assert optuna.logging.get_verbosity() == level
    logging.getLogger("optuna.storages").info("message of the user")
    assert shown.getvalue() == "message of the user\n"


def test_unwritable_folder_raises(tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(RunError, match="Cannot create the folder"):
        open_storage(tmp_path / "file" / "study.journal")


def test_storage_without_url_raises():
    with pytest.raises(RunError, match=r"The storage must be a URL, such as postgresql://.*got 'studies'"):
        open_storage("studies")


def test_with_driver_prefers_psycopg_3(monkeypatch):
    assert with_driver("postgres://db/x") == "postgresql+psycopg://db/x"
    assert with_driver("postgresql+psycopg2://db/x") == "postgresql+psycopg2://db/x"
    monkeypatch.setattr("dashpot.scheduling.storage_url.find_spec", lambda name: name == "psycopg2" or None)
    assert with_driver("postgresql://db/x") == "postgresql+psycopg2://db/x"
    monkeypatch.setattr("dashpot.scheduling.storage_url.find_spec", lambda name: None)
    with pytest.raises(RunError, match=re.escape("pip install 'dashpot[postgresql]'")):
        with_driver("postgresql://db/x")
