"""Commands without the optional packages of studies: one sentence before anything is computed or written."""

import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "digits"),
        ("demo", "--out", "out"),
        ("tune", "digits", "--method", "sgd"),
        ("power", "--difference", 1, "--sd", 1),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("package", ["optuna", "scipy"])
def test_missing_package_is_named_before_the_first_line(dashpot, monkeypatch, words, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = dashpot(*words)
    if (words[0], package) == ("power", "optuna"):
        assert (code, err) == (0, "")
        return
    assert (code, out, err) == (2, "", f"{words[0]} needs {package}: pip install 'dashpot[study]'.\n")
    assert list(Path().iterdir()) == []
