"""Settings: what is allowed, and that a file says the same as the values it was written from."""

from __future__ import annotations

import dataclasses

import pytest

from dashpot.errors import ArgumentError, RunError
from dashpot.training.run.settings import (
    Settings,
    diff_settings,
    parse_value,
    read_settings,
    setting_names,
    write_settings,
)

MADE_BY = {"torch": "0", "command": "by hand"}

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
    devices=2,
    strategy="fsdp",
    accelerator="cpu",
    threads=1,
    data_dir='a "quoted" ä path\\',
    set={"betas": (0.9, 0.99), "eps": 1e-8, "debias": "exact", "nesterov": True},
)


@pytest.mark.parametrize("settings", [ALL, Settings(task="digits", optimizer="sgd")], ids=["all", "few"])
def test_a_file_gives_back_what_was_written(tmp_path, settings):
    path = tmp_path / "run.toml"
    write_settings(path, settings, MADE_BY)
    assert Settings.of(read_settings(path)) == settings


def test_every_setting_is_in_the_test_above():
    plain = Settings(task="digits", optimizer="sgd")
    assert all(getattr(ALL, name) != getattr(plain, name) for name in setting_names())


def test_a_number_keeps_its_last_bit(tmp_path):
    path = tmp_path / "run.toml"
    for lr in (0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3.0):
        write_settings(path, dataclasses.replace(ALL, lr=lr), MADE_BY)
        assert read_settings(path)["lr"] == lr


def refused_values():
    for item in dataclasses.fields(Settings):
        if item.metadata["allowed"] is not None:
            for value in item.metadata["allowed"].refused():
                yield pytest.param(item.name, value, id=f"{item.name}={value!r}")


@pytest.mark.parametrize(("name", "value"), [*refused_values()])
def test_what_a_constraint_refuses_is_refused_by_name(name, value):
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
    ],
)
def test_what_is_no_setting_is_refused(given, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Settings.of(given)


def test_an_older_file_stays_when_a_new_one_cannot_be_written(tmp_path):
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
def test_values_are_read_as_typed(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_differences_are_of_what_is_given_only():
    given = {"lr": 0.5, "epochs": 6, "data_dir": None, "set": {"eps": 1e-6, "weight_decay": 0.1, "betas": (0.9, 0.99)}}
    assert diff_settings(ALL, given) == [
        "lr: saved 1e-300, given 0.5",
        'data_dir: saved a "quoted" ä path\\, given not set',
        "eps: saved 1e-08, given 1e-06",
        "weight_decay: saved not set, given 0.1",
    ]


def test_none_of_the_optimizers_settings_is_written_as_a_word(tmp_path):
    settings = Settings(task="digits", optimizer="sgd", set={"a": None, "b": (0.5, None), "c": "word", "d": 0})
    write_settings(tmp_path / "run.toml", settings, {})
    assert 'a = "none"' in (tmp_path / "run.toml").read_text()
    assert Settings.of(read_settings(tmp_path / "run.toml")) == settings


def test_none_differs_from_not_set():
    there = Settings(task="digits", optimizer="sgd", set={"a": None})
    assert diff_settings(there, {"set": {"a": None}}) == []
    assert diff_settings(there, {"set": {"a": 1.0, "b": None}}) == [
        "a: saved none, given 1.0",
        "b: saved not set, given none",
    ]
