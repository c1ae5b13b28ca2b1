"""`dashpot train` and `lr-find` with a class of torch.optim, and with an optimizer in a file."""

from __future__ import annotations

import dataclasses

import pytest
from run_support import interrupted_start, quiet

from dashpot.errors import ArgumentError, RunError
from dashpot.training.run.folder import default_folder_name
from dashpot.training.run.plan import RunPlan
from dashpot.training.run.run import lr_range_test, resume, start

FILE = """
import torch


class Own(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
"""


def changed(settings, **values):
    return dataclasses.replace(settings, **{"lr": None, **values})


@pytest.mark.slow
def test_interrupted_run_of_a_torch_class_resumes_to_identical_results(settings, tmp_path, monkeypatch):
    options = {"schedule": "cosine", "max_norm": 0.5, "nonfinite": "skip", "no_decay": ("bias",)}
    given = changed(settings, optimizer="torch.optim.Muon", **options)
    whole = start(given, tmp_path / "whole", write_line=quiet).run
    interrupted_start(given, tmp_path / "run", monkeypatch, 10)
    resumed = resume(tmp_path / "run", write_line=quiet).run
    assert (resumed.loss, resumed.lr, resumed.epochs[-1]["eval"]) == (whole.loss, whole.lr, whole.epochs[-1]["eval"])
    assert len(set(whole.lr)) == len(whole.lr)
    assert "on 1 hidden matrix: 0.weight" in whole.header["recipe"]
    assert "max_norm=0.5, nonfinite='skip'" in whole.header["call"]


def test_changed_optimizer_file_is_rejected_on_resume(settings, tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(FILE)
    given = changed(settings, optimizer=f"{file}:Own")
    interrupted_start(given, tmp_path / "run", monkeypatch, 10)
    file.write_text(FILE + "# changed\n")
    before = (tmp_path / "run" / "run.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"The optimizer file of .* has changed: SHA-256 saved \w+, current \w+"):
        resume(tmp_path / "run", write_line=quiet)
    assert (tmp_path / "run" / "run.jsonl").read_bytes() == before
    assert resume(tmp_path / "run", override=True, write_line=quiet).status == "done"


def test_names_of_folders_have_no_path(settings):
    assert default_folder_name(changed(settings, optimizer="/mine/own.py:Own")).endswith("-own.Own-seed0")
    assert default_folder_name(changed(settings, optimizer="torch.optim.RAdam")).endswith("-torch-RAdam-seed0")


def test_unknown_class_is_rejected_before_anything_is_written(settings, tmp_path):
    with pytest.raises(ArgumentError, match=r"Unknown class of torch.optim 'Radam': did you mean 'RAdam'"):
        start(changed(settings, optimizer="torch.optim.Radam"), tmp_path / "run", write_line=quiet)
    assert not (tmp_path / "run").exists()


def test_schedule_of_the_loop_requires_a_number_of_steps(settings):
    plan = RunPlan.of(changed(settings, optimizer="torch.optim.RAdam", schedule="cosine"))
    assert [type(callback).__name__ for callback in plan.callbacks] == ["Schedule"]


@pytest.mark.slow
def test_range_test_accumulates_and_clips(settings):
    given = changed(settings, optimizer="torch.optim.SGD")
    plain = lr_range_test(given)
    assert lr_range_test(dataclasses.replace(given, accumulate=2)).losses != plain.losses
    assert lr_range_test(dataclasses.replace(given, max_norm=1e-3)).losses != plain.losses
