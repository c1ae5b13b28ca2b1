"""`dashpot train`: output, files, repetition, divergence and early stopping."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path

import pytest
import torch
from cli_support import (
    WORDS,
    contents,
    final_weights,
    same_weights,
)

from dashpot.comparison import read_run
from dashpot.runs.settings import Settings, read_settings
from dashpot.training import Learner
from dashpot.training.distributed import launcher
from dashpot.training.run.folder import default_folder_name


def test_train_prints_call_folder_table_and_repeat_command(dashpot, my_task):
    code, out, err = dashpot("train", my_task, *WORDS, "--schedule", "linear", "--epochs", 3)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "Training adamw on mine.py:build."
    assert lines[1].startswith("dashpot.AdamW(model.parameters(), lr=0.1, schedule=Polynomial(steps=9")
    assert lines[2] == "Writing to runs/mine-adamw-seed0."
    assert lines[4].split() == ["epoch", "loss", "loss", "lr", "time"]
    assert [line.split()[0] for line in lines[5:8]] == ["1", "2", "3"]
    assert lines[-1].endswith("Repeat with: dashpot train --config runs/mine-adamw-seed0/run.toml")
    assert "after 3 epochs" in lines[-1]
    found = sorted(path.name for path in Path("runs/mine-adamw-seed0").iterdir())
    assert found == ["checkpoints", "run.jsonl", "run.toml"]
    record = read_run(Path("runs/mine-adamw-seed0/run.jsonl"))
    assert (record.status, len(record.loss), len(record.epochs)) == ("done", 9, 3)
    used = [0.1 * (1 - k / 9) for k in range(9)]  # the learning rates that the steps use, not the ones set after them
    assert record.lr == pytest.approx(used, rel=1e-12)


def test_run_toml_repeats_the_run_bit_for_bit(dashpot, my_task):
    words = ("--schedule", "1cycle", "--accumulate", 2, "--max-norm", 1, "--set", "betas=0.8,0.99", "weight_decay=0.1")
    dashpot("train", my_task, *WORDS, *words, "--seed", 3, "--epochs", 2, "--out", "first")
    given = read_settings(Path("first/run.toml"))
    assert (given["lr"], given["epochs"], given["threads"], given["seed"]) == (0.1, 2, 1, 3)
    assert given["set"] == {"betas": (0.8, 0.99), "weight_decay": 0.1}
    assert dashpot("train", "--config", "first/run.toml", "--out", "second")[0] == 0
    assert same_weights("first", "second")
    assert read_settings(Path("second/run.toml")) == given
    assert dashpot("train", "--config", "first/run.toml", "--seed", 4, "--out", "third")[0] == 0
    assert not same_weights("first", "third")
    texts = [Path(name, "run.jsonl").read_text().splitlines()[1] for name in ("first", "second", "third")]
    assert texts[0] == texts[1] != texts[2]


def test_train_gives_the_results_of_compare(dashpot):
    common = ("--batch-size", 150, "--epochs", 1, "--threads", 1)
    dashpot("compare", "digits", "--methods", "adam", "--seeds", 2, *common, "--out", "out")
    dashpot("train", "digits", "--optimizer", "adam", "--seed", 1, *common, "--out", "one")
    compared, trained = read_run(Path("out/runs/adam-seed1.jsonl")), read_run(Path("one/run.jsonl"))
    assert compared.loss == trained.loss
    assert compared.epochs[-1]["eval"] == trained.epochs[-1]["eval"]
    assert compared.header["task"]["init"] == trained.header["task"]["init"]


def test_second_run_gets_a_new_folder(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1)
    before = contents("runs")
    _, out, _ = dashpot("train", my_task, *WORDS, "--epochs", 1)
    assert "Writing to runs/mine-adamw-seed0-2." in out
    assert {path: Path(path).read_bytes() for path in before} == before
    code, _, err = dashpot("train", my_task, *WORDS, "--out", "runs/mine-adamw-seed0")
    assert (code, err.count("\n")) == (2, 1)
    assert "runs/mine-adamw-seed0 contains a run; resume it with --resume" in err
    assert {path: Path(path).read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("my_task.py", "my_task-adamw-seed0"),
        ("some/where/my_task.py:build", "my_task-adamw-seed0"),
        ("a:b/my_task.py", "my_task-adamw-seed0"),
        ("digits", "digits-adamw-seed0"),
    ],
)
def test_default_folder_is_named_after_the_task(task, name):
    assert default_folder_name(Settings(task=task, optimizer="adamw")) == name


def test_record_has_the_command_line(dashpot, my_task, monkeypatch):
    """The command line is also recorded if a launched process writes the record."""
    monkeypatch.setattr(launcher, "launch", lambda *_: 0)
    words = ("train", my_task, *WORDS, "--epochs", 1, "--out", "a", "--accelerator", "cpu", "--devices", 2)
    assert dashpot(*words)[0] == 0
    assert not Path("a/run.jsonl").exists()
    text = Path("a/run.toml").read_text()
    Path("a/run.toml").write_text(text.replace("devices = 2", "devices = 1"))
    assert dashpot("train", "--resume", "a")[0] == 0
    assert read_run(Path("a/run.jsonl")).header["command"] == shlex.join(["dashpot", *map(str, words)])


@pytest.mark.parametrize("made_by", ["", "made_by = 3\n"])
def test_record_has_the_resume_command_if_the_settings_file_has_none(dashpot, my_task, made_by):
    Path("a").mkdir()
    Path("a/run.toml").write_text(f'task = "{my_task}"\noptimizer = "sgd"\nepochs = 1\nthreads = 1\n{made_by}')
    assert dashpot("train", "--resume", "a", "--override")[0] == 0
    assert read_run(Path("a/run.jsonl")).header["command"] == "dashpot train --resume a --override"


@pytest.mark.parametrize(
    "words",
    [
        ("--optimizer", "sgd", "--lr", 1e30),
        pytest.param(("--optimizer", "sgd", "--lr", 1e30, "--seed", 1), marks=pytest.mark.slow),
    ],
)
def test_divergence_exits_with_3(dashpot, my_task, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        code, out, _ = dashpot("train", my_task, *words, "--out", "run")
    assert code == 3
    assert "Diverged at step " in out.splitlines()[-1]
    record = read_run(Path("run/run.jsonl"))
    assert record.status == "diverged"
    assert record.end is not None
    assert record.end["step"] + 1 == len(record.loss)
    code, out, _ = dashpot("train", "--resume", "run")
    assert code == 3
    assert out.splitlines()[1] == "run has diverged; nothing to resume."


def test_nonfinite_skip_ends_the_run_after_32_skipped_steps(dashpot, my_task, monkeypatch):
    loss = Learner.get_loss

    def nonfinite_loss(is_nonfinite):
        def get_loss(self):
            loss(self)
            if self.training and is_nonfinite(self.batch.index):
                self.batch.loss = self.batch.loss * torch.nan

        return get_loss

    monkeypatch.setattr(Learner, "get_loss", nonfinite_loss(lambda batch: batch == 1))
    assert dashpot("train", my_task, *WORDS, "--nonfinite", "skip", "--out", "one")[0] == 0
    assert [str(value) for value in read_run(Path("one/run.jsonl")).loss[1::3]] == ["nan", "nan"]
    assert all(torch.isfinite(value).all() for value in final_weights("one").values())
    monkeypatch.setattr(Learner, "get_loss", nonfinite_loss(lambda _: True))
    code, out, _ = dashpot("train", my_task, *WORDS, "--nonfinite", "skip", "--epochs", 20, "--out", "all")
    assert code == 3
    assert "Diverged at step 32: the loss is nan" in out


def test_patience_stops_early_with_status_done(dashpot, my_task):
    code, out, _ = dashpot(
        "train", my_task, "--optimizer", "sgd", "--lr", 0, "--epochs", 50, "--patience", 2, "--out", "r"
    )
    assert code == 0
    assert "after 3 epochs" in out
    assert "Stopped early: eval loss has not improved" in out
    end = read_run(Path("r/run.jsonl")).end
    assert end is not None
    assert end["status"] == "done"
    assert dashpot("train", "--resume", "r")[1].splitlines()[1] == "r is complete; nothing to resume."


def test_one_cycle_schedules_the_momentum_or_warns(dashpot, my_task, monkeypatch):
    _, out, _ = dashpot("train", my_task, *WORDS, "--schedule", "1cycle", "--epochs", 1)
    assert "'betas[0]': OneCycleMomentum(steps=3" in out.splitlines()[1]
    monkeypatch.setattr(
        warnings, "showwarning", lambda *parts, **_: sys.stderr.write(warnings.formatwarning(*parts[:4]))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, out, err = dashpot("train", my_task, "--optimizer", "nag", "--schedule", "1cycle", "--epochs", 1)
    assert "OneCycleMomentum" not in out
    assert err == "Note: 1cycle schedules only the learning rate of nag, not its momentum.\n"
