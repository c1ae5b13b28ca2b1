"""Runs started from Python: results, record, random state, folders and input errors."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from run_support import quiet

from dashpot.comparison import read_run
from dashpot.errors import ArgumentError, RunError
from dashpot.training import Learner
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.run import lr_range_test, resume, start


def test_run_restores_random_states_and_threads(settings, tmp_path):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()

    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    torch_state, before = torch.get_rng_state(), state()
    start(settings, tmp_path / "run", write_line=quiet)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert state() == before


def test_run_depends_on_no_random_state_but_its_seed(settings, tmp_path):
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(start(settings, tmp_path / str(seed), write_line=quiet).run.loss)
    assert losses[0] == losses[1]


def test_record_has_mean_loss_over_the_examples_of_each_step(settings, tmp_path, monkeypatch):
    """With gradient accumulation over 4 batches, each epoch has steps of 4+4+4+4 and 4+4+2 examples."""
    batches = []
    backward = Learner.backward

    def recording_backward(self):
        batches.append((self.batch.loss.item(), self.batch.size))
        backward(self)

    monkeypatch.setattr(Learner, "backward", recording_backward)
    run = start(dataclasses.replace(settings, accumulate=4, epochs=2), tmp_path / "run", write_line=quiet).run
    steps = [batches[0:4], batches[4:7], batches[7:11], batches[11:14]]
    expected = [sum(loss * size for loss, size in step) / sum(size for _, size in step) for step in steps]
    assert run.loss == pytest.approx(expected, rel=1e-14)
    assert run.header["steps_per_epoch"] == 2
    assert [epoch["steps"] for epoch in run.epochs] == [2, 4]
    assert run.lr == [0.05] * 4


def test_lr_range_test_returns_curve_and_writes_no_files(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = lr_range_test(settings)
    assert curve.lrs[0] < curve.lrs[-1]
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["small.py"]


def test_default_folders_are_numbered(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [RunFolder.create(None, settings, command=None).path.name for _ in range(3)]
    assert names == ["small-adamw-seed0", "small-adamw-seed0-2", "small-adamw-seed0-3"]


@pytest.mark.parametrize(
    "change",
    [{"set": {"beta": 1}}, {"set": {"betas": (0.9,)}}, {"schedule": "cosin"}, {"optimizer": "adamm"}],
    ids=["option", "value", "schedule", "optimizer"],
)
def test_invalid_setting_raises_before_anything_is_written(settings, tmp_path, change):
    with pytest.raises(ArgumentError):
        start(dataclasses.replace(settings, **change), tmp_path / "run", write_line=quiet)
    assert not (tmp_path / "run").exists()


def test_resume_of_a_folder_without_settings_raises(tmp_path):
    (tmp_path / "run.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"no run.toml"):
        resume(tmp_path, write_line=quiet)
    with pytest.raises(RunError, match="damaged"):
        read_run(tmp_path / "run.jsonl")
