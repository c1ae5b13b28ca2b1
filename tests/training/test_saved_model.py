"""Models of runs: the evaluated weights of the best and the last checkpoint, and evaluation of splits."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from run_support import TASK, quiet

from dashpot import tasks
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.records import read_run
from dashpot.runs.settings import Settings
from dashpot.tasks import Problem
from dashpot.training import latest, load_model, read_newest
from dashpot.training.run.inference import evaluate_run, predict_run
from dashpot.training.run.run import start
from dashpot.training.state import checkpoint_file

SPLITS = """
from dashpot.training import SWA

def splits():
    task = build()
    def problem(seed):
        made = task.build(seed)
        x, y = made.train.x, made.train.y
        made.callbacks = [SWA(first_epoch=0)]
        made.test = Batches(x[7:20], y[7:20], 5)
        made.splits = {"half": Batches(x[:13], y[:13], 5), "predict": list(x.split(7))}
        return made
    return Task("splits", problem, epochs=3)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Return a run with `EMA`, and a run in bfloat16 of a task with splits and the callback `SWA`."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "task.py").write_text(TASK + SPLITS)
    common: dict[str, Any] = {"optimizer": "adamw", "lr": 0.05, "accelerator": "cpu", "threads": 1}
    averaged = Settings(task=f"{folder}/task.py:build", ema=0.9, epochs=4, keep=1, **common)
    split = Settings(task=f"{folder}/task.py:splits", epochs=2, precision="bf16", **common)
    start(averaged, folder / "averaged", write_line=quiet)
    start(split, folder / "split", write_line=quiet)
    return {"averaged": folder / "averaged", "split": folder / "split", "file": folder / "task.py"}


def means_of(path: Path) -> list[dict[str, float]]:
    return [epoch["eval"] for epoch in read_run(path / "run.jsonl").epochs]


def test_last_and_best_model_have_the_evaluated_averages(runs):
    every = means_of(runs["averaged"])
    number = max(range(4), key=lambda epoch: every[epoch]["accuracy"])  # of equal values, the first
    assert number < 3, "the best checkpoint must differ from the last one"
    last, best = evaluate_run(runs["averaged"], which="last"), evaluate_run(runs["averaged"], which="best")
    assert last == ("evaluation", 4, 28, every[-1])
    assert best == ("evaluation", number + 1, 7 * (number + 1), every[number])


def test_load_model_returns_averages_on_the_cpu_in_evaluation_mode(runs):
    model = load_model(runs["averaged"], "last")
    state = read_newest(runs["averaged"] / "checkpoints")
    averages = state["callbacks"]["EMA"]["averages"]
    for name, p in model.named_parameters():
        assert torch.equal(p, averages[name])
        assert not torch.equal(p, state["model"][name])
        assert p.requires_grad
        assert p.grad is None
    assert torch.equal(model.get_buffer("1.running_mean"), state["model"]["1.running_mean"])
    assert not any(module.training for module in model.modules())
    problem = tasks.get(f"{runs['file']}:build").build(0)
    assert tasks.evaluate(problem, model) == means_of(runs["averaged"])[-1]


def test_load_model_does_not_change_random_states(runs):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_model(str(runs["split"]))
    evaluate_run(runs["split"])
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluate_run_uses_the_precision_and_the_average_of_the_run(runs):
    found = evaluate_run(runs["split"], which="last")
    assert (found.epoch, found.means) == (2, means_of(runs["split"])[-1])
    state = read_newest(runs["split"] / "checkpoints")
    statistics = state["callbacks"]["SWA"]["statistics"]
    assert torch.equal(load_model(runs["split"], "last").get_buffer("1.running_mean"), statistics["1.running_mean"])
    assert not torch.equal(statistics["1.running_mean"], state["model"]["1.running_mean"])


@pytest.mark.parametrize("split", ["half", "train", "test"])
def test_evaluate_run_reads_the_chosen_split(runs, split):
    model = load_model(runs["split"])
    problem = tasks.get(f"{runs['file']}:splits").build(0)
    source = problem.splits["half"] if split == "half" else getattr(problem, split)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(source.x)
    found = evaluate_run(runs["split"], split)
    correct = tasks.accuracy(output, source.y).item()
    assert found.split == split
    assert found.means["accuracy"] == correct / len(source.x)


def test_predict_run_returns_outputs_in_the_order_of_the_data(runs):
    model = load_model(runs["averaged"])
    x = tasks.get(f"{runs['file']}:build").build(0).train.x
    found = predict_run(runs["averaged"], "train")
    torch.testing.assert_close(found.outputs, model(x).detach(), rtol=1e-6, atol=1e-6)  # batches of different sizes


def test_predict_run_reads_the_split_predict_by_default(runs):
    found, evaluation = predict_run(runs["split"]), predict_run(runs["split"], "evaluation")
    assert (found.split, len(found.outputs)) == ("predict", 26)
    torch.testing.assert_close(found.outputs, evaluation.outputs, rtol=1e-2, atol=1e-2)  # bfloat16
    assert predict_run(runs["averaged"]).split == "evaluation"


