"""`dashpot train --plot` and `--log`: plots and logs of a run, also after a resume."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

import pytest
from cli_support import WORDS, interrupt_at, refused

from dashpot.runs.settings import read_settings
from dashpot.training import Callback
from dashpot.training.run import loggers
from dashpot.training.run.plan import RunPlan


def test_plot_is_drawn_after_the_table(dashpot, my_task):
    code, out, err = dashpot("train", my_task, *WORDS, "--epochs", 2, "--plot", "--out", "a")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert "plot" not in read_settings(Path("a/run.toml"))
    table = next(number for number, line in enumerate(lines) if line.startswith("epoch")) + 3
    assert lines[table].startswith("loss")
    assert lines[table + 12].split() == ["0", "step", "6"]
    assert lines[-1].endswith("Repeat with: dashpot train --config a/run.toml")


def test_plot_of_a_resumed_run_starts_with_the_first_step(dashpot, my_task, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert dashpot("train", my_task, *WORDS, "--epochs", 2, "--plot", "--out", "a")[0] == 130
    code, out, _ = dashpot("train", "--resume", "a", "--plot")
    whole = dashpot("train", my_task, *WORDS, "--epochs", 2, "--plot", "--out", "b")[1]
    assert code == 0
    assert plot_of(out) == plot_of(whole)


def plot_of(out: str) -> list[str]:
    lines = out.splitlines()
    last = next(number for number, line in enumerate(lines) if line.endswith("step 6"))
    return lines[last - 12 : last + 1]


@pytest.mark.needs_posix
def test_save_signal_before_the_fit_is_ignored(dashpot, my_task, monkeypatch):
    before, of = signal.getsignal(signal.SIGUSR1), RunPlan.of

    def interrupted_of(settings):
        os.kill(os.getpid(), signal.SIGUSR1)
        return of(settings)

    monkeypatch.setattr(RunPlan, "of", interrupted_of)
    assert dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "a")[0] == 0
    assert [path.name[:13] for path in Path("a/checkpoints").glob("*.ckpt")] == ["step-00000003"]
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Let W&B write files, and trackio store its runs in a temporary folder."""
    for name, value in {
        "MODE": "offline",
        "SILENT": "true",
        "ERROR_REPORTING": "false",
        "X_DISABLE_STATS": "true",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    storage = importlib.import_module("trackio.sqlite_storage")
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "trackio"]:
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    yield storage.SQLiteStorage
    storage._close_all_persistent_connections()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_runs_of_experiment_trackers_continue_after_a_resume(dashpot, my_task, monkeypatch, offline):
    from dashpot.training.callbacks.wandb_files import complete_records

    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        words = (my_task, *WORDS, "--epochs", 3, "--log", "wandb,trackio", "--out", "a")
        assert dashpot("train", *words)[0] == 130
    code, _, err = dashpot("train", "--resume", "a")
    assert (code, err) == (0, "")
    files = sorted(Path("a/wandb").glob("offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1
    assert len(files) == 2
    records = [record for path in files for record in complete_records(path)]
    numbers = [record.history.step.num for record in records if record.WhichOneof("record_type") == "history"]
    assert numbers == [0, 1, 2]
    [run] = offline.get_run_records("mine")
    assert run["name"].startswith("a-")
    assert [row["epoch"] for row in offline.get_logs("mine", run["name"], run_id=run["id"])] == [1, 2, 3]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_log_whose_package_is_missing_raises_before_anything_is_written(dashpot, my_task, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    error = refused(dashpot("train", my_task, *WORDS, "--log", name))
    assert error == f"train: --log {name} needs {name}: pip install 'dashpot[{name}]'."


def test_smoke_test_does_not_use_experiment_trackers(dashpot, my_task, monkeypatch):
    made = []
    monkeypatch.setattr(loggers, "Trackio", lambda *args, **options: made.append(args) or Callback())
    assert dashpot("train", my_task, *WORDS, "--epochs", 1, "--log", "csv,trackio", "--smoke", "--out", "a")[0] == 0
    assert made == [("dashpot",)]  # for the run itself
