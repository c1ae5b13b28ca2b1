"""Input errors of `dashpot train`, which print one sentence, exit with code 2 and write no files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_support import (
    WORDS,
    complete_run,
    refused,
)

from dashpot.errors import ArgumentError, RunError
from dashpot.runs.settings import Settings, read_settings
from dashpot.training import Engine
from dashpot.training.distributed import launcher


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
        (("--resume", "gone", "--out", "other"), "--out cannot be combined with --resume"),
        (("gone.py:build", "--optimizer", "sgd"), "gone.py"),
    ],
)
def test_invalid_input_exits_with_2_and_writes_nothing(dashpot, tmp_path, words, sentence):
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
def test_invalid_settings_file_exits_with_2(dashpot, text, sentence):
    Path("mine.toml").write_bytes(text.encode("latin-1"))
    assert sentence in refused(dashpot("train", "--config", "mine.toml"))


FILE = """
task = "{task}"
optimizer = "adamw"
lr = 0.3
schedule = "linear"
epochs = 1
max_norm = 1.0
clip_value = 1.0
ema = 0.9
patience = 2
checkpoint_every = 2
log = ["csv"]
threads = 1
data_dir = "."
"""


NULLABLE = ("lr", "schedule", "epochs", "max_norm", "clip_value", "ema", "patience", "checkpoint_every", "threads")


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_option_none_unsets_a_setting_of_the_file(dashpot, my_task, word):
    Path("mine.toml").write_text(FILE.format(task=my_task))
    words = [part for name in (*NULLABLE, "data_dir", "log") for part in (f"--{name.replace('_', '-')}", word)]
    assert dashpot("train", "--config", "mine.toml", *words, "--out", "a")[0] == 0
    given = read_settings(Path("a/run.toml"))
    off = ("schedule", "max_norm", "clip_value", "ema", "patience", "checkpoint_every", "data_dir")
    assert [name for name in off if name in given] == []
    assert (given["epochs"], given["log"]) == (2, ())  # the default settings of the task
    assert given["lr"] != 0.3
    assert dashpot("train", my_task, "--optimizer", "adamw", "--out", "b")[0] == 0
    assert given == read_settings(Path("b/run.toml"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--seed", "none"), "seed"),
        (("--keep", "none"), "keep"),
        (("--precision", "none"), "precision must be one of 'fp32', 'bf16', 'fp16', got 'none'."),
        (("--accelerator", "null"), "accelerator must be one of 'auto', 'cpu', 'cuda', 'mps', got 'null'."),
        (("--lr", "fast"), "lr"),
    ],
)
def test_option_none_is_rejected_for_required_values(dashpot, tmp_path, words, sentence):
    code, out, err = dashpot("train", "digits", "--optimizer", "sgd", *words)
    assert code == 2
    assert sentence in out + err
    assert list(tmp_path.iterdir()) == []


def test_optimizer_argument_none_is_written_to_run_toml(dashpot, my_task):
    complete_run(dashpot, my_task, "--set", "foreach=none", "maximize=true")
    assert read_settings(Path("a/run.toml"))["set"] == {"foreach": None, "maximize": True}


def test_repeated_log_is_rejected(dashpot):
    assert refused(dashpot("train", "digits", *WORDS, "--log", "csv,jsonl,csv")) == (
        "train: log must not repeat a name, got csv, jsonl, csv."
    )
    with pytest.raises(ArgumentError, match="must not repeat a name"):
        Settings(task="digits", optimizer="sgd", log=("csv", "csv"))


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the number of available devices."""

    def set_devices(cuda: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return set_devices


@pytest.mark.parametrize("more", [(), ("--devices", 2)])
@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_unavailable_accelerator_exits_with_2(dashpot, my_task, machine, name, more):
    machine(0)
    sentence = refused(dashpot("train", my_task, *WORDS, "--accelerator", name, *more))
    assert sentence == f"Engine: accelerator {name} is not available on this machine; choose auto or cpu."


@pytest.mark.parametrize(
    ("cuda", "mps", "accelerator", "sentence"),
    [
        (1, False, "cuda", "devices must be 1 with accelerator cuda"),
        (3, False, "auto", "devices must be 1 to 3 with accelerator cuda"),
        (0, True, "auto", "devices must be 1 with accelerator mps"),
    ],
)
def test_too_many_devices_are_rejected_before_launch(
    dashpot, my_task, machine, monkeypatch, cuda, mps, accelerator, sentence
):
    machine(cuda, mps)
    monkeypatch.setattr(launcher, "launch", lambda *_: pytest.fail("started"))
    words = ("--accelerator", accelerator, "--devices", 4)
    expected = f"Engine: {sentence} on this machine, got 4; accelerator cpu has no such limit."
    assert refused(dashpot("train", my_task, *WORDS, *words)) == expected


def test_engine_rejects_unavailable_and_unknown_accelerators(machine):
    machine(0)
    with pytest.raises(RunError, match=r"^Engine: accelerator cuda is not available on this machine; choose"):
        Engine("cuda")
    with pytest.raises(RunError, match=r"^Engine: accelerator 'abacus' cannot be used: "):
        Engine("abacus")
