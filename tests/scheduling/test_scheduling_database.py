"""Databases: a real PostgreSQL with restarts, and databases that cannot hold a study."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dashpot.errors import RunError
from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.outages import StorageLost
from dashpot.scheduling.storage import open_storage
from dashpot.scheduling.work_items import WorkItem
from dashpot.scheduling.work_queue import WorkQueue

ITEMS = [WorkItem(f"run/adam/{number}", "runs") for number in range(4)]


def queue_in(storage, folder, **options):
    queue = WorkQueue(storage, "digits", {"epochs": 3}, folder, **options)
    queue.add(ITEMS)
    return queue


@pytest.fixture
def url(request, tmp_path):
    """Return the URL of an empty database of a kind."""
    return request.getfixturevalue("database") if request.param == "postgresql" else f"sqlite:///{tmp_path}/studies.db"


@pytest.mark.parametrize(
    "url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.needs_postgresql])],
    indirect=True,
)
def test_database_holds_a_queue(url, tmp_path):
    with (
        open_storage(url) as storage,
        open_storage(url) as second,
        queue_in(storage, tmp_path, pruner="median") as queue,
        queue_in(second, None) as observer,
    ):
        claim = queue.claim()
        assert set(claim.suggest({"lr": Dimension(1e-4, 1.0, log=True)})) == {"lr"}
        claim.report(1, 0.5)
        assert not claim.should_prune()
        assert observer.claim().key == ITEMS[1].key
        assert claim.finish("diverged", 0.1, {"record": "é\x00" * 50_000})
        found = observer.outcomes()[claim.key]
        assert (found.status, found.score, found.data) == ("diverged", 0.1, {"record": "é\x00" * 50_000})


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.needs_postgresql
def test_restart_of_the_server_is_waited_for(server, database, tmp_path, end):
    notices = []
    with open_storage(database, notify=notices.append) as storage, queue_in(storage, tmp_path, lease=0.4) as queue:
        claim = queue.claim()
        getattr(server, end)()
        restart = threading.Timer(1.5, server.start)
        restart.start()
        try:
            assert claim.finish("done", 0.5, {"n": 1})
        finally:
            restart.join()
        assert len(notices) == 1
        assert "does not answer" in notices[0]
        assert queue.outcomes()[claim.key].data == {"n": 1}
        other = queue.claim()
        before = storage.call(lambda base: base.get_trial(other._trial)).user_attrs["lease"]["count"]
        queue._renew()  # the heartbeat works as well after the restart
        assert storage.call(lambda base: base.get_trial(other._trial)).user_attrs["lease"]["count"] > before


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_lost_server_raises_and_the_next_start_resumes(server, database, tmp_path):
    with open_storage(database, limit=0.5, notify=lambda text: None) as storage:
        queue = queue_in(storage, tmp_path)
        claim = queue.claim()
        assert queue.claim().finish("done", 0.5, {})
        server.stop()
        try:
            with pytest.raises(StorageLost, match=r"has not answered for 0 s .*Run the command again to resume"):
                claim.finish("done", 0.5, {})
            queue.close()
        finally:
            server.start()
    with open_storage(database) as storage, queue_in(storage, tmp_path) as queue:
        assert queue.claim().key == claim.key  # at once, as the lock of its worker is free
        assert set(queue.outcomes()) == {ITEMS[1].key}


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_workers_that_start_at_the_same_time_share_the_tables(database, tmp_path):
    def work(number):
        with open_storage(database) as storage, queue_in(storage, tmp_path) as queue:
            finished = []
            while claim := queue.claim():
                assert claim.finish("done", float(number), {})
                finished.append(claim.key)
            return finished

    with ThreadPoolExecutor(3) as pool:
        assert sorted(key for keys in pool.map(work, range(3)) for key in keys) == [item.key for item in ITEMS]


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_tables_of_a_different_program_raise_and_remain_unchanged(server, database):
    name = database.rsplit("/", 1)[1]
    server.execute("CREATE TABLE alembic_version (version_num text)", name)
    with pytest.raises(
        RunError, match=r"contains tables of a different program \(alembic_version\): create a database"
    ):
        open_storage(database)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revision", "message"),
    [("v2.4.0.a", r"tables of an older optuna: run `optuna storage upgrade"), ("v99", "tables of a newer optuna")],
)
@pytest.mark.needs_postgresql
def test_tables_of_a_different_version_of_optuna_raise(server, database, revision, message):
    open_storage(database).close()
    server.execute(f"UPDATE alembic_version SET version_num = '{revision}'", database.rsplit("/", 1)[1])
    with pytest.raises(RunError, match=message):
        open_storage(database)


@pytest.mark.slow
@pytest.mark.parametrize("is_empty", [True, False])
@pytest.mark.needs_postgresql
def test_read_only_database_raises(server, database, tmp_path, is_empty):
    if not is_empty:
        open_storage(database).close()
    server.execute(f"ALTER DATABASE {database.rsplit('/', 1)[1]} SET default_transaction_read_only = on")
    with pytest.raises(RunError, match="read-only"), open_storage(database) as storage:
        queue_in(storage, tmp_path)


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_account_without_rights_raises(server, database):
    server.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(RunError, match="does not allow this account to create tables"):
        open_storage(database.replace("studies@", "guest:s3cret@"))


@pytest.mark.slow
@pytest.mark.needs_postgresql
def test_missing_database_raises_without_password(database):
    with pytest.raises(RunError, match=r"nobody:\*\*\*@.* cannot be reached: .*does not exist") as caught:
        open_storage(database.replace("studies@", "nobody:s3cret@"))
    assert "s3cret" not in str(caught.value)


def test_unreachable_server_raises_without_password():
    with pytest.raises(RunError, match=r"^The database postgresql://ada:\*\*\*@127\.0\.0\.1:1/x.* cannot be reached: "):
        open_storage("postgresql://ada:s3cret@127.0.0.1:1/x?connect_timeout=2", limit=0.0)


@pytest.mark.parametrize("url", ["oracle9://db/x", "postgresql://db:port/x", "mysql+missing://db/x"])
def test_url_without_database_raises(url):
    with pytest.raises(RunError, match=r"is not the URL of a database|No driver for"):
        open_storage(url)


def test_missing_driver_raises():
    with pytest.raises(RunError, match=r"^No driver for mysql://ada:\*\*\*@db/x is installed \(No module"):
        open_storage("mysql://ada:s3cret@db/x")


def test_sqlite_file_of_a_different_program_raises(tmp_path):
    connection = sqlite3.connect(tmp_path / "notes.db")
    connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    with pytest.raises(RunError, match=r"contains tables of a different program \(notes\)"):
        open_storage(f"sqlite:///{tmp_path}/notes.db")


def test_file_without_database_raises(tmp_path):
    (tmp_path / "notes.txt").write_text("notes " * 1000, encoding="ascii")
    with pytest.raises(RunError, match="cannot hold a study: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/notes.txt")


def test_read_only_sqlite_file_raises(tmp_path):
    open_storage(f"sqlite:///{tmp_path}/studies.db").close()
    url = f"sqlite:///file:{tmp_path}/studies.db?mode=ro&uri=true"
    with pytest.raises(RunError, match=r"read-?only"), open_storage(url) as storage:
        queue_in(storage, tmp_path)
