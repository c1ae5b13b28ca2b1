"""Loggers for experiment trackers, with the packages themselves, offline."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from learner_support import At, StopAt, learner
from slow_values import others_slow

from dashpot.errors import ArgumentError, RunError
from dashpot.training import CancelFit, Trackio, WandB
from dashpot.training.callbacks import tracking_loggers, wandb_files
from dashpot.training.callbacks.wandb_files import complete_records, split_records, stored_entries

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def trackio_folder(monkeypatch, tmp_path):
    """Let trackio store its runs in a temporary folder."""
    storage = importlib.import_module("trackio.sqlite_storage")
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "trackio"]:
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    yield tmp_path / "trackio"
    storage._close_all_persistent_connections()


def wandb_entries(folder) -> list[dict[str, float]]:
    """Return the entries of all runs in a folder, by number, without times."""
    found: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in complete_records(path):
            if record.WhichOneof("record_type") == "history":
                items = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
                number = record.history.step.num
                assert number not in found, "repeated"
                found[number] = {name: json.loads(text) for name, text in items.items() if name[0] != "_"}
    assert sorted(found) == list(range(len(found))), "omitted"
    return [without_seconds(found[number]) for number in sorted(found)]


def without_seconds(values):
    return {name: value for name, value in values.items() if name not in ("epoch/seconds", "timestamp")}


def trackio_entries(project="p", name=None) -> list[dict[str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    [record] = [r for r in SQLiteStorage.get_run_records(project) if name in (None, r["name"])]
    rows = SQLiteStorage.get_logs(project, record["name"], run_id=record["id"])
    return [without_seconds(row) for row in rows]


def expected_entries(one, recorded_losses, every=2) -> list[dict[str, float]]:
    """Return the entries of a fit with three steps per epoch."""
    entries = []
    for number, means in enumerate(one.history, 1):
        for step in range(3 * number - 2, 3 * number + 1):
            if step % every == 0:
                entries.append({"epoch": number, "step/loss": recorded_losses[step - 1], "step/lr": 0.01, "step": step})
        values = {f"{phase}/{name}": value for phase in means for name, value in means[phase].items()}
        entries.append({**values, "epoch": number, "epoch/lr": 0.01, "step": 3 * number})
    return entries


KINDS = {
    "wandb": (lambda folder: WandB("p", folder=folder, every=2), wandb_entries),
    "trackio": (lambda folder: Trackio("p", every=2, auto_log_cpu=False), lambda folder: trackio_entries()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("trackio_folder")
def test_entries_of_epochs_and_steps(kind, tmp_path):
    from dashpot.training import Recorder

    make, read = KINDS[kind]
    recorder = Recorder()
    one = learner(callbacks=[make(tmp_path), recorder, At("after_batch", lambda one: one.log("a", 0.5))])
    one.fit(2)
    assert one.history[0]["train"]["a"] == 0.5
    assert read(tmp_path) == expected_entries(one, recorder.values["loss"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", others_slow([4, 2, 3, "crash"], 4))
@pytest.mark.usefixtures("trackio_folder")
def test_resumed_run_has_every_entry_once(kind, at, tmp_path):
    """The first session continues after its checkpoint, for some more entries, unless `at` is "crash"."""
    from dashpot.training import Recorder

    make, read = KINDS[kind]
    torch.manual_seed(7)
    whole = learner(callbacks=[recorder := Recorder()])
    whole.fit(3)
    stop, hook = StopAt(4 if at == "crash" else at), StopAt.after_batch
    if at != "crash":
        stop.after_batch = lambda one: _without_cancel(lambda one: hook(stop, one), one)
    torch.manual_seed(7)
    first = make(tmp_path)
    learner().fit(2, callbacks=[first, stop])
    state = copy.deepcopy(stop.state)
    for _ in range(1 if kind == "wandb" else 2):
        second = make(tmp_path)
        learner(seed=0).fit(3, callbacks=[second], resume=state)
        assert second.run.id == first.run.id
        assert second.run.name == first.run.name
    assert read(tmp_path) == expected_entries(whole, recorder.values["loss"])


def _without_cancel(hook, one):
    try:
        hook(one)
    except CancelFit:
        return


@pytest.mark.parametrize("recent", [0, 1, 3])
def test_entries_that_the_tracker_has_lost_are_logged_again(online, monkeypatch, recent):
    """Of three entries, the checkpoint has the latest ones, and the tracker has the first one."""
    server, _ = online
    monkeypatch.setattr(tracking_loggers, "RECENT", recent)
    stop = StopAt(8)
    learner().fit(3, callbacks=[WandB("p", every=4), stop])
    assert len(server) == 4
    kept = list(server)
    del server[1:]
    again = WandB("p", every=4)
    if recent == 3:
        learner().fit(3, callbacks=[again], resume=stop.state)
        assert server[:4] == kept
    else:
        missing = {0: "2 to 4", 1: "2 to 3"}[recent]
        with pytest.warns(UserWarning, match=f"WandB: the entries {missing} of the run are missing in the tracker"):
            learner().fit(3, callbacks=[again], resume=stop.state)
        assert server[1 : 1 + recent] == kept[4 - recent :]
    assert server[-1]["epoch"] == 3


@pytest.mark.usefixtures("trackio_folder")
def test_run_that_was_deleted_is_logged_again(tmp_path):
    import trackio

    stop = StopAt(4)
    learner().fit(2, callbacks=[Trackio("p", name="n", auto_log_cpu=False), stop])
    assert trackio.delete_project("p", force=True)
    learner().fit(2, callbacks=[Trackio("p", name="n", auto_log_cpu=False)], resume=stop.state)
    assert [entry["epoch"] for entry in trackio_entries()] == [1, 2]


@pytest.mark.usefixtures("trackio_folder")
def test_different_run_of_the_same_name_is_not_continued(tmp_path):
    stop = StopAt(4)
    learner().fit(2, callbacks=[Trackio("p", name="n", auto_log_cpu=False), stop])
    learner().fit(1, callbacks=[Trackio("p", name="n", auto_log_cpu=False)])
    with pytest.raises(RunError, match="the latest run 'n' of the project 'p' is not the run of the checkpoint"):
        learner().fit(2, callbacks=[Trackio("p", name="n", auto_log_cpu=False)], resume=stop.state)


@pytest.mark.usefixtures("trackio_folder")
def test_different_project_is_rejected_before_anything_is_logged(tmp_path):
    stop = StopAt(4)
    learner().fit(2, callbacks=[Trackio("p", auto_log_cpu=False), stop])
    with pytest.raises(RunError, match="Trackio: project must be that of the checkpoint, 'p', got 'q'"):
        learner().fit(2, callbacks=[Trackio("q")], resume=stop.state)


# ---- the API of W&B online, by a module with the same interface -----------------------------------------------------


class FakeRun:
    """Run on a server that has `stored` entries."""

    offline = disabled = False

    def __init__(self, server, options):
        self.server, self.options = server, options
        self.id, self.name = options.get("id") or "run1", options["name"] or "generated"
        self.starting_step = len(server) if options.get("resume") else 0

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values, step, commit):
        assert commit
        assert step >= len(self.server)
        self.server.append(values)

    def finish(self, exit_code):
        self.server.exit_code = exit_code


class Server(list):
    exit_code = None


@pytest.fixture
def online(monkeypatch):
    server, runs = Server(), []

    class Error(Exception):
        pass

    def init(**options):
        if options.get("entity") == "nobody":
            raise Error("No API key configured.\nUse `wandb login`.")
        runs.append(FakeRun(server, options))
        return runs[-1]

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, errors=SimpleNamespace(Error=Error)))
    return server, runs


def test_online_run_is_resumed_by_its_id(online, tmp_path):
    server, runs = online
    stop = StopAt(4)
    stop.after_batch = lambda one, hook=stop.after_batch: _without_cancel(hook, one)
    learner().fit(2, callbacks=[WandB("p", folder=tmp_path, config={"a": 1}, tags=["t"]), stop])
    learner().fit(3, callbacks=[WandB("p", folder=tmp_path)], resume=stop.state)
    assert [values["epoch"] for values in server] == [1, 2, 3]
    assert [values["step"] for values in server] == [3, 6, 9]
    first, second = (run.options for run in runs)
    assert (first["config"], first["tags"], first["dir"]) == ({"a": 1}, ["t"], str(tmp_path))
    assert (second["id"], second["resume"], second["name"]) == ("run1", "allow", "generated")
    assert first["reinit"] == second["reinit"] == "create_new"  # keeps a run of the user open


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError, 1), (CancelFit, 0)])
def test_exit_code_of_the_run(online, error, code):
    server, _ = online

    def fail(_):
        raise error

    fail_at = At("after_step", fail)
    if error is CancelFit:
        learner().fit(1, callbacks=[WandB("p"), fail_at])
    else:
        with pytest.raises(ZeroDivisionError):
            learner().fit(1, callbacks=[WandB("p"), fail_at])
    assert server.exit_code == code


def test_run_that_cannot_start_is_an_error(online):
    sentence = "WandB: the run cannot be started: No API key configured; set WANDB_MODE=offline"
    with pytest.raises(RunError, match=sentence):
        learner().fit(1, callbacks=[WandB("p", entity="nobody")])


def test_each_fit_has_its_own_run(online):
    _, runs = online
    logger = WandB("p")
    one = learner(callbacks=[logger])
    one.fit(1)
    runs[0].server.clear()
    one.fit(1)
    assert len(runs) == 2
    assert "id" not in runs[1].options


# ---- files and arguments --------------------------------------------------------------------------------------------


def test_records_of_several_blocks_are_read(tmp_path):
    """Fragments of a record end at the end of a block of 32 768 bytes."""
    content, records = bytearray(b"\0" * 7), [bytes([k]) * size for k, size in enumerate((10, 32740, 5, 70000, 0, 3))]
    for record in records:
        rest, first = record, True
        while first or rest:
            left = 32768 - len(content) % 32768
            if left < 7:
                content += b"\0" * left
                left = 32768
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            content += wandb_files.FRAME.pack(0, len(part), kind) + part
            first = False
    assert list(split_records(bytes(content))) == records
    assert list(split_records(bytes(content[:-1]))) == records[:-1]  # an incomplete last record


def test_damaged_offline_file_is_reported(tmp_path):
    (tmp_path / "offline-run-1-a").mkdir()
    path = tmp_path / "offline-run-1-a" / "run-a.wandb"
    path.write_bytes(b"\0" * 7 + wandb_files.FRAME.pack(0, 3, 1) + b"\xff\xff\xff")
    assert stored_entries(tmp_path, "a", own=path) == 0
    with pytest.raises(RunError, match=r"Cannot read the entries of the offline run in .*run-a.wandb: invalid record"):
        stored_entries(tmp_path, "a")
    assert stored_entries(tmp_path, "b") == 0


@pytest.mark.parametrize("make", [WandB, Trackio])
def test_missing_package_is_reported(make, monkeypatch):
    package = make.__name__.lower()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf"{make.__name__} needs {package}: pip install 'dashpot\[{package}\]'"):
        make("p")


def test_invalid_arguments_are_rejected():
    with pytest.raises(ArgumentError, match="WandB: project must be None or a non-empty string, got 3"):
        WandB(3)
    with pytest.raises(ArgumentError, match="WandB: name must be None or a non-empty string, got ''"):
        WandB("p", name="")
    with pytest.raises(ArgumentError, match="Trackio: config must be None or a mapping"):
        Trackio("p", config=["a"])
    with pytest.raises(ArgumentError, match="WandB: resume must not be given, because WandB sets it"):
        WandB("p", resume="must")
    with pytest.raises(ArgumentError, match="WandB: folder must be None or a path, got 3"):
        WandB("p", folder=3)
    with pytest.raises(ArgumentError, match="Trackio: project must be a non-empty string, got None"):
        Trackio(None)
    with pytest.raises(ArgumentError, match="Trackio: every must be"):
        Trackio("p", every=0)
