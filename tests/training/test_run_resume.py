"""Resume of runs with changed settings, and of runs with missing or damaged files."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal

import pytest
from run_support import at_step, contents, interrupted_start, quiet
from slow_values import others_slow

import dashpot as dp
from dashpot.comparison import Interrupted
from dashpot.errors import RunError
from dashpot.training.callbacks.checkpoints import latest
from dashpot.training.callbacks.run_log import RunLog
from dashpot.training.run import run as run_module
from dashpot.training.run.run import resume, start

# ---- changed settings -----------------------------------------------------------------------------------------------


def test_rejected_override_changes_nothing(settings, tmp_path, monkeypatch):
    uninterrupted = start(settings, tmp_path / "uninterrupted", write_line=quiet).run
    interrupted_start(settings, tmp_path / "run", monkeypatch, 4)  # within an epoch, where accumulate cannot change
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match="accumulate"):
        resume(tmp_path / "run", {"accumulate": 2}, override=True, write_line=quiet)
    assert contents(tmp_path / "run") == before
    assert resume(tmp_path / "run", write_line=quiet).run.loss == uninterrupted.loss


def test_complete_run_rejects_fewer_epochs(settings, tmp_path):
    start(settings, tmp_path / "run", write_line=quiet)
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match="3 finished epochs"):
        resume(tmp_path / "run", {"epochs": 2}, override=True, write_line=quiet)
    assert contents(tmp_path / "run") == before


def test_changed_settings_of_a_complete_run_are_written(settings, tmp_path):
    start(settings, tmp_path / "run", write_line=quiet)
    assert resume(tmp_path / "run", {"keep": 2}, override=True, write_line=quiet).status == "done"
    assert "keep = 2" in (tmp_path / "run" / "run.toml").read_text()
    assert "keep = 3" in (tmp_path / "run" / "run-1.toml").read_text()


def test_partial_files_of_killed_processes_are_removed(settings, tmp_path, monkeypatch):
    def leave(*names):
        for name in names:
            path = tmp_path / "run" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.0123456789abcdef.part").write_bytes(b"{")

    leave("run.toml")
    interrupted_start(settings, tmp_path / "run", monkeypatch, 4)  # the command that was killed is repeated
    assert not list((tmp_path / "run").rglob("*.part"))
    leave("run-1.toml", "run.jsonl", "log.csv", "nonfinite-step-4.pt", "checkpoints/best.json")
    assert resume(tmp_path / "run", write_line=quiet).status == "done"
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize("step", others_slow([6, 10], 10), ids=["end of an epoch", "within an epoch"])
def test_kill_after_an_accepted_override_needs_no_second_override(settings, tmp_path, monkeypatch, step):
    interrupted_start(settings, tmp_path / "unkilled", monkeypatch, step)
    shutil.copytree(tmp_path / "unkilled", tmp_path / "killed")
    change = {"lr": 0.01, "set": {"weight_decay": 0.5}}
    unkilled = resume(tmp_path / "unkilled", change, override=True, write_line=quiet).run

    def die(self, learner):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "after_backward", die, raising=False)
        with pytest.raises(SystemExit):
            resume(tmp_path / "killed", change, override=True, write_line=quiet)
    run = resume(tmp_path / "killed", write_line=quiet).run
    assert (run.loss, run.lr, run.epochs[-1]["eval"]) == (unkilled.loss, unkilled.lr, unkilled.epochs[-1]["eval"])
    assert run.lr == [0.05] * (step + 1) + [0.01] * (20 - step)


def test_log_that_is_disabled_and_enabled_keeps_its_lines(settings, tmp_path, monkeypatch):
    def resume_until(step, **change):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(Interrupted):
                resume(tmp_path / "run", change, override=True, write_line=quiet)

    with_logs = dataclasses.replace(settings, log=("csv", "tensorboard"))
    interrupted_start(with_logs, tmp_path / "run", monkeypatch, 8)
    resume_until(14, log=("jsonl",))
    resume_until(16, log=("csv", "jsonl", "tensorboard"))
    assert resume(tmp_path / "run", write_line=quiet).status == "done"
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "3"]


def test_error_names_the_option_instead_of_the_argument(settings, tmp_path, monkeypatch):
    interrupted_start(settings, tmp_path / "run", monkeypatch, 4)
    monkeypatch.setattr(run_module.RunPlan, "optimizer", lambda self, params: dp.SGD(params, lr=0.1))
    with pytest.raises(RunError, match="--override") as error:
        resume(tmp_path / "run", write_line=quiet)
    assert "override=True" not in str(error.value)
    assert "Resume with" not in str(error.value)


# ---- missing and damaged files --------------------------------------------------------------------------------------


def test_record_shorter_than_its_checkpoint_raises(settings, tmp_path):
    start(settings, tmp_path / "run", write_line=quiet)
    record = tmp_path / "run" / "run.jsonl"
    record.write_text(record.read_text().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match="shorter than when the checkpoint was written"):
        resume(tmp_path / "run", write_line=quiet)


def test_run_with_only_damaged_checkpoints_is_left_unchanged(settings, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    interrupted_start(dataclasses.replace(settings, log=("csv",)), folder, monkeypatch, 8)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-100])
    record = (folder / "run.jsonl").read_bytes()
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RunError, match="contains only damaged checkpoints"),
    ):
        resume(folder, write_line=quiet)
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(RunError, match=r"are all damaged \(step-.*run\.toml starts a new run\.$"):
            resume(folder, write_line=quiet)
    assert contents(folder) == before
    assert (folder / "run.jsonl").read_bytes() == record


@pytest.mark.parametrize("damaged", others_slow([False, True], True))
def test_run_without_record_is_left_unchanged(settings, tmp_path, monkeypatch, damaged):
    folder = tmp_path / "run"
    interrupted_start(dataclasses.replace(settings, log=("csv",)), folder, monkeypatch, 8)
    (folder / "run.jsonl").unlink()
    if damaged:
        path = latest(folder / "checkpoints")
        assert path is not None
        for each in path.parent.glob("*.ckpt"):
            each.rename(each.with_name(f"{each.name}.damaged"))
    before = contents(folder)
    with pytest.raises(
        RunError, match=r"run has checkpoints, but its record run\.jsonl is missing; dashpot train --con"
    ):
        resume(folder, write_line=quiet)
    assert contents(folder) == before
    assert any(name.endswith("log.csv") for name in before)
