"""Options of tasks, methods and schedules, which every training command accepts."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from cli_support import WORDS, final_weights, interrupt_at, refused, same_weights
from local_tasks import LOCAL_TASKS

from dashpot import tasks
from dashpot.comparison import read_run
from dashpot.runs.method_specs import parse_methods
from dashpot.runs.settings import read_settings
from dashpot.schedules import SHAPES
from dashpot.training import read_newest

CONFIGURABLE = """
import torch
from dashpot.data import Batches
from dashpot.tasks import Problem, Task

def build(batch_size=4, shuffle=True):
    x = torch.arange(12.0).reshape(12, 1) / 12
    batches = Batches(x, x, batch_size, shuffle=shuffle)
    config = {"batch_size": batch_size, "shuffle": shuffle}
    problem = lambda seed: Problem(torch.nn.Linear(1, 1), batches, torch.nn.functional.mse_loss, batches)
    return Task("configurable", problem, epochs=1, config=config)
"""


@pytest.fixture
def configurable(tmp_path) -> str:
    """Return a task with the options `batch_size` and `shuffle`."""
    (tmp_path / "configurable.py").write_text(CONFIGURABLE)
    return "configurable.py"


def header(path: str) -> dict:
    return read_run(Path(path)).header


# ---- tasks ----------------------------------------------------------------------------------------------------------


def test_train_passes_options_to_the_task_and_stores_them(dashpot, configurable):
    options = ("--batch-size", 5, "--task-options", "shuffle=false")
    assert dashpot("train", configurable, *WORDS, *options, "--out", "a")[0] == 0
    settings = read_settings(Path("a/run.toml"))
    assert (settings["batch_size"], settings["task_options"]) == (5, {"shuffle": False})
    config = header("a/run.jsonl")["task"]["config"]
    assert (config["batch_size"], config["shuffle"]) == (5, False)
    assert len(read_run(Path("a/run.jsonl")).loss) == 3
    assert dashpot("train", "--config", "a/run.toml", "--out", "b")[0] == 0
    assert same_weights("a", "b")


def test_compare_lr_find_and_verify_pass_options_to_the_task(dashpot, configurable, monkeypatch):
    options = ("--batch-size", 5, "--task-options", "shuffle=false")
    assert dashpot("compare", configurable, "--methods", "sgd", "--seeds", 1, *options, "--out", "a")[0] == 0
    config = json.loads(Path("a/study.json").read_text())["settings"]["config"]
    assert (config["batch_size"], config["shuffle"]) == (5, False)
    given, get = [], tasks.get
    monkeypatch.setattr(tasks, "get", lambda spec, **more: given.append(more) or get(spec, **more))
    assert dashpot("lr-find", configurable, "--optimizer", "sgd", *options)[0] == 0
    assert dashpot("verify", configurable, "--optimizer", "sgd", "--steps", 2, "--timed-steps", 0, *options)[0] == 0
    assert given == [{"data_dir": None, "batch_size": 5, "shuffle": False}] * 2


@pytest.mark.parametrize("name", LOCAL_TASKS)
def test_batch_size_of_every_task(dashpot, name):
    """Tasks with exact gradients have no batch size; tests/tasks covers the tasks whose data are not included."""
    words = ("train", name, *WORDS, "--batch-size", 750, "--epochs", 1, "--out", "a")
    if name in ("digits", "noisy-quadratic"):
        assert dashpot(*words)[0] == 0
        assert header("a/run.jsonl")["task"]["config"]["batch_size"] == 750
    else:
        assert refused(dashpot(*words)).startswith(f"Unknown option of the task {name} 'batch_size'. Known: ")


@pytest.mark.diagonal
@pytest.mark.parametrize("command", ["train", "compare", "lr-find"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("digits", "--batch-size", 0), "batch_size must be "),
        (("digits", "--task-options", "shufle=false"), "Unknown option of the task digits 'shufle': did you mean"),
        (("digits", "--task-options", "data_dir=x"), "must not contain data_dir; use "),
        (("digits", "--task-options", "shuffle"), "--task-options must be NAME=VALUE, such as shuffle=false, got"),
        (("digits", "--task-options", "batch_size=3", "--batch-size", 4), "must be given once, got 4 and"),
        (
            ("mine.py", "--batch-size", 4),
            "Task file mine.py: build() has no parameter 'batch_size' for this task option",
        ),
    ],
)
def test_invalid_task_options_exit_with_2(dashpot, my_task, command, words, sentence):
    method = ("--methods", "sgd") if command == "compare" else ("--optimizer", "sgd")
    assert sentence in refused(dashpot(command, *words, *method)).replace(str(Path.cwd()) + "/", "")


def test_changed_batch_size_requires_override_at_a_resume(dashpot, configurable):
    assert dashpot("train", configurable, *WORDS, "--batch-size", 6, "--out", "a")[0] == 0
    assert "batch_size: saved 6, given 5" in dashpot("train", "--resume", "a", "--batch-size", 5)[2]
    assert dashpot("train", "--resume", "a", "--batch-size", 5, "--epochs", 2, "--override")[0] == 0
    assert len(read_run(Path("a/run.jsonl")).loss) == 2 + 3


# ---- methods --------------------------------------------------------------------------------------------------------


def test_compare_trains_a_method_with_several_settings(dashpot, my_task):
    methods = "adamw:weight_decay=0.1,betas=0.9,0.99,autosgm-1:zero=0.5,sgd:lr=0.5,sgd:lr=0.25,sgd"
    assert (
        dashpot("compare", my_task, "--methods", methods, "--seeds", 1, "--lr", "autosgm-1=0.125", "--out", "a")[0] == 0
    )
    names = ["adamw-weight_decay-0.1-betas-0.9-0.99", "autosgm-1-zero-0.5", "sgd-lr-0.5", "sgd-lr-0.25", "sgd"]
    stored = json.loads(Path("a/study.json").read_text())["settings"]["methods"]
    assert list(stored) == names
    calls = [
        "AdamW(model.parameters(), lr=0.001, weight_decay=0.1, betas=(0.9, 0.99))",
        "AutoSGM(model.parameters(), lr=0.125, numerator=1, zero=0.5)",
        "SGD(model.parameters(), lr=0.5)",
        "SGD(model.parameters(), lr=0.25)",
        "SGD(model.parameters(), lr=0.1)",
    ]
    assert list(stored.values()) == [f"dashpot.{call}" for call in calls]
    for name, call in zip(names, calls, strict=True):
        recorded = header(f"a/runs/{name}-seed0.jsonl")
        assert (recorded["entry"], recorded["call"]) == (name, f"dashpot.{call}")


def test_set_of_compare_applies_to_all_methods(dashpot, my_task):
    words = ("--methods", "sgd,adamw:weight_decay=0.25", "--set", "weight_decay=0.125", "--seeds", 1)
    assert dashpot("compare", my_task, *words, "--out", "a")[0] == 0
    stored = json.loads(Path("a/study.json").read_text())["settings"]["methods"]
    assert "weight_decay=0.125" in stored["sgd"]
    assert "weight_decay=0.25" in stored["adamw-weight_decay-0.25"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--methods", "adamw:weight_decy=1"), "Unknown setting of adamw 'weight_decy': did you mean 'weight_decay'?"),
        (("--methods", "adamw:weight_decay=-1"), "weight_decay must be a number in [0, inf), got -1."),
        (("--methods", "adamm:lr=1"), "Unknown method 'adamm': did you mean 'adam'?"),
        (("--methods", "sgd,"), "Unknown method ''"),
        (("--methods", "adamw:betas=0.9,0.99,sgdd"), "Unknown method 'sgdd': did you mean 'sgd'?"),
        (("--methods", "sgd:"), "sgd: settings must be NAME=VALUE"),
        (("--methods", "sgd:lr=1,lr=2"), "sgd: lr must be given once, got 1 and 2."),
        (("--methods", "sgd:lr=1", "--lr", "sgd=2"), "sgd: lr must be given once, got 1 in --methods and 2.0 in --lr."),
        (("--methods", "sgd:lr=1,sgd:lr=1"), "with unique names"),
        (("--methods", "sgd", "--set", "betas=1,2"), "Unknown setting of sgd 'betas'"),
        (
            ("--methods", "sgd", "--set", "lr=1"),
            "The settings of sgd must not contain lr; give the learning rate by lr (--lr).",
        ),
    ],
)
def test_invalid_settings_of_methods_exit_with_2(dashpot, my_task, words, sentence):
    assert sentence in refused(dashpot("compare", my_task, *words))


def test_names_of_methods_are_valid_file_names():
    [spec] = parse_methods("autosgm:quirks=none,lr_cfg=true,1e+20,1")
    assert spec.options == {"quirks": None, "lr_cfg": (True, 1e20, 1)}
    assert spec.name == "autosgm-quirks-none-lr_cfg-true-1e_20-1"


# ---- groups and frozen parameters -----------------------------------------------------------------------------------

DEEP = """
import torch
from torch import nn
from dashpot.data import Batches
from dashpot.tasks import Problem, Task

