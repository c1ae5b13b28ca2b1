"""Records: strict JSON, readable after any interruption, with errors for damaged lines."""

from __future__ import annotations

import json
import math

import pytest
from study_support import finished, numbers

from dashpot.errors import RunError
from dashpot.runs.records import FORMAT, Run, epoch_lines, read_run
from dashpot.training import Divergence, Epoch
from dashpot.utils.strict_json import encode

HEADER = {"kind": "header", "format": FORMAT, "entry": "adam", "seed": 3}


def epoch(number: int = 1, **changes) -> Epoch:
    values = {
        "number": number,
        "steps": 2 * number,
        "train": {"loss": 0.5},
        "evaluation": {"loss": 0.25, "accuracy": 0.75},
        "loss": [0.625, 0.375],
        "lr": [0.1, 0.05],
        "cpu_s": 1.23456,
        "wall_s": 2.0,
    }
    return Epoch(**{**values, **changes})


def written(path, *lines: str) -> Run:
    path.write_text("".join(line + "\n" for line in (encode(HEADER), *lines)), encoding="utf-8")
    return read_run(path)


def test_written_record_reads_back(tmp_path):
    run = written(
        tmp_path / "r.jsonl", epoch_lines(epoch(1)), epoch_lines(epoch(2)), encode({"kind": "end", "status": "done"})
    )
    assert (run.entry, run.seed, run.status) == ("adam", 3, "done")
    assert run.loss == [0.625, 0.375] * 2
    assert run.lr == [0.1, 0.05] * 2
    assert [e["steps"] for e in run.epochs] == [2, 4]
    assert run.epochs[0]["eval"] == {"loss": 0.25, "accuracy": 0.75}
    assert run.epochs[0]["cpu_s"] == 1.2346


def test_constant_lr_is_stored_once_and_read_per_step(tmp_path):
    lines = epoch_lines(epoch(lr=[0.1, 0.1]))
    assert json.loads(lines.splitlines()[0])["lr"] == 0.1
    assert written(tmp_path / "r.jsonl", lines).lr == [0.1, 0.1]


def test_nonfinite_numbers_are_encoded_as_strict_json(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    lines = epoch_lines(epoch(loss=[math.inf, math.nan], evaluation={"loss": math.nan}))
    for line in lines.splitlines():
        json.loads(line, parse_constant=refuse)
    run = written(tmp_path / "r.jsonl", lines)
    assert run.loss[0] == math.inf
    assert math.isnan(run.loss[1])
    assert math.isnan(run.epochs[0]["eval"]["loss"])


def test_diverged_epoch_ends_the_record_without_means(tmp_path):
    lines = epoch_lines(epoch(train={}, evaluation={}, diverged=Divergence(1, "nan"), loss=[1.0, math.nan]))
    run = written(tmp_path / "r.jsonl", lines)
    assert run.epochs == []
    assert run.end == {"kind": "end", "status": "diverged", "step": 1, "loss": "nan"}


def test_truncated_record_reads_up_to_its_last_complete_line(tmp_path):
    path = tmp_path / "r.jsonl"
    whole = written(path, epoch_lines(epoch(1)), epoch_lines(epoch(2)), encode({"kind": "end", "status": "done"}))
    content = path.read_bytes()
    for length in range(len(encode(HEADER)) + 1, len(content) + 1):
        path.write_bytes(content[:length])
        run = read_run(path)
        assert whole.loss[: len(run.loss)] == run.loss
        assert whole.epochs[: len(run.epochs)] == run.epochs
        assert run.status == ("done" if length == len(content) else "unfinished")


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ('{"kind":"steps","first":0,', 2),
        ("not json", 2),
        ("[]", 2),
        ('{"kind":"gossip"}', 2),
        ('{"kind":"steps","first":5,"loss":[1],"lr":1}', 2),
        ('{"kind":"steps"}', 2),
        (encode(HEADER), 2),
        ('{"kind":"end","status":"diverged"}', 2),
        ('{"kind":"end","status":"failed"}', 2),
        ('{"kind":"end","status":"lost"}', 2),
        ('{"kind":"initial"}', 2),
        ('{"kind":"thinned","steps":[1,2],"loss":[1.0],"lr":[0.1,0.1]}', 2),
        ('{"kind":"thinned","steps":[1],"loss":["a"],"lr":[0.1]}', 2),
    ],
)
def test_damaged_line_error_names_file_and_line(tmp_path, line, where):
    with pytest.raises(RunError, match=rf"r\.jsonl is damaged at line {where}; delete it"):
        written(tmp_path / "r.jsonl", line, epoch_lines(epoch()))


@pytest.mark.parametrize(
    "late", ['{"kind":"initial","eval":{}}', '{"kind":"thinned","steps":[1],"loss":[1.0],"lr":[0.1]}']
)
def test_evaluation_of_the_untrained_model_and_thinned_losses_precede_all_steps(tmp_path, late):
    assert written(tmp_path / "r.jsonl", late).status == "unfinished"
    with pytest.raises(RunError, match="damaged at line 4"):
        written(tmp_path / "r.jsonl", epoch_lines(epoch()), late)


@pytest.mark.parametrize("status", ["failed", "pruned"])
def test_failed_and_pruned_runs_are_finished(tmp_path, status):
    end = {"kind": "end", "status": status, "error": "ValueError: broken", "test": {"loss": "nan"}}
    run = written(tmp_path / "r.jsonl", encode(end))
    assert run.status == status
    assert run.end is not None
    assert math.isnan(run.end["test"]["loss"])


def test_line_after_the_end_is_rejected(tmp_path):
    with pytest.raises(RunError, match="damaged at line 3"):
        written(tmp_path / "r.jsonl", encode({"kind": "end", "status": "done"}), epoch_lines(epoch()))


@pytest.mark.parametrize("content", [b"", b'{"kind":"hea', b"\xff\xfe\n", b'{"kind":"steps","first":0}\n'])
def test_record_without_header_is_rejected(tmp_path, content):
    (tmp_path / "r.jsonl").write_bytes(content)
    with pytest.raises(RunError, match=r"r\.jsonl is damaged"):
        read_run(tmp_path / "r.jsonl")


def test_unknown_format_and_missing_file_have_their_own_errors(tmp_path):
    (tmp_path / "r.jsonl").write_text(encode({**HEADER, "format": 99}) + "\n")
    with pytest.raises(RunError, match=f"format 99; this version of dashpot reads format {FORMAT}"):
        read_run(tmp_path / "r.jsonl")
    with pytest.raises(RunError, match=r"Cannot read the record .*gone"):
        read_run(tmp_path / "gone.jsonl")


def test_header_of_a_study_run_is_complete(tmp_path):
    [run] = finished(tmp_path / "out", "adamw")
    header = run.header
    assert header["call"] == "dashpot.AdamW(model.parameters(), lr=0.05)"
    assert header["recipe"].startswith("Recipe(")
    assert header["settings"]["lr"] == 0.05
    assert header["task"]["config"] == {"batch_size": 6}
    assert header["task"]["parameters"] == 5 * 6 + 6 + 12 + 6 * 2 + 2
    assert set(header["versions"]) == {"dashpot", "torch", "numpy", "python"}
    assert set(header["machine"]) == {"processor", "cores", "threads", "system"}
    assert header["steps_per_epoch"] == 4
    assert len(run.loss) == 12
    assert numbers([read_run(run.path)]) == numbers([run])
