"""`dashpot lr-find`: printed curve, HTML file and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import (
    refused,
)


def test_lr_find_prints_a_curve_and_writes_html(dashpot, my_task, tmp_path):
    code, out, err = dashpot("lr-find", my_task, "--optimizer", "sgd", "--accumulate", 2)
    assert (code, err) == (0, "")
    assert "steepest descent" in out
    assert not Path("runs").exists()
    assert dashpot("lr-find", my_task, "--optimizer", "sgd", "--out", "curve.html")[1].endswith("Plot: curve.html\n")
    assert 'data-series="smoothed"' in Path("curve.html").read_text(encoding="utf-8")
    assert "Unknown method 'sdg'" in refused(dashpot("lr-find", my_task, "--optimizer", "sdg"))


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("folder", "Cannot write folder: it is a folder."),
        ("file/curve.html", "Cannot write file/curve.html: {place}/file is not a folder."),
        ("curve.jpg", "lr-find: the file must end with .html, .png, .pdf or .svg, got 'curve.jpg'."),
        ("file/deep/curve.html", "Cannot write file/deep/curve.html: {place}/file is not a folder."),
    ],
)
def test_lr_find_rejects_unwritable_path_before_the_search(dashpot, my_task, monkeypatch, out, sentence):
    Path("folder").mkdir()
    Path("file").write_text("")
    monkeypatch.setattr("dashpot.training.run.run.lr_range_test", lambda _: pytest.fail("it searched"))
    found = refused(dashpot("lr-find", my_task, "--optimizer", "sgd", "--out", out))
    assert found == sentence.format(place=Path.cwd())


@pytest.mark.slow
def test_lr_find_creates_parent_folders(dashpot, my_task):
    assert dashpot("lr-find", my_task, "--optimizer", "sgd", "--out", "a/b/curve.png")[0] == 0
    assert Path("a/b/curve.png").read_bytes().startswith(b"\x89PNG")