def build():
    def problem(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        x = torch.randn(12, 2)
        return Problem(model, Batches(x, x.sum(1, keepdim=True), 4), nn.functional.mse_loss, Batches(x, x[:, :1], 12))
    return Task("deep", problem, epochs=2)
"""


@pytest.fixture
def deep(tmp_path) -> str:
    """Return a task whose model has norms and biases."""
    (tmp_path / "deep.py").write_text(DEEP)
    return "deep.py"


@pytest.mark.parametrize(
    "optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.slow), pytest.param("autosgm", marks=pytest.mark.slow)]
)
def test_no_decay_creates_two_groups_and_resumes(dashpot, deep, monkeypatch, optimizer):
    words = ("train", deep, "--optimizer", optimizer, "--lr", 0.1, "--threads", 1, "--set", "weight_decay=0.25")
    groups = ("--no-decay", "norms,bias")
    _, out, _ = dashpot(*words, *groups, "--out", "a")
    assert "(dashpot.param_groups(model, no_decay=('norms', 'bias'), allow_tied=True), lr=0.1" in out
    saved = read_newest(Path("a/checkpoints"))["optimizer"]["param_groups"]
    assert [(group["weight_decay"], sorted(group["params"])) for group in saved] == [
        (0.25, ["0.weight", "2.weight"]),
        (0.0, ["0.bias", "1.bias", "1.weight", "2.bias"]),
    ]
    assert read_settings(Path("a/run.toml"))["no_decay"] == ("norms", "bias")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert dashpot(*words, *groups, "--out", "b")[0] == 130
    assert dashpot("train", "--resume", "b")[0] == 0
    assert same_weights("a", "b")
    assert dashpot(*words, "--out", "c")[0] == 0
    assert not same_weights("a", "c")
    assert dashpot("lr-find", deep, "--optimizer", optimizer, "--set", "weight_decay=0.25", *groups)[0] == 0


def test_changed_groups_and_frozen_parameters_at_a_resume(dashpot, deep):
    """Frozen parameters can change with --override; groups cannot, because they are part of the optimizer's state."""
    words = ("train", deep, *WORDS, "--no-decay", "bias", "--freeze", "0.*", "--epochs", 1, "--out", "a")
    assert dashpot(*words)[0] == 0
    more = ("train", "--resume", "a", "--epochs", 2)
    for option, value in (("--no-decay", "norms"), ("--freeze", "2.*")):
        assert "--override resumes with the given ones" in dashpot(*more, option, value)[2]
    assert "groups of the checkpoint do not match" in dashpot(*more, "--no-decay", "norms", "--override")[2]
    before = final_weights("a")
    assert dashpot(*more, "--freeze", "2.*", "--override")[0] == 0
    after = final_weights("a")
    assert [name for name in ("0.weight", "2.weight") if torch.equal(before[name], after[name])] == ["2.weight"]


def test_freeze_and_unfreeze_from_the_command_line(dashpot, deep):
    words = ("train", deep, *WORDS, "--freeze", "0.*,1.*:1", "--frozen-batchnorm", "eval")
    assert dashpot(*words, "--epochs", 1, "--out", "a")[0] == 0
    assert dashpot(*words, "--epochs", 2, "--out", "b")[0] == 0
    assert read_settings(Path("a/run.toml"))["freeze"] == ("0.*", "1.*:1")
    first, second = (final_weights(folder) for folder in ("a", "b"))
    start = tasks.get("deep.py").build(0).model.state_dict()
    assert [name for name in first if not torch.equal(first[name], start[name])] == ["2.weight", "2.bias"]
    assert [name for name in second if torch.equal(second[name], start[name])] == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--no-decay", "norm"), "no_decay must contain norms, biases, embeddings, vectors or patterns that match a"),
        (("--no-decay", "9.*"), "patterns that match a parameter, got '9.*'."),
        (("--freeze", "9.*"), "Freeze: patterns must match a parameter, got '9.*'; the parameters are 0.weight,"),
        (("--freeze", "0.*:0"), "freeze must be PATTERN or PATTERN:EPOCHS, such as 0.*:2, got '0.*:0'."),
        (("--freeze", ":2"), "freeze must be PATTERN or PATTERN:EPOCHS"),
        (("--frozen-batchnorm", "off"), "frozen_batchnorm must be one of 'train', 'eval', got 'off'."),
    ],
)
def test_invalid_groups_exit_with_2_and_write_nothing(dashpot, deep, words, sentence):
    assert sentence in refused(dashpot("train", deep, *WORDS, *words))


