"""`dashpot train --resume`: bit-identical continuation, changed settings and edited files."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import pytest
from cli_support import (
    WORDS,
    complete_run,
    contents,
    interrupt_at,
    interrupted_run,
    kill_at,
    refused,
    same_weights,
)
from slow_values import others_slow

from dashpot.comparison import read_run
from dashpot.runs.settings import read_settings
from dashpot.training.callbacks.checkpoints import read_newest
from dashpot.training.run.plan import RunPlan
from dashpot.training.run.result import RunResult
from dashpot.training.state import checkpoint_file

ALL_FEATURES = ("--epochs", 3, "--accumulate", 2, "--ema", 0.9, "--schedule", "1cycle", "--checkpoint-every", 1)


@pytest.mark.parametrize("at", others_slow([1, 2, 3, 5], 1, 5))
def test_killed_run_resumes_bit_identically_with_the_same_record(dashpot, my_task, monkeypatch, at):
    words = (my_task, *WORDS, *ALL_FEATURES, "--log", "csv,jsonl")
    dashpot("train", *words, "--out", "uninterrupted")
    with monkeypatch.context() as patch:
        kill_at(patch, at)
        with pytest.raises(MemoryError):
            dashpot("train", *words, "--out", "interrupted")
    code, out, _ = dashpot("train", "--resume", "interrupted")
    assert code == 0
    assert "Resuming interrupted after " in out or "Restarting interrupted" in out
    assert same_weights("uninterrupted", "interrupted")
    one, other = (read_run(Path(name, "run.jsonl")) for name in ("uninterrupted", "interrupted"))
    assert (one.loss, one.lr, one.status) == (other.loss, other.lr, other.status)
    assert [epoch["eval"] for epoch in one.epochs] == [epoch["eval"] for epoch in other.epochs]
    rows = [
        [line.split(",")[:3] for line in Path(name, "log.csv").read_text().splitlines()]
        for name in ("uninterrupted", "interrupted")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_kill_between_record_and_checkpoint_repeats_the_epoch(dashpot, my_task, monkeypatch, at):
    words = (my_task, *WORDS, "--epochs", 3, "--log", "csv")
    dashpot("train", *words, "--out", "uninterrupted")
    write, count = checkpoint_file.write, itertools.count(1)

    def die(*arguments):
        if next(count) == at:
            raise MemoryError("killed")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write", die)
        with pytest.raises(MemoryError):
            dashpot("train", *words, "--out", "interrupted")
    assert len(read_run(Path("interrupted/run.jsonl")).epochs) == at
    assert dashpot("train", "--resume", "interrupted")[0] == 0
    assert same_weights("uninterrupted", "interrupted")
    one, other = (read_run(Path(name, "run.jsonl")) for name in ("uninterrupted", "interrupted"))
    assert (one.loss, len(other.epochs), other.status) == (other.loss, 3, "done")
    assert [len(Path(name, "log.csv").read_text().splitlines()) for name in ("uninterrupted", "interrupted")] == [4, 4]


@pytest.mark.needs_posix
def test_save_signal_before_and_after_the_fit_is_ignored(dashpot, my_task, monkeypatch):
    sent = []

    def sending(function):
        def send(*arguments):
            os.kill(os.getpid(), signal.SIGUSR1)
            sent.append(function.__name__)
            return function(*arguments)

        return send

    monkeypatch.setattr(RunPlan, "of", sending(RunPlan.of))
    monkeypatch.setattr(RunResult, "text", sending(RunResult.text))
    before = signal.getsignal(signal.SIGUSR1)
    assert dashpot("train", my_task, *WORDS, "--out", "run")[0] == 0
    assert sent == ["of", "text"]
    assert signal.getsignal(signal.SIGUSR1) == before
    assert len(list(Path("run/checkpoints").glob("*.ckpt"))) == 2  # only those of the two epochs


def test_ctrl_c_stops_after_the_step_with_a_checkpoint(dashpot, my_task, monkeypatch):
    words = (my_task, *WORDS, "--epochs", 3)
    dashpot("train", *words, "--out", "uninterrupted")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        code, _, err = dashpot("train", *words, "--out", "interrupted")
    assert (code, err.strip()) == (130, "Stopped. Resume with: dashpot train --resume interrupted")
    assert read_newest("interrupted/checkpoints")["progress"]["position"] == [1, 2]
    code, out, _ = dashpot("train", "--resume", "interrupted")
    assert code == 0
    assert "Resuming interrupted after 1 epoch and 2 batches." in out
    assert same_weights("uninterrupted", "interrupted")


def test_complete_run_is_left_unchanged(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    before = contents("run")
    code, out, err = dashpot("train", "--resume", "run", "--epochs", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["Opening run.", "run is complete; nothing to resume."]
    assert contents("run") == before


def test_changed_settings_require_override(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--set", "weight_decay=0.5", "--out", "run")
    before = contents("run")
    more = ("--epochs", 2, "--lr", 0.01, "--set", "weight_decay=0.25")
    sentence = refused(dashpot("train", "--resume", "run", *more))
    for difference in (
        "epochs: saved 1, given 2",
        "lr: saved 0.1, given 0.01",
        "weight_decay: saved 0.5, given 0.25",
    ):
        assert difference in sentence
    assert "--override" in sentence
    assert contents("run") == before
    code, out, _ = dashpot("train", "--resume", "run", *more, "--override")
    assert code == 0
    assert "Resuming run after 1 epoch." in out
    record = read_run(Path("run/run.jsonl"))
    assert record.lr == [0.1] * 3 + [0.01] * 3
    assert read_newest("run/checkpoints")["optimizer"]["param_groups"][0]["weight_decay"] == 0.25
    assert (read_settings(Path("run/run.toml"))["epochs"], read_settings(Path("run/run-1.toml"))["epochs"]) == (2, 1)


@pytest.mark.parametrize(
    ("schedule", "more", "lr"),
    [
        ("cosine", ("--schedule", "none"), [0.1] * 3),
        ("1cycle", ("--schedule", "none", "--lr", 0.25), [0.25] * 3),
        ("cosine", ("--schedule", "linear"), [0.1 * (1 - step / 6) for step in range(3, 6)]),
    ],
)
def test_schedule_changed_at_a_resume_uses_the_rate_set_here(dashpot, my_task, schedule, more, lr):
    assert dashpot("train", my_task, *WORDS, "--schedule", schedule, "--epochs", 1, "--out", "run")[0] == 0
    assert dashpot("train", "--resume", "run", *more, "--epochs", 2, "--override")[0] == 0
    assert read_run(Path("run/run.jsonl")).lr[3:] == pytest.approx(lr, rel=1e-12)
    [group] = read_newest("run/checkpoints")["optimizer"]["param_groups"]
    assert group["betas"] == (0.9, 0.999)


def test_setting_changed_to_none_requires_override(dashpot, my_task):
    complete_run(dashpot, my_task, "--max-norm", 1, "--ema", 0.5)
    assert dashpot("train", "--resume", "a", "--patience", "none")[0] == 0
    words = ("train", "--resume", "a", "--epochs", 2, "--max-norm", "none")
    assert "max_norm: saved 1.0, given not set" in refused(dashpot(*words))
    assert dashpot(*words, "--override")[0] == 0
    assert "max_norm" not in read_settings(Path("a/run.toml"))
    assert read_settings(Path("a/run.toml"))["ema"] == 0.5


@pytest.mark.diagonal
@pytest.mark.parametrize("override", [(), ("--override",)])
@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--seed", 5), "seed (seed: saved 0, given 5)"),
        (("--optimizer", "sgd", "--lr", 1), "optimizer (optimizer: saved adamw, given sgd)"),
    ],
)
def test_task_optimizer_and_seed_cannot_be_overridden(dashpot, my_task, more, what, override):
    complete_run(dashpot, my_task)
    sentence = refused(dashpot("train", "--resume", "a", *more, *override))
    assert sentence == f"a: a resumed run cannot change its {what}; start a new run."


@pytest.mark.diagonal
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("seed = 0", "seed = 5", "run.toml has seed 5, but the record has 0"),
        ('"adamw"', '"sgd"', "run.toml has optimizer sgd, but the record has adamw"),
        (':build"', ':other"', "run.toml has task "),
    ],
)
def test_edit_of_task_optimizer_or_seed_in_run_toml_is_rejected(
    dashpot, my_task, monkeypatch, old, new, what, finished
):
    with Path("mine.py").open("a") as file:
        file.write("\ndef other():\n    return build()\n")
    folder = complete_run(dashpot, my_task) if finished else interrupted_run(dashpot, my_task, monkeypatch, 5)
    text = (folder / "run.toml").read_text()
    assert old in text
    (folder / "run.toml").write_text(text.replace(old, new, 1))
    before = contents(folder)
    for more in ((), ("--override",)):
        sentence = refused(dashpot("train", "--resume", "a", *more))
        assert what in sentence
        assert sentence.endswith("; restore the value, or start a new run with dashpot train --config a/run.toml.")
    assert contents(folder) == before


def test_moved_task_file_is_accepted(dashpot, my_task, monkeypatch):
    folder = interrupted_run(dashpot, my_task, monkeypatch, 5)
    Path("moved").mkdir()
    Path("mine.py").rename("moved/mine.py")
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace("mine.py", "moved/mine.py"))
    assert dashpot("train", "--resume", "a")[0] == 0


def test_record_without_settings_is_accepted(dashpot, my_task, monkeypatch):
    folder = interrupted_run(dashpot, my_task, monkeypatch, 5)
    header, *rest = (folder / "run.jsonl").read_text().splitlines(keepends=True)
    shorter = json.dumps({key: value for key, value in json.loads(header).items() if key != "run"})
    (folder / "run.jsonl").write_text("".join([shorter.ljust(len(header) - 1) + "\n", *rest]))
    assert dashpot("train", "--resume", "a")[0] == 0


def test_edited_task_requires_override(dashpot, my_task, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        dashpot("train", my_task, *WORDS, "--out", "run")
    with Path("mine.py").open("a") as file:
        file.write("# edited\n")
    assert "The task of run has changed: task.file_sha256: saved" in refused(dashpot("train", "--resume", "run"))
    assert dashpot("train", "--resume", "run", "--override")[0] == 0


@pytest.mark.slow
def test_override_accepts_one_version_of_the_task(dashpot, my_task, monkeypatch):
    def stopped(updates, *words):
        with monkeypatch.context() as patch:
            interrupt_at(patch, updates)
            return dashpot("train", *words)

    stopped(2, my_task, *WORDS, "--out", "run")
    original = Path("mine.py").read_text()
    Path("mine.py").write_text(original + "# edited\n")
    assert stopped(3, "--resume", "run", "--override")[0] == 130
    assert stopped(4, "--resume", "run")[0] == 130
    Path("mine.py").write_text(original)  # differs from the edited file that the override accepted
    assert "The task of run has changed: " in refused(dashpot("train", "--resume", "run"))
    assert dashpot("train", "--resume", "run", "--override")[0] == 0
