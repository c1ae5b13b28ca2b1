"""Studies with classes of torch.optim and optimizers in files: execution, schedules, clipping, resume and workers."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from item_support import example_study, run_item
from study_support import Killed, numbers, toy

from dashpot.comparison import Study, StudyFolder, entry, read_run, run_study
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.study_names import StudyNames
from dashpot.tasks import get

REFUSED = ("Optimizer", "LBFGS", "SparseAdam")
CLASSES = sorted(
    name
    for name, item in vars(torch.optim).items()
    if inspect.isclass(item) and issubclass(item, torch.optim.Optimizer) and name not in REFUSED
)
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_optimizer.py"


@pytest.mark.slow
def test_every_torch_class_is_compared(tmp_path):
    study = Study(toy(), tuple(entry(f"torch.optim.{name}", "toy") for name in CLASSES), (0,), 1)
    runs = run_study(study, tmp_path / "out")
    assert [(run.entry, run.status) for run in runs] == [(f"torch-{name}", "done") for name in CLASSES]
    assert len({tuple(run.loss) for run in runs if run.entry not in ("torch-Adam", "torch-AdamW")}) == len(CLASSES) - 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_every_torch_class_is_compared_on_digits(tmp_path, name):
    task = get("digits", batch_size=400)  # three steps
    [run] = run_study(Study(task, (entry(f"torch.optim.{name}", "digits"),), (0,), 1, threads=1), tmp_path / "out")
    assert (run.status, len(run.loss)) == ("done", 3)


@pytest.mark.parametrize("schedule", [pytest.param("cosine", marks=pytest.mark.slow), "1cycle"])
def test_schedule_and_clipping_of_the_loop_equal_those_of_dashpot(tmp_path, schedule):
    options = {"max_norm": 0.1, "clip_value": 0.02}
    names = ("adam", "torch.optim.Adam")
    study = example_study(*(entry(name, "toy", lr=0.05, schedule=schedule, options=options) for name in names))
    own, foreign = run_study(study, tmp_path / "out")
    assert own.lr == pytest.approx(foreign.lr, rel=1e-12)
    assert own.loss == pytest.approx(foreign.loss, rel=1e-5)  # float32 rounding of eight steps
    assert len(set(foreign.lr)) > 4


@pytest.mark.parametrize("name", ["torch.optim.Muon", pytest.param(f"{EXAMPLE}:lion_and_adam", marks=pytest.mark.slow)])
def test_killed_run_resumes_to_identical_results(tmp_path, name):
    options = {"max_norm": 1.0}
    chosen = example_study(entry(name, "toy", schedule="cosine", options=options), epochs=3, evaluate_every=5)
    key = f"run/{chosen.entries[0].name}/0"

    def kill(steps):
        if steps == 7:
            raise Killed

    run_item(chosen, tmp_path / "whole", key)
    with pytest.raises(Killed):
        run_item(chosen, tmp_path / "out", key, on_step=kill)
    run_item(chosen, tmp_path / "out", key)
    whole, resumed = (read_run(StudyFolder(tmp_path / folder).item_record(key)) for folder in ("whole", "out"))
    assert numbers([resumed]) == numbers([whole])
    assert len(resumed.resumed) == 1


def test_changed_file_is_rejected_on_resume(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(EXAMPLE.read_text())
    run_study(Study(toy(), (entry(f"{file}:Lion", "toy"),), (0,), 1), tmp_path / "out")
    file.write_text(EXAMPLE.read_text() + "\n# changed\n")
    with pytest.raises(RunError, match=r"different settings: files.own.Lion: saved \"\w+\", current \"\w+\""):
        run_study(Study(toy(), (entry(f"{file}:Lion", "toy"),), (0,), 1), tmp_path / "out")


def test_own_settings_to_tune_are_known_to_the_study():
    entries = (entry("adamw", "toy"), entry(f"{EXAMPLE}:lion_and_adam", "toy"))
    spaces = Study(toy(), entries, (0,), 1, budget=2, tune=("lr", "adam_lr")).search_spaces
    assert [list(space) for space in spaces.values()] == [["lr"], ["lr", "adam_lr"]]
    with pytest.raises(ArgumentError, match="Unknown setting to tune 'adam_rate'"):
        Study(toy(), entries, (0,), 1, tune=("adam_rate",))


@pytest.mark.slow
def test_workers_rebuild_and_tune_optimizers_of_files(tmp_path):
    methods = f"torch.optim.RAdam:weight_decay=0.1,{EXAMPLE}:Lion:lr=0.001"
    design = {"budget": 2, "rate_seeds": 0, "threads": 1}
    study = StudyNames("digits", methods=methods, seeds=1, epochs=1, design=design).study()
    runs = run_study(study, tmp_path / "out", jobs=2)
    assert [run.entry for run in runs] == ["torch-RAdam-weight_decay-0.1", "own_optimizer.Lion-lr-0.001"]
    assert all(run.status == "done" for run in runs)
    assert runs[1].header["file_sha256"] == study.entries[1].file_sha256