def test_no_decay_without_decay_raises(dashpot, deep):
    sentence = refused(dashpot("train", deep, "--optimizer", "sgd", "--no-decay", "bias"))
    assert sentence == (
        "train: no_decay requires weight decay, which sgd lacks by default; add --set weight_decay=VALUE."
    )


# ---- AutoSGM's tuples -----------------------------------------------------------------------------------------------

TUPLES = ("lr_cfg=true,0.25,1", "beta_cfg=0.999,0.99,0.9,0.5,0,true", "wd_cfg=0.125,1", "eps_cfg=1e-6")


def test_tuples_of_autosgm_equal_its_keywords(dashpot, my_task):
    keywords = (
        "numerator=1",
        "beta_n=0.999",
        "beta_a=0.99",
        "zero=0.5",
        "weight_decay=0.125",
        "decay=change",
        "eps=1e-6",
    )
    common = ("train", my_task, "--optimizer", "autosgm", "--threads", 1)
    assert dashpot(*common, "--set", *TUPLES, "--out", "a")[0] == 0
    assert dashpot(*common, "--lr", 0.25, "--set", *keywords, "--out", "b")[0] == 0
    assert same_weights("a", "b")
    assert read_settings(Path("a/run.toml"))["lr"] == 0.25
    assert dashpot("train", "--config", "a/run.toml", "--out", "c")[0] == 0
    assert same_weights("a", "c")
    assert dashpot("train", "--resume", "a", "--set", *TUPLES)[0] == 0


