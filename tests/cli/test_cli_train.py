"""`dashpot train`: what it prints and keeps, how it goes on, what it refuses."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from cli_support import WORDS, final, refused, same, stop_at

from dashpot.comparison import read_run
from dashpot.training import Learner
from dashpot.training.callbacks.checkpoints import latest, read_newest
from dashpot.training.callbacks.run_log import RunLog
from dashpot.training.run import run
from dashpot.training.run.settings import read_settings
from dashpot.training.state import checkpoint_file


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Exact continuation is promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killed_at(monkeypatch, steps: int) -> None:
    """Let the next run end without a word after so many steps."""

    def die(self, learner):
        if learner.steps == steps:
            raise MemoryError("killed")

    monkeypatch.setattr(RunLog, "after_step", die, raising=False)


def test_it_prints_the_call_the_folder_a_table_and_what_repeats_the_run(dashpot, my_task):
    code, out, err = dashpot("train", my_task, *WORDS, "--schedule", "linear", "--epochs", 3)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("dashpot.AdamW(model.parameters(), lr=0.1, schedule=Polynomial(steps=9")
    assert lines[1] == "Writing to runs/mine-adamw-seed0."
    assert lines[3].split() == ["epoch", "loss", "loss", "lr", "time"]
    assert [line.split()[0] for line in lines[4:7]] == ["1", "2", "3"]
    assert lines[-1].endswith("Repeat with: dashpot train --config runs/mine-adamw-seed0/run.toml")
    assert "after 3 epochs" in lines[-1]
    found = sorted(path.name for path in Path("runs/mine-adamw-seed0").iterdir())
    assert found == ["checkpoints", "run.jsonl", "run.toml"]
    record = read_run(Path("runs/mine-adamw-seed0/run.jsonl"))
    assert (record.status, len(record.loss), len(record.epochs)) == ("done", 9, 3)
    assert record.lr == pytest.approx([0.1 * (1 - k / 9) for k in range(9)], rel=1e-12)  # of the steps, not after them


def test_its_file_repeats_the_run_to_the_same_bits(dashpot, my_task):
    words = ("--schedule", "1cycle", "--accumulate", 2, "--max-norm", 1, "--set", "betas=0.8,0.99", "weight_decay=0.1")
    dashpot("train", my_task, *WORDS, *words, "--seed", 3, "--epochs", 2, "--out", "first")
    given = read_settings(Path("first/run.toml"))
    assert (given["lr"], given["epochs"], given["threads"], given["seed"]) == (0.1, 2, 1, 3)
    assert given["set"] == {"betas": (0.8, 0.99), "weight_decay": 0.1}
    assert dashpot("train", "--config", "first/run.toml", "--out", "second")[0] == 0
    assert same("first", "second")
    assert read_settings(Path("second/run.toml")) == given
    assert dashpot("train", "--config", "first/run.toml", "--seed", 4, "--out", "third")[0] == 0
    assert not same("first", "third")
    texts = [Path(name, "run.jsonl").read_text().splitlines()[1] for name in ("first", "second", "third")]
    assert texts[0] == texts[1] != texts[2]


def test_it_gives_the_numbers_of_the_comparison(dashpot):
    dashpot("compare", "digits", "--methods", "adam", "--seeds", 2, "--epochs", 1, "--threads", 1, "--out", "out")
    dashpot("train", "digits", "--optimizer", "adam", "--seed", 1, "--epochs", 1, "--threads", 1, "--out", "one")
    there, here = read_run(Path("out/runs/adam-seed1.jsonl")), read_run(Path("one/run.jsonl"))
    assert there.loss == here.loss
    assert there.epochs[-1]["eval"] == here.epochs[-1]["eval"]
    assert there.header["task"]["init"] == here.header["task"]["init"]


def test_a_second_run_gets_a_folder_of_its_own_and_nothing_is_overwritten(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1)
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    _, out, _ = dashpot("train", my_task, *WORDS, "--epochs", 1)
    assert "Writing to runs/mine-adamw-seed0-2." in out
    assert {path: path.read_bytes() for path in before} == before
    code, _, err = dashpot("train", my_task, *WORDS, "--out", "runs/mine-adamw-seed0")
    assert (code, err.count("\n")) == (2, 1)
    assert "runs/mine-adamw-seed0 holds a run; resume it with --resume" in err
    assert {path: path.read_bytes() for path in before} == before


EVERYTHING = ("--epochs", 3, "--accumulate", 2, "--ema", 0.9, "--schedule", "1cycle", "--checkpoint-every", 1)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_killed_run_goes_on_to_the_same_bits_and_the_same_record(dashpot, my_task, monkeypatch, at):
    words = (my_task, *WORDS, *EVERYTHING, "--log", "csv,jsonl")
    dashpot("train", *words, "--out", "whole")
    with monkeypatch.context() as patch:
        killed_at(patch, at)
        with pytest.raises(MemoryError):
            dashpot("train", *words, "--out", "cut")
    code, out, _ = dashpot("train", "--resume", "cut")
    assert code == 0
    assert "Resuming cut after " in out or "Restarting cut" in out
    assert same("whole", "cut")
    one, other = (read_run(Path(name, "run.jsonl")) for name in ("whole", "cut"))
    assert (one.loss, one.lr, one.status) == (other.loss, other.lr, other.status)
    assert [epoch["eval"] for epoch in one.epochs] == [epoch["eval"] for epoch in other.epochs]
    rows = [
        [line.split(",")[:3] for line in Path(name, "log.csv").read_text().splitlines()] for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_killed_between_its_record_and_its_checkpoint_repeats_that_epoch_once(dashpot, my_task, monkeypatch, at):
    words = (my_task, *WORDS, "--epochs", 3, "--log", "csv")
    dashpot("train", *words, "--out", "whole")
    write, count = checkpoint_file.write, itertools.count(1)

    def die(*arguments):
        if next(count) == at:
            raise MemoryError("killed")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write", die)
        with pytest.raises(MemoryError):
            dashpot("train", *words, "--out", "cut")
    assert len(read_run(Path("cut/run.jsonl")).epochs) == at
    assert dashpot("train", "--resume", "cut")[0] == 0
    assert same("whole", "cut")
    one, other = (read_run(Path(name, "run.jsonl")) for name in ("whole", "cut"))
    assert (one.loss, len(other.epochs), other.status) == (other.loss, 3, "done")
    assert [len(Path(name, "log.csv").read_text().splitlines()) for name in ("whole", "cut")] == [4, 4]


def test_ctrl_c_stops_after_the_step_with_a_checkpoint_and_says_how_to_go_on(dashpot, my_task, monkeypatch):
    words = (my_task, *WORDS, "--epochs", 3)
    dashpot("train", *words, "--out", "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        code, _, err = dashpot("train", *words, "--out", "cut")
    assert (code, err.strip()) == (130, "Stopped. Resume with: dashpot train --resume cut")
    assert read_newest("cut/checkpoints")["progress"]["position"] == [1, 2]
    code, out, _ = dashpot("train", "--resume", "cut")
    assert code == 0
    assert "Resuming cut after 1 epoch and 2 batches." in out
    assert same("whole", "cut")


def test_a_finished_run_says_so(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    code, out, err = dashpot("train", "--resume", "run", "--epochs", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "run is complete; nothing to resume."
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_other_settings_are_listed_and_refused_unless_they_are_to_override(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--set", "weight_decay=0.5", "--out", "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    more = ("--epochs", 2, "--lr", 0.01, "--set", "weight_decay=0.25")
    sentence = refused(dashpot("train", "--resume", "run", *more))
    for difference in (
        "epochs: saved 1, given 2",
        "lr: saved 0.1, given 0.01",
        "weight_decay: saved 0.5, given 0.25",
    ):
        assert difference in sentence
    assert "--override" in sentence
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    code, out, _ = dashpot("train", "--resume", "run", *more, "--override")
    assert code == 0
    assert "Resuming run after 1 epoch." in out
    record = read_run(Path("run/run.jsonl"))
    assert record.lr == [0.1] * 3 + [0.01] * 3
    assert read_newest("run/checkpoints")["optimizer"]["param_groups"][0]["weight_decay"] == 0.25
    assert (read_settings(Path("run/run.toml"))["epochs"], read_settings(Path("run/run-1.toml"))["epochs"]) == (2, 1)


@pytest.mark.parametrize("more", [("--optimizer", "sgd"), ("--seed", 1)])
def test_what_a_run_has_begun_with_cannot_be_overridden(dashpot, my_task, more):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    assert "start a new run" in refused(dashpot("train", "--resume", "run", *more, "--override"))


@pytest.mark.parametrize(
    "words", [("--optimizer", "sgd", "--lr", 1e30), ("--optimizer", "sgd", "--lr", 1e30, "--seed", 1)]
)
def test_a_run_that_diverges_says_so_and_exits_with_3(dashpot, my_task, words):
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
    assert out.splitlines()[0] == "run has diverged; nothing to resume."


def test_a_skipped_step_does_not_end_the_run_but_nothing_else_than_skipped_ones_does(dashpot, my_task, monkeypatch):
    loss = Learner.get_loss

    def spoilt(bad):
        def get_loss(self):
            loss(self)
            if self.training and bad(self.batch.index):
                self.batch.loss = self.batch.loss * torch.nan

        return get_loss

    monkeypatch.setattr(Learner, "get_loss", spoilt(lambda batch: batch == 1))
    assert dashpot("train", my_task, *WORDS, "--nonfinite", "skip", "--out", "one")[0] == 0
    assert [str(value) for value in read_run(Path("one/run.jsonl")).loss[1::3]] == ["nan", "nan"]
    assert all(torch.isfinite(value).all() for value in final("one").values())
    monkeypatch.setattr(Learner, "get_loss", spoilt(lambda _: True))
    code, out, _ = dashpot("train", my_task, *WORDS, "--nonfinite", "skip", "--epochs", 20, "--out", "all")
    assert code == 3
    assert "Diverged at step 32: the loss is nan" in out


def test_patience_ends_a_run_early_as_done(dashpot, my_task):
    code, out, _ = dashpot(
        "train", my_task, "--optimizer", "sgd", "--lr", 0, "--epochs", 50, "--patience", 2, "--out", "r"
    )
    assert code == 0
    assert "after 3 epochs" in out
    assert "Stopped early: eval loss has not improved" in out
    end = read_run(Path("r/run.jsonl")).end
    assert end is not None
    assert end["status"] == "done"
    assert dashpot("train", "--resume", "r")[1].splitlines()[0] == "r is complete; nothing to resume."


def test_one_cycle_moves_the_momentum_and_a_method_that_cannot_says_so(dashpot, my_task, monkeypatch):
    _, out, _ = dashpot("train", my_task, *WORDS, "--schedule", "1cycle", "--epochs", 1)
    assert "'betas[0]': OneCycleMomentum(steps=3" in out.splitlines()[0]
    monkeypatch.setattr(
        warnings, "showwarning", lambda *parts, **_: sys.stderr.write(warnings.formatwarning(*parts[:4]))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, out, err = dashpot("train", my_task, "--optimizer", "nag", "--schedule", "1cycle", "--epochs", 1)
    assert "OneCycleMomentum" not in out
    assert err == "Note: 1cycle schedules only the learning rate of nag, not its momentum.\n"


def test_lr_find_prints_a_curve_and_writes_a_page_where_it_is_told(dashpot, my_task, tmp_path):
    code, out, err = dashpot("lr-find", my_task, "--optimizer", "sgd", "--accumulate", 2)
    assert (code, err) == (0, "")
    assert "steepest descent" in out
    assert not Path("runs").exists()
    assert dashpot("lr-find", my_task, "--optimizer", "sgd", "--out", "curve.html")[1].endswith("Plot: curve.html\n")
    assert "plotly" in Path("curve.html").read_text()
    assert "Unknown method 'sdg'" in refused(dashpot("lr-find", my_task, "--optimizer", "sdg"))


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("folder", "Cannot write folder: it is a folder."),
        ("file/curve.html", "Cannot write file/curve.html: {place}/file is not a folder."),
        ("file/deep/curve.html", "Cannot write file/deep/curve.html: {place}/file is not a folder."),
    ],
)
def test_lr_find_refuses_a_place_for_its_page_before_the_search(dashpot, my_task, monkeypatch, out, sentence):
    Path("folder").mkdir()
    Path("file").write_text("")
    monkeypatch.setattr("dashpot.training.run.run.lr_range_test", lambda _: pytest.fail("it searched"))
    found = refused(dashpot("lr-find", my_task, "--optimizer", "sgd", "--out", out))
    assert found == sentence.format(place=Path.cwd())


def test_lr_find_makes_the_folder_of_its_page(dashpot, my_task):
    assert dashpot("lr-find", my_task, "--optimizer", "sgd", "--out", "a/b/curve.html")[0] == 0
    assert "plotly" in Path("a/b/curve.html").read_text()


# ---- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("digits", "--optimizer", "sdg"), "Unknown method 'sdg': did you mean 'sgd'?"),
        (("digit", "--optimizer", "sgd"), "Unknown task 'digit': did you mean 'digits'?"),
        (("digits",), "optimizer is missing"),
        (("--optimizer", "sgd"), "task is missing"),
        (("digits", "--task", "digits", "--optimizer", "sgd"), "Give one task"),
        (("digits", "--optimizer", "sgd", "--lr", "-1"), "lr must be None or a number in [0, inf), got -1.0."),
        (("digits", "--optimizer", "sgd", "--lr", "nan"), "lr must be None or a number in [0, inf), got nan."),
        (("digits", "--optimizer", "sgd", "--seed", "-1"), "seed must be an integer in [0, "),
        (("digits", "--optimizer", "sgd", "--epochs", "0"), "epochs must be None or an integer in [1, inf), got 0."),
        (("digits", "--optimizer", "sgd", "--schedule", "cosinus"), "did you mean 'cosine'?"),
        (("digits", "--optimizer", "sgd", "--precision", "fp8"), "precision must be one of 'fp32', 'bf16', 'fp16'"),
        (("digits", "--optimizer", "sgd", "--accumulate", "0"), "accumulate must be an integer in [1, inf), got 0."),
        (
            ("digits", "--optimizer", "sgd", "--max-norm", "0"),
            "max_norm must be None or a number in (0, inf), got 0.0.",
        ),
        (("digits", "--optimizer", "sgd", "--ema", "1"), "ema must be None or a number in (0, 1), got 1.0."),
        (("digits", "--optimizer", "sgd", "--nonfinite", "go"), "nonfinite must be one of 'stop', 'skip', got 'go'."),
        (("digits", "--optimizer", "sgd", "--log", "cvs"), "Unknown log 'cvs': did you mean 'csv'?"),
        (("digits", "--optimizer", "sgd", "--threads", "0"), "threads must be None or an integer in [1, "),
        (("digits", "--optimizer", "sgd", "--strategy", "dp"), "strategy must be one of 'auto', 'ddp', 'fsdp'"),
        (("digits", "--optimizer", "sgd", "--set", "momentum"), "--set must be NAME=VALUE"),
        (("digits", "--optimizer", "sgd", "--set"), "--set must be NAME=VALUE"),
        (("digits", "--optimizer", "sgd", "--epochs", "5.5"), "--epochs: must be an integer, got '5.5'."),
        (("digits", "--optimizer", "sgd", "--lr", "fast"), "--lr: must be a number, got 'fast'."),
        (("digits", "--optimizer", "sgd", "--max-norm", "3x"), "--max-norm: must be a number, got '3x'."),
        (("digits", "--optimzer", "sgd"), "Unknown option: --optimzer. Did you mean --optimizer?"),
        (("digits", "--optimizer"), "--optimizer requires an argument."),
        (("digits", "digits", "--optimizer", "sgd"), "Unused Tokens: ['digits']."),
        (("digits", "--optimizer", "sgd", "--set", "momentm=0.9"), "'momentm': did you mean 'momentum'?"),
        (("digits", "--optimizer", "sgd", "--set", "momentum=2"), "momentum must be a number in [0, 1), got 2."),
        (("digits", "--optimizer", "sgd", "--config", "gone.toml"), "Cannot read the settings file gone.toml"),
        (("digits", "--optimizer", "sgd", "--override"), "--override requires --resume"),
        (("--resume", "gone"), "gone is not the folder of a run"),
        (("--resume", "gone", "--out", "there"), "--out cannot be combined with --resume"),
        (("gone.py:build", "--optimizer", "sgd"), "gone.py"),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2_and_nothing_written(dashpot, tmp_path, words, sentence):
    assert sentence in refused(dashpot("train", *words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'task = "digits"\noptimiser = "sgd"\n',
            "Unknown setting in mine.toml: 'optimiser': did you mean 'optimizer'?",
        ),
        ('task = "digits"\noptimizer = sgd\n', "The settings file mine.toml is not valid TOML: "),
        (
            'task = "digits"\noptimizer = "sgd"\nepochs = "two"\n',
            "epochs must be None or an integer in [1, inf), got 'two'.",
        ),
        ('task = "digits"\noptimizer = "sgd"\nlog = "csv"\n', "log must be a list of names"),
        ('task = "digits"\noptimizer = "sgd"\nset = 3\n', "set must be a table"),
        ("task = 3\noptimizer = 'sgd'\n", "task must be a string, got 3."),
        ("task = '\xff'", "is not valid TOML"),
    ],
)
def test_a_bad_settings_file_is_one_sentence(dashpot, text, sentence):
    Path("mine.toml").write_bytes(text.encode("latin-1"))
    assert sentence in refused(dashpot("train", "--config", "mine.toml"))


def test_an_unwritable_folder_is_one_sentence(dashpot, my_task):
    Path("file").write_text("")
    assert "Cannot write file/run" in refused(dashpot("train", my_task, *WORDS, "--out", "file/run"))
    Path("full").mkdir()
    Path("full/letter").write_text("mine")
    assert "full is neither empty" in refused(dashpot("train", my_task, *WORDS, "--out", "full"))


@pytest.mark.parametrize("calls", [5, 9, 14])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_to_the_same_bits(dashpot, my_task, monkeypatch, calls):
    words = (my_task, *WORDS, "--epochs", 3)
    dashpot("train", *words, "--out", "whole")
    real, count = os.fsync, itertools.count(1)

    def full(descriptor):
        if next(count) > calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(dashpot("train", *words, "--out", "cut"))
    assert not list(Path("cut").rglob("*.part"))
    assert dashpot("train", "--resume", "cut")[0] == 0
    assert same("whole", "cut")


def test_a_folder_in_use_is_refused(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    with run.RunFolder(Path("run")).lock():
        words = ("train", "--resume", "run", "--epochs", 2, "--override")
        assert "Another process is using run" in refused(dashpot(*words))


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    text = Path("mine.py").read_text().replace("nn.Linear(2, 1)", "nn.Sequential(nn.Linear(2, 1))")
    Path("mine.py").write_text(text.replace("model.weight", "model[0].weight"))
    more = ("--epochs", 2, "--override")
    sentence = refused(dashpot("train", "--resume", "run", *more))
    assert "weight is only" in sentence


def test_an_edited_task_is_refused(dashpot, my_task, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        dashpot("train", my_task, *WORDS, "--out", "run")
    with Path("mine.py").open("a") as file:
        file.write("# edited\n")
    assert "The task of run has changed: task.file_sha256: saved" in refused(dashpot("train", "--resume", "run"))
    assert dashpot("train", "--resume", "run", "--override")[0] == 0


def test_a_changed_task_is_accepted_once(dashpot, my_task, monkeypatch):
    def stopped(updates, *words):
        with monkeypatch.context() as patch:
            stop_at(patch, updates)
            return dashpot("train", *words)

    stopped(2, my_task, *WORDS, "--out", "run")
    original = Path("mine.py").read_text()
    Path("mine.py").write_text(original + "# edited\n")
    assert stopped(3, "--resume", "run", "--override")[0] == 130
    assert stopped(4, "--resume", "run")[0] == 130
    Path("mine.py").write_text(original)  # a change as well, by now
    assert "The task of run has changed: " in refused(dashpot("train", "--resume", "run"))
    assert dashpot("train", "--resume", "run", "--override")[0] == 0


class Code:
    """What a harmful pickle does when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def cut_run(dashpot, my_task, monkeypatch) -> Path:
    """A run stopped at step 2; its only checkpoint."""
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        dashpot("train", my_task, *WORDS, "--out", "run")
    path = latest("run/checkpoints")
    assert path is not None
    return path


