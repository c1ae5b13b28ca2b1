"""Invalid combinations of the options of studies: one-line errors before any training."""

from __future__ import annotations

import json

import pytest
from cli_support import refused

from dashpot.comparison.item_keys import trial_keys


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("tune", "digits", "--method", "sgd,adam", "--budget", 2),
            "tune: --method must be one method, got 'sgd,adam'; dashpot compare --methods sgd,adam --budget 2 tunes "
            "several.",
        ),
        (
            ("tune", "quadratic", "--method", "sgd", "--tune", "momentum"),
            "tune: sgd has none of the settings momentum; known: lr, warmup.",
        ),
        (
            ("compare", "digits", "--budget", 2, "--tune", ","),
            "compare: --tune must name at least one of lr, weight_decay, momentum, warmup, beta2, got ','.",
        ),
        (
            ("compare", "digits", "--budget", 10001),
            "compare: --budget must be an integer in [0, 10000], got 10001.",
        ),
        (
            ("compare", "digits", "--lr", "adam=0.1", "adam=0.2"),
            "adam: --lr must be given once, got 0.1 and 0.2.",
        ),
        (
            ("compare", "digits", "--methods", "sgd,adam", "--no-decay", "bias"),
            "Study: no_decay requires weight decay, which sgd, adam lack by default; add --set weight_decay=VALUE.",
        ),
        (
            ("tune", "digits", "--method", "adamw", "--no-decay", "9.*"),
            "param_groups: no_decay must contain norms, biases, embeddings, vectors or patterns that match a "
            "parameter, got '9.*'.",
        ),
    ],
)
def test_invalid_options_are_errors(dashpot, words, expected):
    assert refused(dashpot(*words)) == expected


def test_methods_without_settings_to_tune_have_no_trials():
    settings = {"methods": {"sgd": ""}, "tuning": {"budget": 10**15, "spaces": {"sgd": {}}}}
    assert trial_keys(settings) == []


def test_redis_that_is_missing_or_does_not_answer_is_an_error(dashpot):
    error = refused(dashpot("compare", "quadratic", "--storage", "redis://:secret@127.0.0.1:1/0", "--out", "out"))
    assert error.startswith("The storage redis://:***@127.0.0.1:1/0 ")
    assert error.endswith(("pip install redis.", "check address and password."))


def test_range_of_rates_applies_to_an_optimizer_in_a_file(dashpot, tmp_path):
    (tmp_path / "own.py").write_text("import torch\n\nclass Own(torch.optim.SGD):\n    pass\n")
    words = ("--method", "own.py:Own", "--budget", 2, "--tune", "lr", "--sampler", "grid", "--lr", "1e-3..1e-2")
    assert dashpot("tune", "quadratic", *words, "--epochs", 1, "--out", "out")[0] == 0
    settings = json.loads((tmp_path / "out" / "study.json").read_text())["settings"]
    assert settings["tuning"]["spaces"] == {"own.Own": {"lr": {"low": 0.001, "high": 0.01, "log": True}}}
