"""Estimated cost of a study, and its confirmation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from study_support import study

from dashpot.comparison import study_cost as module
from dashpot.comparison.runner import run_study
from dashpot.comparison.study_cost import StudyCost, check_memory, confirm, stored_bytes, study_cost
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import RunError
from dashpot.runs import free_memory
from dashpot.tasks.gpt import GPT, GPTSize, token_cross_entropy


@pytest.mark.slow
def test_cost_covers_unfinished_runs_only(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STEP_SECONDS", 0.1)
    before = study_cost(study("adam", "sgd", seeds=(0, 1), epochs=1), tmp_path / "out", "toy")
    assert (before.runs, before.jobs) == (4, 1)
    assert before.seconds > 0
    assert before.memory > 2**20
    run_study(study("adam", "sgd", seeds=(0, 1), epochs=1), tmp_path / "out")
    after = study_cost(study("adam", "sgd", seeds=(0, 1), epochs=1), tmp_path / "out", "toy", jobs=4)
    assert (after.runs, after.seconds, str(after)) == (0, 0.0, "toy: all runs are finished.")


def test_folder_with_other_settings_raises_before_any_measurement(tmp_path, monkeypatch):
    first = study("adam", epochs=1)
    StudyFolder(tmp_path).prepare(first.settings(), None)
    monkeypatch.setattr(module, "_run_seconds", None)
    with pytest.raises(RunError, match=r"contains a comparison with different settings: epochs: saved 1, current 2"):
        study_cost(study("adam", epochs=2), tmp_path, "toy")


def test_more_processes_than_runs_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STEP_SECONDS", 0.1)
    assert study_cost(study("adam", epochs=1), tmp_path, "toy", jobs=8).jobs == 1


def test_slow_step_is_measured_with_a_part_of_its_batch(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(module, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(module, "_step", lambda problem, optimizer, x, y: sizes.append(len(x)))
    study_cost(study("adam", epochs=1), tmp_path, "toy")
    assert sizes == [2, 2]


def test_stored_bytes_of_a_gpt_grow_with_the_batch_and_compute_nothing():
    size = GPTSize(layers=2, heads=2, width=32, block=16)
    tokens = torch.zeros(6, 16, dtype=torch.int64)
    one, two, three = (sum(stored_bytes(GPT(65, size), token_cross_entropy, tokens[:k], tokens[:k])) for k in (2, 4, 6))
    assert two - one == three - two
    logits = 6 * 16 * 65 * 4
    assert three > logits


def cost(**changes) -> StudyCost:
    settings = {"name": "digits", "runs": 3, "jobs": 2, "memory": 3 * 2**30, "available": 4 * 2**30, "seconds": 10.0}
    return StudyCost(**{**settings, **changes})


def test_too_little_memory_names_both_numbers():
    with pytest.raises(RunError) as caught:
        check_memory(cost())
    assert str(caught.value) == (
        "digits needs about 6 GiB of memory, and 4 GiB are available; nothing was started. Fewer --jobs need less."
    )
    with pytest.raises(RunError, match=r"nothing was started\.$"):
        check_memory(cost(jobs=1, memory=5 * 2**30))


@pytest.mark.parametrize("changes", [{"jobs": 1}, {"available": None}, {"runs": 0}])
def test_sufficient_or_unknown_memory_is_accepted(changes):
    check_memory(cost(**changes))


def test_long_study_is_confirmed_on_a_terminal():
    asked = []
    confirm(3700.0, ask=lambda text: not asked.append(text))
    assert asked == ["This takes about 1 h 2 min. Start? [y/N] "]
    with pytest.raises(RunError, match=r"^Nothing was started\.$"):
        confirm(3700.0, ask=lambda _: False)


@pytest.mark.parametrize("arguments", [{"seconds": 3700.0, "yes": True}, {"seconds": 60.0}])
def test_no_question_with_yes_or_below_an_hour(arguments):
    asked = []
    confirm(**arguments, ask=lambda text: bool(asked.append(text)))
    assert asked == []


def test_hours_start_without_a_terminal():
    assert confirm(3700.0) is None


def test_further_reason_requires_yes_without_a_terminal():
    with pytest.raises(RunError, match=r"^No GPU\. Nothing was started; --yes starts it, for about 10 s\.$"):
        confirm(10.0, "No GPU.")
    confirm(10.0, "No GPU.", yes=True)
    confirm(10.0, "No GPU.", ask=lambda text: text.startswith("No GPU. This takes about 10 s."))


def test_available_memory_is_limited_by_the_control_group(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:      4096 kB\n")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "GROUP", tmp_path)
    cpu = torch.device("cpu")
    assert free_memory.available_memory(cpu) == 4096 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_memory.available_memory(cpu) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.available_memory(cpu) == 4096 * 1024
    monkeypatch.setattr(free_memory, "MEMINFO", Path("gone"))
    assert free_memory.available_memory(cpu) is None