def test_a_checkpoint_with_code_in_it_is_refused_and_nothing_runs(dashpot, my_task, monkeypatch):
    torch.save({"model": Code()}, cut_run(dashpot, my_task, monkeypatch))
    assert "run/checkpoints" in refused(dashpot("train", "--resume", "run"))
    assert not Path("harmed").exists()


def test_a_checkpoint_of_a_newer_format_is_refused(dashpot, my_task, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "FORMAT", 99)
        cut_run(dashpot, my_task, monkeypatch)
    assert "newer" in refused(dashpot("train", "--resume", "run"))


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(dashpot, my_task):
    words = (my_task, *WORDS, "--epochs", 3)
    dashpot("train", *words, "--out", "whole")
    dashpot("train", *words, "--out", "run")
    path = latest("run/checkpoints")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    lines = Path("run/run.jsonl").read_text().splitlines(keepends=True)
    Path("run/run.jsonl").write_text("".join(lines[:-1]))  # the run was killed before it wrote its end
    with pytest.warns(UserWarning, match="the previous checkpoint is used"):
        code, out, _ = dashpot("train", "--resume", "run")
    assert code == 0
    assert "Resuming run after 2 epochs." in out
    assert same("whole", "run")


# ---- as a process ---------------------------------------------------------------------------------------------------


def test_ctrl_c_of_a_process_and_its_continuation(tmp_path):
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dashpot_command", "train"]
    words = ["digits", "--optimizer", "adamw", "--epochs", "40", "--threads", "1", "--out", "run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, *words], cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().split()[:1] != ["1"]:
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "Stopped. Resume with: dashpot train --resume run"
    assert json.loads((tmp_path / "run/run.jsonl").read_text().splitlines()[0])["kind"] == "header"
    assert latest(tmp_path / "run/checkpoints") is not None