def test_predict_run_of_a_shuffling_loader_raises(tmp_path):
    source = TASK.replace("train = Batches(x, y, 4, shuffle=True, seed=seed)", LOADER)
    (tmp_path / "task.py").write_text("from torch.utils.data import DataLoader, TensorDataset\n" + source)
    settings = Settings(task=f"{tmp_path}/task.py", optimizer="sgd", lr=0.1, epochs=1, accelerator="cpu", threads=1)
    start(settings, tmp_path / "run", write_line=quiet)
    assert evaluate_run(tmp_path / "run", "train").means["accuracy"] > 0
    with pytest.raises(ArgumentError, match="split must have a fixed order, but the DataLoader of 'train' shuffles"):
        predict_run(tmp_path / "run", "train")


LOADER = "train = DataLoader(TensorDataset(x, y), 13, shuffle=True, generator=torch.Generator().manual_seed(seed))"


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("predict", "evaluate: split must have targets, but the batches of 'predict' have none"),
        ("halve", "Unknown split 'halve': did you mean 'half'"),
    ],
)
def test_evaluate_run_with_invalid_split_raises(runs, split, message):
    with pytest.raises(ArgumentError, match=message):
        evaluate_run(runs["split"], split)


def test_load_model_with_invalid_arguments_raises(runs, tmp_path):
    with pytest.raises(ArgumentError, match="load_model: which must be one of 'best', 'last', got 'first'"):
        load_model(runs["split"], "first")
    with pytest.raises(ArgumentError, match="load_model: run must be the path of a folder, got 3"):
        load_model(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no run\.toml"):
        load_model(tmp_path)


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "copy")
    return folder / "copy"


def test_load_model_without_best_or_without_checkpoint_raises(runs, tmp_path):
    run = copied(runs["split"], tmp_path)
    (run / "checkpoints" / "best.json").unlink()
    with pytest.raises(RunError, match="has no best checkpoint: no epoch was completed, or the metric"):
        load_model(run)
    load_model(run, "last")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match="contains no checkpoint"):
        load_model(run, "last")


def test_load_model_with_damaged_best_checkpoint_raises(runs, tmp_path):
    run = copied(runs["split"], tmp_path)
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="is damaged"):
        load_model(run)


def averages_of(state):
    return state["callbacks"]["EMA"]["averages"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["progress"].pop("position"), "is damaged: .*position"),
        (lambda state: averages_of(state).update(w=torch.ones(1)), "it has a different average of w"),
        (lambda state: averages_of(state).update({"0.bias": torch.ones(1)}), r"it has a different average of 0\.bias"),
    ],
)
def test_load_model_with_malformed_state_raises(runs, tmp_path, change, message):
    run = copied(runs["averaged"], tmp_path)
    path = latest(run / "checkpoints")
    assert path is not None
    change(state := checkpoint_file.read(path))
    checkpoint_file.write(path, state)
    with pytest.raises(RunError, match=message):
        load_model(run, "last")


def test_load_model_with_moved_task_file_names_the_setting(runs, tmp_path):
    run = copied(runs["split"], tmp_path)
    settings, moved = run / "run.toml", tmp_path / "moved.py"
    text = settings.read_text()
    settings.write_text(text.replace(str(runs["file"]), str(moved)))
    with pytest.raises(ArgumentError, match=r"If the file was moved, change `task` in .*run\.toml"):
        load_model(run)
    shutil.copy(runs["file"], moved)
    expected = load_model(runs["split"])
    assert all(torch.equal(a, b) for a, b in zip(load_model(run).parameters(), expected.parameters(), strict=True))


def test_load_model_of_a_changed_task_warns_or_raises(runs, tmp_path):
    run, file = copied(runs["split"], tmp_path), tmp_path / "task.py"
    settings = run / "run.toml"
    settings.write_text(settings.read_text().replace(str(runs["file"]), str(file)))
    file.write_text(runs["file"].read_text() + "\n")
    with pytest.warns(UserWarning, match="has changed since the run was started: task.file_sha256"):
        load_model(run)
    file.write_text(runs["file"].read_text().replace("8, 3)", "8, 3, bias=False)"))
    with (
        pytest.warns(UserWarning, match="has changed"),
        pytest.raises(RunError, match=r"4\.bias is only in the checkpoint"),
    ):
        load_model(run)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([1], "splits must be a mapping of names to data, got list"),
        ({1: []}, "splits must be a mapping of names to data, got dict"),
        ({"train": []}, "splits must have names other than 'train', 'evaluation' and 'test', .*, got 'train'"),
        ({"test": []}, "splits must have names .*, which are arguments of Problem, got 'test'"),
        ({"later": 3}, r"splits\['later'\] must be Batches, another Stream or a DataLoader, got int"),
    ],
)
def test_problem_with_invalid_splits_raises(splits, message):
    with pytest.raises(ArgumentError, match=f"^Problem: {message}"):
        Problem(torch.nn.Linear(1, 1), [(torch.ones(1, 1), 0)], print, splits=splits)
    assert re.match("splits", message)
