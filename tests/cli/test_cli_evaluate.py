"""The commands `dashpot evaluate` and `dashpot predict`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_support import complete_run, refused

from dashpot.errors import ArgumentError
from dashpot.runs.prediction_file import write_predictions
from dashpot.runs.records import read_run
from dashpot.training import load_model


def test_evaluate_prints_the_means_of_the_record(dashpot, my_task):
    run = complete_run(dashpot, my_task)
    [epoch] = read_run(run / "run.jsonl").epochs
    code, out, err = dashpot("evaluate", run, "--json")
    expected = {"run": "a", "which": "best", "split": "evaluation", "epoch": 1, "steps": 3, "means": epoch["eval"]}
    assert (code, json.loads(out), err) == (0, expected, "")
    code, out, _ = dashpot("evaluate", run, "--which", "last", "--accelerator", "cpu")
    lines = ["Evaluating the last checkpoint of a.", "Split evaluation, after epoch 1 (step 3):"]
    table = ["metric    value", "------  -------", f"loss    {epoch['eval']['loss']:.6g}"]
    assert (code, out.splitlines()) == (0, lines + table)


def test_evaluate_and_predict_leave_the_run_unchanged(dashpot, my_task):
    run = complete_run(dashpot, my_task)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert dashpot("evaluate", run)[0] == dashpot("predict", run, "--out", "p.csv")[0] == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["new/p.csv", "p.NPZ"])
def test_predict_writes_the_outputs_of_the_model(dashpot, my_task, name):
    run = complete_run(dashpot, my_task)
    code, out, err = dashpot("predict", run, "--out", name, "--split", "train")
    lines = ["Predicting with the best checkpoint of a.", f"Split train, 12 rows: {name}"]
    assert (code, out.splitlines(), err) == (0, lines, "")
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    if name.endswith("csv"):
        rows = list(csv.reader(Path(name).read_text().splitlines()))
        assert rows[0] == ["index", "output_0"]
        assert [row[0] for row in rows[1:]] == [str(index) for index in range(12)]
        found = np.array([[float(row[1])] for row in rows[1:]], dtype=np.float32)
    else:
        found = np.load(name)["output"]
    batches = [load_model(run)(batch).detach() for batch in x.split(4)]
    assert np.array_equal(found, torch.cat(batches).numpy())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "a"], "predict: --out is missing; give a file that ends in .npz or .csv."),
        (["predict", "a", "--out", "p.txt"], "predict: --out must end in .npz or .csv, got p.txt."),
        (["predict", "a", "--out", "mine.py/p.csv"], "Cannot write mine.py/p.csv: "),
        (["predict", "a", "--out", "p.csv", "--which", "x"], "predict: which must be one of 'best', 'last', got 'x'."),
        (["evaluate", "a", "--accelerator", "gpu"], "evaluate: accelerator must be one of "),
        (["evaluate", "gone"], "gone is not the folder of a run: it has no run.toml."),
    ],
)
def test_invalid_arguments_print_one_line(dashpot, my_task, words, message):
    assert refused(dashpot(*words)).startswith(message)


def test_unknown_split_prints_the_known_ones(dashpot, my_task):
    run = complete_run(dashpot, my_task)
    for words in (["evaluate", run], ["predict", run, "--out", "p.csv"]):
        code, _, err = dashpot(*words, "--split", "test")
        assert (code, err) == (2, "Unknown split 'test'. Known: evaluation, train.\n")
    assert not Path("p.csv").exists()


# ---- formats --------------------------------------------------------------------------------------------------------


def test_npz_contains_an_array_for_each_tensor(tmp_path):
    outputs = {"a": (torch.ones(3, 2, 2), None), "b": torch.ones(3, dtype=torch.bfloat16)}
    assert write_predictions(tmp_path / "p.npz", outputs) == 3
    with np.load(tmp_path / "p.npz") as found:
        assert {name: (found[name].shape, str(found[name].dtype)) for name in found} == {
            "output.a.0": ((3, 2, 2), "float32"),
            "output.b": ((3,), "float32"),
        }


def test_csv_of_one_dimension_has_one_column(tmp_path):
    write_predictions(tmp_path / "p.csv", torch.tensor([0.1, 2.0], dtype=torch.float64))
    assert (tmp_path / "p.csv").read_text() == "index,output\n0,0.1\n1,2.0\n"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            torch.ones(2, 1, 1),
            r"at most two dimensions, got shape \(2, 1, 1\) for output; choose a .npz file",
        ),
        ((torch.ones(2), torch.ones(3)), "the columns of a .csv file must have equal lengths, got 2, 3"),
        ([torch.ones(2)], "outputs in a file must be tensors of equal shapes, got a list for output"),
    ],
)
def test_csv_of_other_outputs_raises_and_writes_nothing(tmp_path, outputs, message):
    with pytest.raises(ArgumentError, match=message):
        write_predictions(tmp_path / "p.csv", outputs)
    assert list(tmp_path.iterdir()) == []
