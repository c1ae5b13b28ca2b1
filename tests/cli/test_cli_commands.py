"""Commands other than train, lr-find and verify: output, files, exit codes and input errors."""

from __future__ import annotations

import builtins
import errno
import itertools
import json
import os
import re
import sys
import warnings
from pathlib import Path

import pytest
from cli_support import refused

from dashpot import data, tasks
from dashpot.comparison import demo, known_entries
from dashpot.comparison.demo import demo_study
from dashpot.errors import DataError
from dashpot.optimizers.registry import METHODS
from dashpot.schedules import NAMES


def test_compare_writes_all_files_and_prints_the_summary(dashpot, my_task):
    code, out, err = dashpot("compare", "--task", my_task, "--methods", "sgd,adam", "--seeds", 2, "--lr", "sgd=0.05")
    assert (code, err) == (0, "")
    folder = Path("runs/compare-my-task")
    assert f"Report: {folder / 'report.html'}" in out
    assert "2 methods on my task: 2 epochs, 2 seeds, 4 runs" in out
    assert re.search(r"^\d +sgd +[\d.]+ ", out, re.MULTILINE)
    files = ["report.html", "runs", "sessions.jsonl", "study.journal", "study.json", "summary.md"]
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == files
    assert len(list((folder / "runs").iterdir())) == 4
    study = json.loads((folder / "study.json").read_text())
    assert study["command"] == "dashpot compare --task mine.py:build --methods sgd,adam --seeds 2 --lr sgd=0.05"
    assert study["settings"]["epochs"] == 2


def test_lr_option_takes_several_values_and_is_repeatable(dashpot, my_task):
    common = ("compare", my_task, "--methods", "sgd,adam", "--seeds", 1, "--epochs", 1)
    assert dashpot(*common, "--lr", "sgd=0.5", "adam=0.25", "--out", "a")[0] == 0
    assert dashpot(*common, "--lr", "sgd=0.5", "--lr", "adam=0.25", "--out", "b")[0] == 0
    settings = [json.loads(Path(out, "study.json").read_text())["settings"] for out in "ab"]
    assert settings[0] == settings[1]
    assert "lr=0.25" in settings[0]["methods"]["adam"]


def test_repeated_compare_trains_nothing_and_changed_settings_raise(dashpot, my_task):
    words = ("compare", my_task, "--methods", "sgd", "--seeds", 1, "--out", "out")
    dashpot(*words)
    record = Path("out/runs/sgd-seed0.jsonl")
    before = record.stat().st_mtime_ns
    code, out, _ = dashpot(*words)
    assert (code, record.stat().st_mtime_ns) == (0, before)
    assert "done in an earlier session" in out
    assert "epochs: saved 2, current 3" in refused(dashpot(*words, "--epochs", 3))
    assert record.stat().st_mtime_ns == before


def test_report_is_regenerated_from_the_records(dashpot, my_task):
    dashpot("compare", my_task, "--methods", "sgd", "--seeds", 1, "--out", "out")
    page = Path("out/report.html")
    before = page.read_text()
    page.unlink()
    code, out, _ = dashpot("report", "out")
    assert code == 0
    assert out.startswith("Reading out.\n\nsgd: validation loss")
    assert out.endswith("\nReport: out/report.html\n")
    assert page.read_text() == before


def test_methods_tasks_and_schedules_are_listed(dashpot):
    _, out, _ = dashpot("methods")
    assert [line.split()[0] for line in out.splitlines()[: len(METHODS)]] == list(METHODS)
    assert all(len(line.split()) > 2 for line in out.splitlines())
    assert all(name in out for name in known_entries())
    assert "torch.optim.NAME" in out.splitlines()[-1]
    assert dashpot("tasks")[1].splitlines()[: len(tasks.names())] == list(tasks.names())
    assert [line.split()[0] for line in dashpot("schedules")[1].splitlines()] == list(NAMES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("compare", "digit"), "Unknown task 'digit': did you mean 'digits'?"),
        (("compare", "digits", "--methods", "adamm"), "Unknown method 'adamm': did you mean 'adam'?"),
        (("compare", "digits", "--schedule", "cosinus"), "did you mean 'cosine'?"),
        (("compare", "digits", "--lr", "sgd=-1"), "sgd: lr must be a number in [0, inf), got -1.0."),
        (("compare", "digits", "--lr", "sgd=nan"), "sgd: lr must be a number in [0, inf), got nan."),
        (("compare", "digits", "--lr", "sgd"), "--lr must be METHOD=VALUE or METHOD=LOW..HIGH, got 'sgd'."),
        (("compare", "digits", "--lr", "sgd=fast"), "--lr must be a number or a range LOW..HIGH, got 'fast'."),
        (("compare", "digits", "--lr", "sgd=.1..0"), "--lr: a range LOW..HIGH must have 0 < LOW < HIGH, got '.1..0'."),
        (("compare", "digits", "--lr", "sgd=.1..1"), "sgd: a range of learning rates requires tuning (--budget)"),
        (("tune", "digits", "--method", "sgd", "--lr", "1..x"), "--lr must be a number or a range LOW..HIGH"),
        (("compare", "digits", "--lr", "sgdd=1"), "Unknown method in --lr 'sgdd': did you mean 'sgd'?"),
        (("compare", "digits", "--seeds", "0"), "--seeds must be an integer in [1, inf), got 0."),
        (("compare", "digits", "--epochs", "0"), "epochs must be an integer in [1, inf), got 0."),
        (("compare", "digits", "--threads", "0"), "threads must be None or an integer in [1, "),
        (("compare", "digits", "--threads", "100000"), "threads must be None or an integer in [1, "),
        (("compare", "digits", "--schedule", "windw"), "Unknown schedule 'windw': did you mean 'window'?"),
        (("compare", "digits", "--methods", "sgd,sgd"), "with unique names"),
        (("compare",), "Give one task"),
        (("compare", "digits", "--task", "digits"), "Give one task"),
        (("compare", "--task", "gone.py:build"), "gone.py"),
        (("report", "nowhere"), "nowhere is not a comparison"),
        (("reproduce", "mnist"), "Unknown table 'mnist': did you mean 'fashion-mnist'?"),
        (("reproduce", "fashion-mnist", "--rows", "A2,Q"), "Unknown row 'Q'"),
    ],
)
def test_invalid_input_exits_with_2_and_writes_nothing(dashpot, words, sentence):
    assert sentence in refused(dashpot(*words))


