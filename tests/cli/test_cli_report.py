"""`dashpot report`: comparisons, CSV files, options and messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_support import refused

SCORES = {"adamw": (0.915, 0.921, 0.918, 0.906), "<b>sgd": (0.71, 0.72, 0.717, 0.703)}
CSV = "step,seed,method,accuracy\n" + "".join(
    f"0,{seed},{name},0.1\n9,{seed},{name},{score}\n" for name, row in SCORES.items() for seed, score in enumerate(row)
)


@pytest.fixture
def csv(dashpot):
    """Return the path of a CSV file in the current folder, which is that of the test."""
    Path("runs.csv").write_text(CSV)
    return "runs.csv"


def test_csv_file_gives_verdict_page_and_summary(dashpot, csv):
    code, out, _ = dashpot("report", "--from-csv", csv, "--target", "0.9", "--margin", "0.01", "--out", "new/a.html")
    assert code == 0
    assert out.startswith("Reading runs.csv.\n\nadamw is best: validation accuracy .915,")
    assert out.endswith("\nReport: new/a.html\n")
    page = Path("new/a.html").read_text()
    assert "<b>sgd" not in page
    assert "&lt;b&gt;sgd" in page
    assert Path("new/a.md").read_text().startswith("# runs: 2 methods compared")


def test_report_of_several_comparisons_has_a_profile(dashpot, my_task):
    for name in ("one", "two"):
        dashpot("compare", my_task, "--methods", "sgd,adam", "--seeds", 1, "--out", name)
    code, out, _ = dashpot("report", "one", "two", "--reference", "sgd")
    assert (code, out.splitlines()[0]) == (0, "Reading one, two.")
    assert len(re.findall("^rank", out, re.MULTILINE)) == 2
    assert [re.findall(f"^.+ \\({name}\\)$", out, re.MULTILINE) != [] for name in ("one", "two")] == [True, True]
    assert out.endswith("\nReport: report.html\n")
    assert Path("summary.md").read_text().count(" methods compared") == 2
    assert "(one)" in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "report: give at least one folder of dashpot compare or dashpot train, or --from-csv FILE."),
        (("x", "--from-csv", "runs.csv"), "report: give either folders or --from-csv, not both."),
        (("x", "--metric", "loss"), "report: --metric applies to --from-csv only; folders contain their metric."),
        (("x", "--out", "page.txt"), "report: --out must end in .html, got page.txt."),
        (("--from-csv", "runs.csv", "--direction", "up"), "report: direction must be"),
        (("--from-csv", "runs.csv", "--margin", "0"), "report: margin must be None or a number in (0, inf), got 0.0."),
        (("--from-csv", "runs.csv", "--target", "nan"), "report: target must be"),
        (("--from-csv", "runs.csv", "--metric", "acuracy"), "Unknown metric 'acuracy': did you mean 'accuracy'?"),
        (("--from-csv", "runs.csv", "--reference", "adam"), "Unknown reference method 'adam': did you mean 'adamw'?"),
        (("--from-csv", "none.csv"), "Cannot read none.csv: No such file or directory."),
        (("empty",), "empty is not a comparison: the folder is empty."),
        (("nowhere",), "nowhere is not a comparison"),
    ],
)
def test_bad_options_exit_with_2(dashpot, csv, words, sentence):
    Path("empty").mkdir()
    assert sentence in refused(dashpot("report", *words))
    assert not Path("report.html").exists()
