"""Settings of a run: validation, round trip through TOML, parsing of values, and differences."""

from __future__ import annotations

import dataclasses

import pytest

from dashpot.errors import ArgumentError, RunError
from dashpot.runs.settings import (
    Settings,
    diff_settings,
    parse_value,
    read_settings,
    setting_names,
    write_settings,
)

MADE_BY = {"torch": "0", "command": "none"}

ALL = Settings(
    task="folder with spaces/mine.py:build",
    optimizer="adamw",
    lr=1e-300,
    schedule="1cycle",
    epochs=6,
    seed=2**32 - 1,
    precision="bf16",
    accumulate=4,
    max_norm=0.1,
    clip_value=1e5,
    nonfinite="skip",
    ema=0.999,
    patience=3,
    checkpoint_every=10,
    keep=1,
    log=("csv", "tensorboard"),
    watch=True,
    watch_budget=0.5,
    devices=2,
    strategy="fsdp",
    find_unused_parameters=True,
    accelerator="cpu",
    threads=1,
    batch_size=7,
    no_decay=("norms", "bias"),
    freeze=("0.*", "1.weight:3"),
    frozen_batchnorm="eval",
    task_options={"shuffle": False, "sizes": (1, 2), "name": None},
    data_dir='a "quoted" ä path\\',
    set={"betas": (0.9, 0.99), "eps": 1e-8, "debias": "exact", "nesterov": True},
)


IN_STEPS = dataclasses.replace(ALL, epochs=None, steps=9, evaluate_every=3, max_time=90.5)
"""Settings of a run in steps, which has no epochs."""


@pytest.mark.parametrize(
    "settings", [ALL, IN_STEPS, Settings(task="digits", optimizer="sgd")], ids=["all", "steps", "few"]
)
def test_written_settings_read_back(tmp_path, settings):
    path = tmp_path / "run.toml"
    write_settings(path, settings, MADE_BY)
    assert Settings.of(read_settings(path)) == settings


def test_round_trip_covers_every_setting():
    plain = Settings(task="digits", optimizer="sgd")
    for name in setting_names():
        assert {repr(getattr(settings, name)) for settings in (ALL, IN_STEPS)} != {repr(getattr(plain, name))}


def test_epochs_and_steps_are_exclusive():
    with pytest.raises(ArgumentError, match=r"^train: give either epochs or steps, got epochs=6 and steps=5\.$"):
        dataclasses.replace(ALL, steps=5)


def test_duration_in_a_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('max_time = "1h30m"\n')
    assert read_settings(path) == {"max_time": 5400.0}
    path.write_text('max_time = "soon"\n')
    with pytest.raises(ArgumentError, match=r"^train: max_time must be a number of seconds or .* got 'soon'"):
        read_settings(path)


def test_numbers_are_stored_exactly(tmp_path):
    path = tmp_path / "run.toml"
    for lr in (0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3.0):
        write_settings(path, dataclasses.replace(ALL, lr=lr), MADE_BY)
        assert read_settings(path)["lr"] == lr


def invalid_values():
    for item in dataclasses.fields(Settings):
        if item.metadata["allowed"] is not None:
            for value in item.metadata["allowed"].refused():
                yield pytest.param(item.name, value, id=f"{item.name}={value!r}")


@pytest.mark.parametrize(("name", "value"), [*invalid_values()])
def test_invalid_value_raises_with_the_name(name, value):
    with pytest.raises(ArgumentError, match=f"^train: {name} must be "):
        dataclasses.replace(ALL, **{name: value})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"optimizer": "sgd"}, "task is missing"),
        ({"task": "digits"}, "optimizer is missing"),
        ({"task": "digits", "optimizer": "sgd", "lr_max": 1.0}, "Unknown setting 'lr_max'"),
        ({"task": "digits", "optimizer": "sgd", "log": ["csv"]}, "log must be a list of names"),
        ({"task": "digits", "optimizer": "sgd", "log": ("cvs",)}, "Unknown log 'cvs': did you mean 'csv'"),
        ({"task": "digits", "optimizer": None}, "optimizer must be a string"),
        ({"task": "digits", "optimizer": "sgd", "schedule": 1}, "schedule must be a string"),
        ({"task": "digits", "optimizer": "sgd", "set": ()}, "set must be a table"),
        (
            {"task": "digits", "optimizer": "sgd", "task_options": 3},
            "task_options must be a table of task options, got 3",
        ),
        ({"task": "digits", "optimizer": "sgd", "no_decay": "bias"}, "no_decay must be a list of names, got 'bias'"),
        ({"task": "digits", "optimizer": "sgd", "freeze": (3,)}, r"freeze must be a list of names, got \(3,\)"),
    ],
)
def test_missing_and_unknown_settings_and_wrong_types_raise(given, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Settings.of(given)


def test_failed_write_leaves_the_existing_file(tmp_path):
    path = tmp_path / "run.toml"
    write_settings(path, ALL, MADE_BY)
    before = path.read_bytes()
    with pytest.raises(RunError, match="Cannot write"):
        write_settings(path / "below", ALL, MADE_BY)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["run.toml"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("-3", -3),
        ("1.0", 1.0),
        ("True", True),
        ("false", False),
        ("none", None),
        ("0.9,0.99", (0.9, 0.99)),
        ("0.5,", (0.5,)),
        ("exact", "exact"),
        ("1e999", float("inf")),
    ],
)
def test_parse_value_of_the_command_line(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_diff_settings_lists_given_settings_only():
    given = {"lr": 0.5, "epochs": 6, "data_dir": None, "set": {"eps": 1e-6, "weight_decay": 0.1, "betas": (0.9, 0.99)}}
    assert diff_settings(ALL, given) == [
        "lr: saved 1e-300, given 0.5",
        'data_dir: saved a "quoted" ä path\\, given not set',
        "eps: saved 1e-08, given 1e-06",
        "weight_decay: saved not set, given 0.1",
    ]


def test_none_in_optimizer_arguments_is_written_as_a_string(tmp_path):
    settings = Settings(task="digits", optimizer="sgd", set={"a": None, "b": (0.5, None), "c": "string", "d": 0})
    write_settings(tmp_path / "run.toml", settings, {})
    assert 'a = "none"' in (tmp_path / "run.toml").read_text()
    assert Settings.of(read_settings(tmp_path / "run.toml")) == settings


def test_diff_settings_distinguishes_none_from_not_set():
    saved = Settings(task="digits", optimizer="sgd", set={"a": None})
    assert diff_settings(saved, {"set": {"a": None}}) == []
    assert diff_settings(saved, {"set": {"a": 1.0, "b": None}}) == [
        "a: saved none, given 1.0",
        "b: saved not set, given none",
    ]
