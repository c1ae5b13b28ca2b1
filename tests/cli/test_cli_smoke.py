"""`dashpot train --smoke`: two steps, an evaluation, a checkpoint and a resume before anything is written."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
from cli_support import WORDS, interrupt_at, refused, same_weights

from dashpot.comparison import read_run
from dashpot.training import EMA, Learner
from dashpot.training.distributed import launcher
from dashpot.training.run import run, smoke


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch) -> Path:
    """Return the empty folder in which smoke tests create their folders."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", partial(tempfile.TemporaryDirectory, dir=folder))
    return folder


def line(out: str) -> str:
    """Return the line of the smoke test, the second line of the output."""
    return out.splitlines()[1]


def test_smoke_test_leaves_the_run_unchanged(dashpot, my_task, temporary):
    code, out, err = dashpot("train", my_task, *WORDS, "--epochs", 2, "--smoke", "--out", "a")
    assert (code, err) == (0, "")
    first, _, rest = line(out).partition(": ")
    assert first.startswith("Smoke test passed in ")
    assert rest == "2 training batches, 1 evaluation batch, a checkpoint, and a resume with the same weights."
    assert dashpot("train", my_task, *WORDS, "--epochs", 2, "--out", "b")[0] == 0
    assert same_weights("a", "b")
    one, other = (read_run(Path(name, "run.jsonl")) for name in "ab")
    assert (one.loss, [e["eval"] for e in one.epochs]) == (other.loss, [e["eval"] for e in other.epochs])
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (("--accumulate", 2, "--ema", 0.9, "--log", "csv,jsonl", "--patience", 1, "--schedule", "1cycle"), 3),
        (("--steps", 5, "--evaluate-every", 2, "--max-norm", 1, "--nonfinite", "skip"), 2),
        pytest.param(("--no-decay", "bias", "--freeze", "bias:1", "--precision", "bf16"), 2, marks=pytest.mark.slow),
        pytest.param(("--schedule", "window:shape=logistic", "--precision", "fp16"), 2, marks=pytest.mark.slow),
    ],
)
def test_smoke_test_covers_the_options_of_the_run(dashpot, my_task, options, batches):
    code, out, err = dashpot("train", my_task, *WORDS, *options, "--smoke", "--out", "a")
    assert (code, err) == (0, "")
    assert f": {batches} training batches, 1 evaluation batch, " in line(out)
    assert line(out).endswith("a resume with the same weights.")


def test_failing_evaluation_is_found_before_a_folder_is_written(dashpot, my_task, monkeypatch, temporary):
    text = Path("mine.py").read_text()
    Path("mine.py").write_text(text.replace("Batches(x, y, 12))", "Batches(x[:, :1], y, 12))"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        dashpot("train", my_task, *WORDS, "--smoke")
    assert not Path("runs").exists()
    assert list(temporary.iterdir()) == []


def test_divergence_is_found_before_a_folder_is_written(dashpot, my_task):
    Path("mine.py").write_text(Path("mine.py").read_text().replace("y = x.sum(1, keepdim=True)", "y = x[:, :1] / 0"))
    with pytest.warns(RuntimeWarning, match="y contains inf") as warned:
        sentence = refused(dashpot("train", my_task, *WORDS, "--smoke"))
    assert sentence == "Smoke test: Diverged at step 1: the loss is inf."
    assert "dashpot-smoke" not in str(warned[0].message)


def test_state_that_cannot_be_restored_is_found(dashpot, my_task, monkeypatch):
    def load_state_dict(self, state):
        raise run.RunError("EMA: the state is damaged.")

    monkeypatch.setattr(EMA, "load_state_dict", load_state_dict)
    assert refused(dashpot("train", my_task, *WORDS, "--ema", 0.9, "--smoke")) == "EMA: the state is damaged."


def test_inexact_resume_is_reported(dashpot, my_task, monkeypatch):
    original, weights = smoke._difference, []
    monkeypatch.setattr(smoke, "_difference", lambda *models: weights.append(original(*models)) or 0.00123)
    _, out, _ = dashpot("train", my_task, *WORDS, "--smoke", "--out", "a")
    assert line(out).endswith("a checkpoint, and a resume with weights that differ by up to 0.001.")
    assert weights == [0.0]


def test_interrupted_smoke_test_exits_with_130_and_writes_nothing(dashpot, my_task, monkeypatch, temporary):
    interrupt_at(monkeypatch, 1)
    code, _, err = dashpot("train", my_task, *WORDS, "--smoke")
    assert (code, err.strip()) == (130, "Stopped.")
    assert not Path("runs").exists()
    assert list(temporary.iterdir()) == []


def test_smoke_with_resume_is_rejected(dashpot):
    assert (
        refused(dashpot("train", "--resume", "gone", "--smoke")) == "train: --smoke cannot be combined with --resume."
    )


def test_smoke_test_takes_two_steps_per_fit(dashpot, my_task, monkeypatch):
    steps, original = [], Learner.step
    monkeypatch.setattr(Learner, "step", lambda self: steps.append(self.steps) or original(self))
    assert dashpot("train", my_task, *WORDS, "--epochs", 1, "--smoke", "--out", "a")[0] == 0
    assert steps == [0, 1, 1, 0, 1, 2]  # two steps, the second one again after the resume, and the run


def test_smoke_test_of_several_processes_precedes_the_folder(dashpot, my_task, monkeypatch):
    """The processes of the smoke test get the same command, and their failure ends the command."""
    launched = []

    def launch(command, devices, resume_command):
        launched.append((command[3:], os.environ.get("DASHPOT_SMOKE_ONLY"), resume_command(), Path("a").exists()))
        return codes.pop(0)

    monkeypatch.setattr(launcher, "launch", launch)
    words = ("train", my_task, *WORDS, "--accelerator", "cpu", "--devices", 2, "--smoke", "--out", "a")
    codes = [2]
    assert dashpot(*words)[0] == 2
    assert not Path("a").exists()
    codes = [0, 0]
    assert dashpot(*words)[0] == 0
    only = (list(map(str, words)), "1", None, False)
    assert launched == [only, only, (["train", "--resume", "a"], None, "dashpot train --resume a", True)]


def test_launched_smoke_test_writes_no_folder(dashpot, my_task, monkeypatch):
    monkeypatch.setenv("DASHPOT_SMOKE_ONLY", "1")
    code, out, _ = dashpot("train", my_task, *WORDS, "--smoke")
    assert (code, line(out).partition(" in ")[0]) == (0, "Smoke test passed")
    assert not Path("runs").exists()
