"""Results from CSV files: columns, dialects, irregular runs, and messages that name the line."""

from __future__ import annotations

import math

import pytest

from dashpot.comparison.csv_results import results_of_csv
from dashpot.comparison.judge import judge
from dashpot.errors import ArgumentError, DataError

PLAIN = """step,seed,method,loss
0,0,adam,2.3
10,0,adam,0.5
0,1,adam,2.2
10,1,adam,0.6
0,0,sgd,2.3
10,0,sgd,0.9
0,1,sgd,2.2
10,1,sgd,0.8
"""


@pytest.fixture
def read(tmp_path):
    """Return a function from the text of a file to its results."""

    def read(text, **options):
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return results_of_csv(path, **options)

    return read


def scores(results):
    return {(run.method, run.seed): run.score for run in results.runs}


def test_plain_file(read):
    found = read(PLAIN)
    assert (found.task, found.methods, found.seeds) == ("runs", ("adam", "sgd"), (0, 1))
    assert (found.rule.metric, found.rule.direction, found.rule.split) == ("loss", "min", "validation")
    assert scores(found) == {("adam", 0): 0.5, ("adam", 1): 0.6, ("sgd", 0): 0.9, ("sgd", 1): 0.8}
    curve = found.of("adam")[0].curves["validation loss"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([0, 10], [2.3, 0.5])
    assert [method.name for method in judge(found).methods] == ["adam", "sgd"]
    assert found.remarks == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(read, delimiter):
    assert scores(read(PLAIN.replace(",", delimiter))) == scores(read(PLAIN))


def test_semicolons_with_decimal_commas(read):
    assert scores(read(PLAIN.replace(",", ";").replace(".", ","))) == scores(read(PLAIN))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("step,seed,method,loss", "STEP, Seed ,Optimizer,Loss"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n\n,,,\n",
        lambda text: text.replace("10,0,adam", "1e1,0.0,adam"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n" + text,
    ],
    ids=["case", "crlf", "bom", "blank lines", "floats", "no last newline", "leading blank line"],
)
def test_variants_of_the_same_table(read, change):
    assert scores(read(change(PLAIN))) == scores(read(PLAIN))


def test_order_of_rows_is_free(read):
    header, *rows = PLAIN.splitlines()
    assert scores(read("\n".join([header, *rows[::-1]]))) == scores(read(PLAIN))


def test_quoted_names_with_delimiters_and_html(read):
    found = read('step,seed,method,loss\n1,0,"<b>adam, ""fast""</b>",0.5\n')
    assert found.methods == ('<b>adam, "fast"</b>',)


MANY = """step,seed,method,train_loss,val_accuracy,test_accuracy
0,0,adam,2.3,0.1,
5,0,adam,1.0,,
10,0,adam,0.5,0.8,0.79
"""


def test_sparse_columns_and_their_data(read):
    found = read(MANY)
    assert (found.rule.metric, found.rule.direction, found.rule.split) == ("accuracy", "max", "test")
    [run] = found.runs
    assert run.score == 0.79
    assert {name: curve.steps.tolist() for name, curve in run.curves.items()} == {
        "train loss": [0, 5, 10],
        "validation accuracy": [0, 10],
        "test accuracy": [10],
    }


def test_target_is_judged_on_validation_data(read):
    assert read(MANY, target=0.8).runs[0].steps_to_target == 10
    assert read(MANY, target=0.81).runs[0].steps_to_target == math.inf
    assert math.isnan(read(MANY).runs[0].steps_to_target)


@pytest.mark.parametrize(
    ("metric", "split"), [("train_loss", "train"), ("loss", "train"), ("VAL_accuracy", "validation")]
)
def test_metric_by_title_or_name(read, metric, split):
    assert read(MANY, metric=metric).rule.split == split


def test_other_metrics_need_a_direction(read):
    text = PLAIN.replace("loss", "score")
    with pytest.raises(ArgumentError, match=r"direction of 'score' must be given, max or min \(--direction\)"):
        read(text)
    assert read(text, direction="max").rule.direction == "max"


def test_several_unknown_metrics_need_a_choice(read):
    text = "step,seed,method,bleu,rouge\n1,0,a,0.5,0.6\n"
    with pytest.raises(ArgumentError, match=r"metric must be one of bleu, rouge \(--metric\), got None"):
        read(text)
    with pytest.raises(ArgumentError, match="Unknown metric"):
        read(text, metric="blue")
    assert read(text, metric="bleu", direction="max").rule.metric == "bleu"


@pytest.mark.parametrize("bad", ["nan", "NaN", "inf", "-inf"])
def test_nonfinite_value_is_a_divergence_with_the_first_value_as_score(read, bad):
    found = read(PLAIN.replace("10,1,sgd,0.8", f"5,1,sgd,{bad}"), target=0.85)
    run = found.of("sgd")[1]
    assert (run.status, run.score, run.steps_to_target, run.steps) == ("diverged", 2.2, math.inf, 10)
    assert found.remarks == ()


def test_divergence_at_the_first_value_has_the_worst_first_value_as_score(read):
    found = read(PLAIN.replace("0,1,sgd,2.2", "0,1,sgd,nan").replace("10,1,sgd,0.8\n", ""))
    assert scores(found)["sgd", 1] == 2.3


def test_diverged_run_without_step_zero_is_remarked(read):
    found = read("step,seed,method,loss\n1,0,a,1.0\n2,0,a,nan\n1,0,b,0.9\n2,0,b,0.5\n")
    assert found.remarks == ("Without a value at step 0, the score of a diverged run is its first value: a seed 0.",)
    assert judge(found).notes[-1] == found.remarks[0]


def test_runs_of_different_lengths_are_remarked(read):
    found = read(PLAIN + "20,1,sgd,0.7\n")
    assert scores(found)["sgd", 1] == 0.7
    assert found.remarks == ("The runs have different lengths, 10 to 20 steps; each score is the last value.",)


def test_missing_seeds(read):
    found = read(PLAIN + "10,2,adam,0.5\n")
    assert found.seeds == (0, 1, 2)
    assert any("incomplete: 5 of 6 runs" in note for note in judge(found).notes)


def test_one_seed_has_no_interval(read):
    findings = judge(read("step,seed,method,loss\n1,7,a,1.0\n1,7,b,0.9\n"))
    assert findings.seeds == (7,)
    assert findings.pairs[0].p is None
    assert math.isinf(findings.pairs[0].difference.low)


def test_run_without_the_metric_is_unfinished(read):
    found = read("step,seed,method,loss,accuracy\n1,0,a,1.0,0.5\n1,0,b,1.0,\n")
    assert [run.status for run in found.runs] == ["done", "unfinished"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty; a table of runs has the columns step, seed, method and a metric\."),
        ("\n\n", "is empty"),
        ("step,seed,method,loss\n", "has a header but no rows"),
        ("seed,method,loss\n0,a,1\n", "has no column 'step'; its columns are 'seed', 'method', 'loss'"),
        (
            f"step,{','.join(f'run {k} - loss' for k in range(99))}\n",
            "'run 6 - loss' and 92 more. Each row must have one",
        ),
        ("step,seed,method\n0,0,a\n", "has no column of a metric"),
        ("step,steps,seed,method,loss\n0,0,0,a,1\n", "has more than one column 'step'"),
        ("step,seed,method,loss,Loss\n0,0,a,1,1\n", "has more than one column 'loss'"),
        ("step,seed,method,loss\n0,0,a,1\n1,0,a\n", "line 3: 3 cells, but the header has 4"),
        ("step,seed,method,loss\nx,0,a,1\n", "line 2: step must be an integer >= 0, got 'x'"),
        ("step,seed,method,loss\n-1,0,a,1\n", "line 2: step must be an integer >= 0, got '-1'"),
        ("step,seed,method,loss\n1.5,0,a,1\n", "line 2: step must be an integer >= 0, got '1.5'"),
        ("step,seed,method,loss\n1,nan,a,1\n", "line 2: seed must be an integer >= 0, got 'nan'"),
        ("step,seed,method,loss\n1,inf,a,1\n", "line 2: seed must be an integer >= 0, got 'inf'"),
        ("step,seed,method,loss\n1,0,a,low\n", "line 2: loss must be a number, got 'low'"),
        ("step,seed,method,loss\n1,0,,1\n", "line 2: the method is empty"),
        (
            "step,seed,method,loss\n1,0,a,1\n2,0,a,1\n1,0,a,3\n",
            "line 4: step 1 of a seed 0 occurs twice, first in line 2",
        ),
        ('step,seed,method,loss\n1,0,"a"b,1\n', "line 2: not a valid CSV line"),
        (b"step,seed\xff", "is not a text file in UTF-8"),
        ("a,b\x00c\n", "has no column 'step'"),
    ],
)
def test_bad_files_are_rejected_with_the_line(read, text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=r"^Cannot read .*: (No such file|Is a dir)"):
            results_of_csv(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "direction must be"),
        ({"target": math.nan}, "target must be None or a number"),
        ({"margin": -1.0}, r"margin must be None or a number in \(0, inf\)"),
    ],
)
def test_bad_options(read, options, message):
    with pytest.raises(ArgumentError, match=message):
        read(PLAIN, **options)