def test_task_file_without_the_function_exits_with_2(dashpot, tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "build" in refused(dashpot("compare", "--task", "empty.py:build"))


@pytest.mark.parametrize(
    "words",
    [("compare", "digits", "--sedes", "3"), ("compare", "digits", "--seeds", "many"), ("report",), ("fly",)],
)
def test_unknown_and_missing_options_exit_with_2(dashpot, words):
    code, out, err = dashpot(*words)
    assert code == 2
    assert out + err
    assert "Traceback" not in out + err


def test_debug_raises_the_error(dashpot):
    with pytest.raises(ValueError, match="Unknown task"):
        dashpot("compare", "digit", "--debug")


def test_ctrl_c_outside_training_exits_with_130(dashpot, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "get", interrupted)
    code, _, err = dashpot("compare", "digits")
    assert (code, err.strip()) == (130, "Stopped.")


def test_compare_resumes_after_a_full_disk(dashpot, my_task, monkeypatch):
    words = ("compare", my_task, "--methods", "sgd,adam", "--seeds", 1)
    real, count = os.fsync, itertools.count(1)

    def fsync(descriptor):
        if next(count) > 30:  # in the second run
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        code, _, err = dashpot(*words)
    assert code == 2
    assert re.search(r"No space left on device; .*are kept\.", err)
    assert len(err.strip().splitlines()) == 1
    assert dashpot(*words)[0] == 0


def test_warnings_are_printed_without_source_lines(dashpot, my_task, monkeypatch):
    monkeypatch.setattr(
        warnings, "showwarning", lambda *parts, **_: sys.stderr.write(warnings.formatwarning(*parts[:4]))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, _, err = dashpot("compare", my_task, "--methods", "adamw", "--seeds", 1, "--lr", "adamw=150")
    assert err.splitlines()
    assert all(line.startswith("Note: ") for line in err.splitlines())


def test_unwritable_folder_exits_with_2(dashpot, my_task, tmp_path):
    (tmp_path / "file").write_text("")
    result = dashpot("compare", my_task, "--methods", "sgd", "--out", "file/out")
    assert "Cannot write" in refused(result)


def test_help_lists_the_commands(dashpot):
    code, out, _ = dashpot("--help")
    assert code == 0
    for command in (
        "compare",
        "train",
        "lr-find",
        "report",
        "methods",
        "tasks",
        "schedules",
        "demo",
        "reproduce",
        "--debug",
    ):
        assert command in out
    assert "--seeds" in dashpot("compare", "--help")[1]
    assert dashpot("--version")[1].strip()


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_missing_packages_print_the_install_command(dashpot, monkeypatch, missing):
    real = builtins.__import__

    def import_without(name, *rest, **options):
        if name == missing:
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", import_without)
    assert "pip install 'dashpot[cli]'" in refused(dashpot("methods"))


def test_demo_prints_why_it_uses_digits(monkeypatch):
    real = tasks.get

    def without_fashion(name, **options):
        if name == "fashion-mnist":
            raise DataError("Fashion-MNIST is not available.")
        return real(name, **options)

    monkeypatch.setattr(tasks, "get", without_fashion)
    study, reason = demo_study()
    assert study.task.name == "digits"
    assert reason.startswith("Fashion-MNIST is not available. Using the digits")


def test_demo_compares_methods_on_digits_without_fashion_mnist(dashpot, monkeypatch):
    monkeypatch.setattr(data.fashion_mnist, "load", lambda *_: (_ for _ in ()).throw(DataError("No data.")))
    monkeypatch.setitem(demo.EPOCHS, "digits", 1)
    monkeypatch.setattr(demo, "METHODS", "sgd,adam")
    large = {"digits": {"batch_size": 300}}  # few steps
    real = tasks.get
    monkeypatch.setattr(tasks, "get", lambda name, **options: real(name, **options, **large.get(name, {})))
    code, out, _ = dashpot("demo", "--jobs", 1)
    assert code == 0
    assert (
        out.index("Looking for Fashion-MNIST")
        < out.index("No data.")
        < out.index("2 methods on digits: 1 epoch, 3 seeds, 6 runs, written")
    )
    assert "Report: demo/digits/report.html" in out
    assert Path("demo/digits/report.html").exists()
