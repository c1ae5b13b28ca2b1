"""The command `dashpot power`."""

import numpy as np
import pytest
import results_support

from dashpot.cli.power_table import spread_of
from dashpot.comparison import read_results
from dashpot.errors import DataError


def rows(text):
    """Return the rows of the table as lists of cells."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("-----"))
    return [line.split() for line in lines[start + 1 : lines.index("", start)]]


def test_power_prints_a_table_and_the_number_of_seeds(dashpot):
    code, out, err = dashpot("power", "--difference", 1, "--sd", 1)
    assert (code, err) == (0, "")
    assert out.startswith("Computing the power.\n")
    assert rows(out)[1] == ["5", "1.17", "1.68", ".401"]
    assert [row[0] for row in rows(out)] == ["3", "5", "10", "20"]
    assert "A difference of 1 is found with a probability of at least .80 by 10 seeds." in out


def test_power_with_all_options(dashpot):
    words = ["--difference", 0.01, "--sd", 0.008, "--methods", 6, "--seeds", 8, "--power", 0.9, "--margin", 0.02]
    code, out, _ = dashpot("power", *words, "--level", 0.99)
    assert code == 0
    assert [row[0] for row in rows(out)] == ["3", "5", "8", "10", "20"]
    words = " ".join(out.split())
    assert "99 % intervals of the difference of two of 6 methods" in words
    assert "smallest difference with the power .90" in words
    assert "equivalent within .02 with a probability of at least .90 by" in words
    assert max(map(len, out.splitlines())) <= 80


def test_power_without_difference_prints_detectable_differences(dashpot):
    code, out, _ = dashpot("power", "--sd", 0.02)
    assert code == 0
    assert "found at power .80" in out
    assert "A difference" not in out


def test_power_of_a_tiny_difference_needs_many_seeds(dashpot):
    out = dashpot("power", "--difference", 1e-9, "--sd", 1)[1]
    assert "by more than 1000 seeds." in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "power: --sd or the folder of a comparison must be given, got neither."),
        (["--sd", 0], "power: sd must be None or a number in (0, inf), got 0.0."),
        (["--sd", 1, "--seeds", 1], "power: seeds must be None or an integer in [2, inf), got 1."),
        (["--sd", 1, "--power", 1], "power: power must be a number in (0, 1), got 1.0."),
        (["--sd", 1, "--power", 0.02], "power: power must be a number in (0.05, 1), got 0.02."),
    ],
)
def test_invalid_options_print_a_sentence(dashpot, words, sentence):
    code, out, err = dashpot("power", *words)
    assert (code, out, err) == (2, "", sentence + "\n")


def test_power_of_a_folder_uses_its_standard_deviation_methods_and_margin(dashpot, monkeypatch):
    results = results_support.results(seeds=6)
    monkeypatch.setattr(read_results, "results_of_folder", lambda path: results)
    code, out, _ = dashpot("power", "some/folder", "--difference", 0.01)
    assert code == 0
    scores = np.array([[run.score for run in results.of(method)] for method in results.methods])
    sds = [(a - b).std(ddof=1) for i, a in enumerate(scores) for b in scores[:i]]
    assert spread_of(results).median == pytest.approx(np.median(sds))
    assert out.startswith("Reading some/folder.\nThe paired differences have the standard deviation .00")
    assert "two of 4 methods" in " ".join(out.split())
    assert f"equivalence within {results.rule.margin:g}".replace("0.", ".") in out


def test_power_of_a_folder_without_a_study_prints_a_sentence(dashpot, tmp_path):
    code, out, err = dashpot("power", tmp_path)
    assert (code, out) == (2, f"Reading {tmp_path}.\n")
    assert str(tmp_path) in err


@pytest.mark.parametrize(("seeds", "reason"), [(1, "no two methods share two seeds"), (3, "do not vary")])
def test_results_without_a_standard_deviation_raise(seeds, reason):
    results = results_support.results(seeds=seeds, noise=0.0)
    with pytest.raises(DataError, match=reason):
        spread_of(results)
