"""CSV files as other programs write them: comments, missing values, columns of text, invisible characters."""

from __future__ import annotations

import pytest

from dashpot.comparison.csv_results import results_of_csv
from dashpot.errors import ArgumentError, DataError

HEADER = "step,seed,method,loss"
ROWS = [f"{t},{s},{m},{1 / (t + 1) + s / 100}" for m in ("adam", "sgd") for s in (0, 1) for t in (0, 10, 20)]
PLAIN = "\n".join([HEADER, *ROWS])


def read(path, text, **options):
    file = path / "runs.csv"
    file.write_text(text, encoding="utf-8")
    return results_of_csv(file, **options)


@pytest.mark.parametrize(
    "text",
    [f"# made by x; 1, 2\n\n# y\n{PLAIN}", PLAIN.replace("\n", "\r"), f"\ufeff# x\r\n{PLAIN}\r\n"],
)
def test_comments_before_the_titles(tmp_path, text):
    assert read(tmp_path, text).runs[0].score == read(tmp_path, PLAIN).runs[0].score


def test_comments_after_the_titles_are_errors(tmp_path):
    with pytest.raises(DataError, match="line 14: 1 cells"):
        read(tmp_path, f"{PLAIN}\n# end")


@pytest.mark.parametrize("text", ["", "NA", "N/A", "null", "None"])
def test_missing_values(tmp_path, text):
    runs = read(tmp_path, f"{PLAIN}\n30,0,adam,{text}").runs
    assert runs[0].status == "done"
    assert runs[0].score == read(tmp_path, PLAIN).runs[0].score


def test_missing_last_values_are_named(tmp_path):
    text = PLAIN.replace(ROWS[2], "20,0,adam,")
    [remark] = read(tmp_path, text).remarks
    assert remark == "adam seed 0 has no loss after step 10 of 20; if it diverged, its values must be nan."
    [remark] = read(tmp_path, text.replace(ROWS[5], "20,1,adam,")).remarks
    assert "after step 10 of 20, and likewise 1 more run;" in remark


def test_evaluations_before_the_last_step_have_no_remark(tmp_path):
    rows = [f"{row},{'' if row.startswith('20') else 0.5}" for row in ROWS]
    assert not read(tmp_path, "\n".join([f"{HEADER},accuracy", *rows])).remarks


def test_columns_of_text_are_ignored(tmp_path):
    rows = [f"{row},pc{k}" for k, row in enumerate(ROWS)]
    found = read(tmp_path, "\n".join([f"{HEADER},host", *rows]))
    assert found.remarks == ("Columns of text are ignored: host.",)
    assert set(found.runs[0].curves) == {"validation loss"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN.replace(ROWS[1], "10,0,adam,bad"), r"line 3: loss must be a number, got 'bad'"),
        (PLAIN.replace(ROWS[0], "0,0,adam,first"), r"line 2: loss must be a number, got 'first'"),
        (f"{HEADER}\n0,0,adam,x\n", r"line 2: loss must be a number, got 'x'"),
        (PLAIN.replace(ROWS[1], "10,0,adam,1_0"), r"line 3: loss must be a number, got '1_0'"),
        (PLAIN.replace(ROWS[1], "1_0,0,adam,1"), r"line 3: step must be an integer >= 0, got '1_0'"),
        (PLAIN.replace("adam", "ad\u202eam"), r"line 2: the method contains an invisible character"),
        (PLAIN.replace("adam", '"a\nm"'), r"line 3: the method contains an invisible character"),
        ("# only\n# comments\n", "is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_metrics_of_training_data_come_last(tmp_path):
    rows = [f"{t},{s},a,{s + 1},.5,.9" for s in (0, 1) for t in (0, 1)]
    found = read(tmp_path, "\n".join(["step,seed,method,val_loss,test_loss,train_acc", *rows]))
    assert (found.rule.metric, found.rule.split) == ("loss", "test")


def test_known_metrics_are_listed_once(tmp_path):
    with pytest.raises(ArgumentError, match=r"Known: loss\."):
        read(tmp_path, PLAIN, metric="acc")