def test_window_of_autosgm_is_given_as_a_tuple(dashpot, my_task):
    words = ("train", my_task, "--optimizer", "autosgm", "--lr", 0.5, "--epochs", 2, "--set")
    assert dashpot(*words, "rc_cfg=1,0,0.1,2,1,2,3,1,0", "--out", "a")[0] == 0
    expected = [0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2) for step in range(6)]
    assert read_run(Path("a/run.jsonl")).lr == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("autosgm", "--lr", 0.5, "--set", "lr_cfg=true,0.25,1"),
            "autosgm: lr must be given once, got 0.25 in lr_cfg and",
        ),
        (
            ("autosgm-3", "--set", "lr_cfg=true,0.25,1"),
            "autosgm-3: numerator must be given once, got 1 in lr_cfg and 3.",
        ),
        (
            ("autosgm", "--set", "lr_cfg=true,0.25"),
            "lr_cfg must be a tuple (adaptive, lr, numerator), got (True, 0.25).",
        ),
        (("autosgm", "--set", "lr_cfg=true,-1,1"), "lr_cfg: lr must be a number in [0, inf), got -1."),
        (("sgd", "--set", "lr_cfg=true,0.25,1"), "Unknown setting of sgd 'lr_cfg'"),
    ],
)
def test_invalid_tuples_exit_with_2(dashpot, my_task, words, sentence):
    assert sentence in refused(dashpot("train", my_task, "--optimizer", *words))


# ---- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_are_schedules_of_the_command(dashpot, my_task, shape):
    words = ("--schedule", f"window:shape={shape},floor=0.25", "--epochs", 2, "--out", "a")
    assert dashpot("train", my_task, *WORDS, *words)[0] == 0
    lr = read_run(Path("a/run.jsonl")).lr
    assert (len(lr), lr[0]) == (6, pytest.approx(0.1, rel=1e-12))
    assert all(0.024 < value <= 0.1 for value in lr)


def test_momentum_schedule_leaves_the_rate(dashpot, my_task):
    words = ("--schedule", "1cycle-momentum:low=0.75", "--epochs", 2, "--out", "a")
    assert "{'betas[0]': OneCycleMomentum(steps=6, high=0.95, low=0.75" in dashpot("train", my_task, *WORDS, *words)[1]
    assert set(read_run(Path("a/run.jsonl")).lr) == {0.1}


def test_options_of_one_cycle_apply_to_the_momentum(dashpot, my_task):
    _, out, _ = dashpot("train", my_task, *WORDS, "--schedule", "1cycle:pct_start=0.5,div=10", "--epochs", 2)
    assert "'lr': OneCycle(steps=6, pct_start=0.5, div=10" in out
    assert "'betas[0]': OneCycleMomentum(steps=6, high=0.95, low=0.85, pct_start=0.5" in out


@pytest.mark.parametrize(
    ("method", "schedule", "sentence"),
    [
        ("sgd", "window", "Schedule 'window': option 'shape' is missing."),
        ("sgd", "window:shape=logistik", "shape must be one of"),
        (
            "sgd",
            "window:shape=logistic,hold=4",
            "steps must be a multiple of hold and at least twice as large, got steps=6",
        ),
        ("sgd", "1cycle-momentum", "sgd: schedule must not be 1cycle-momentum, since the momentum is zero or fixed."),
        ("nag", "1cycle-momentum", "nag: schedule must not be 1cycle-momentum, since the momentum is zero or fixed."),
        ("adam", "1cycle-momentum:high=0.1", "low must be at most high, 0.1, got 0.85."),
        ("adam", "1cycle:div=0", "div must be a number in [1, inf), got 0."),
        ("adam", "1cycle:divide=2", "Unknown option of schedule '1cycle' 'divide': did you mean 'div'?"),
    ],
)
def test_invalid_schedules_exit_with_2(dashpot, my_task, method, schedule, sentence):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sentence in refused(dashpot("train", my_task, "--optimizer", method, "--schedule", schedule))
        assert sentence in refused(dashpot("compare", my_task, "--methods", method, "--schedule", schedule))
