"""`dashpot train --watch` and `dashpot watch`: the file of a run, its report, and error messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_support import refused, same_weights

from dashpot.runs.settings import Settings
from dashpot.runs.watch_file import read_watch_file
from dashpot.training.run import run


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Folder of a watched run, and of the same run without watching."""
    folder = tmp_path_factory.mktemp("watched")
    given = {"task": "digits", "optimizer": "adamw", "epochs": 1, "threads": 1, "accelerator": "cpu"}
    for name, watch in (("run", {"watch": True, "watch_budget": 1.0}), ("plain", {})):
        run.start(Settings(**given, **watch), folder / name, write_line=lambda line: None)
    return folder


def test_a_watched_run_writes_its_measurements_and_the_same_weights(watched):
    record = read_watch_file(watched / "run" / "watch.jsonl")
    assert record.header["optimizer"] == "AdamW"
    assert record.rows("norms").rows[-1]["step"] > 15  # of 21
    assert same_weights(watched / "run", watched / "plain")
    assert not (watched / "plain" / "watch.jsonl").exists()


def test_the_report_of_a_folder_and_of_a_file(dashpot, watched):
    code, out, err = dashpot("watch", watched / "run")
    assert (code, err) == (0, "")
    head, _, text = out.partition("\n")
    assert head == f"Reading {watched / 'run'}."
    assert dashpot("watch", watched / "run" / "watch.jsonl")[1].partition("\n")[2] == text


def test_json_is_a_single_line(dashpot, watched):
    code, out, err = dashpot("watch", watched / "run", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out)["more"]


def test_figure_and_page_are_written(dashpot, watched):
    code, out, err = dashpot("watch", watched / "run", "--plot", "plot.png", "--html", "page.html")
    assert (code, err) == (0, "")
    assert out.endswith("Plot: plot.png\nPage: page.html\n")
    assert "dashpot watch" in Path("page.html").read_text()


def test_a_running_run_has_a_report(dashpot, watched, tmp_path):
    """The file of a run in progress may end within a line."""
    shutil.copytree(watched / "run", tmp_path / "running")
    file = tmp_path / "running" / "watch.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert dashpot("watch", tmp_path / "running")[0] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "missing does not exist"),
        (lambda folder: folder.mkdir(), "missing is not the folder of a run: it has no run.toml."),
        (lambda folder: folder.write_bytes(b"\x00\xff\n"), "missing is damaged at line 1."),
    ],
)
def test_path_without_measurements_raises(dashpot, tmp_path, make, message):
    make(tmp_path / "missing")
    assert message in refused(dashpot("watch", tmp_path / "missing"))


def test_run_without_measurements_raises(dashpot, watched):
    assert "the run was not watched; train it with --watch." in refused(dashpot("watch", watched / "plain"))
    assert "watch: the file must end with .png, .pdf or .svg" in refused(
        dashpot("watch", watched / "run", "--plot", "a.txt")
    )


def test_watch_is_a_flag_and_a_setting(dashpot):
    words = (
        "train",
        "digits",
        "--optimizer",
        "sgd",
        "--epochs",
        1,
        "--batch-size",
        300,
        "--threads",
        1,
        "--accelerator",
        "cpu",
    )
    assert dashpot(*words, "--watch", "--watch-budget", 1, "--out", "run")[0] == 0
    assert Path("run/watch.jsonl").exists()
    assert "watch = true" in Path("run/run.toml").read_text()
    assert dashpot("train", "--config", "run/run.toml", "--no-watch", "--out", "second")[0] == 0
    assert not Path("second/watch.jsonl").exists()
    message = "train: watch_budget must be a number in (0, 1], got 0.0"
    assert message in refused(dashpot(*words, "--watch-budget", 0, "--out", "third"))
