"""Results of separate runs of `dashpot train`: methods, seeds, and runs that cannot be compared."""

from __future__ import annotations

import json
import math

import pytest

from dashpot.comparison import judge, results_of_runs
from dashpot.errors import RunError
from dashpot.runs.settings import Settings, write_settings

SCORE = {"metric": "accuracy", "direction": "max", "phase": "eval", "target": 0.8, "split": "test", "margin": 0.01}


@pytest.fixture
def make(tmp_path):
    """Return a function that writes the folder of a run with scores after 10, 20, ... steps."""

    def make(name, scores, *, optimizer="adam", seed=0, status="done", header=None, **settings):
        folder = tmp_path / name
        folder.mkdir()
        run = Settings(task="digits", optimizer=optimizer, seed=seed, **settings)
        write_settings(folder / "run.toml", run, {})
        first = {
            "kind": "header",
            "format": 1,
            "entry": optimizer,
            "seed": seed,
            "lr": run.lr or 0.01,
            "call": f"dashpot.{optimizer}(lr={run.lr})",
            "recipe": "Recipe()",
            "task": {"name": "digits", "description": "digits", "config": {"batch_size": 50}, "parameters": 7},
            "score": SCORE,
            "epochs": 4,
            "steps_per_epoch": 10,
            "versions": {"torch": "2.9"},
            "machine": {"processor": "cpu", "threads": 1, "cores": 2, "system": "Linux"},
            "started": "2026-01-01",
            "run": run.to_dict(),
            **(header or {}),
        }
        lines = [first]
        for k, score in enumerate(scores, start=1):
            means = {"loss": 1.0, "accuracy": score}
            lines += [
                {"kind": "steps", "first": 10 * k - 10, "loss": [1.0] * 10, "lr": 0.1},
                {
                    "kind": "epoch",
                    "epoch": k,
                    "steps": 10 * k,
                    "train": means,
                    "eval": means,
                    "cpu_s": 1.0,
                    "wall_s": 2.0,
                },
            ]
        if status is not None:
            lines.append({"kind": "end", "status": status, "step": 3, "loss": "nan"})
        (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


def test_seeds_of_two_methods(make):
    paths = [
        make(f"{name}{seed}", [0.5, 0.9], optimizer=name, seed=seed) for name in ("adam", "sgd") for seed in (0, 1)
    ]
    found = results_of_runs(paths)
    assert (found.task, found.methods, found.seeds) == ("digits", ("adam", "sgd"), (0, 1))
    assert (found.rule.split, found.rule.target, found.rule.margin) == ("validation", 0.8, 0.01)
    run = found.of("sgd")[1]
    assert (run.score, run.steps_to_target, run.steps, run.cpu_s, run.wall_s) == (0.9, 20, 20, 2.0, 4.0)
    assert run.curves["validation accuracy"].steps.tolist() == [10, 20]
    assert found.remarks == ()
    assert found.recipes["adam"] == ("dashpot.adam(lr=None)", "Recipe()")


def test_settings_make_methods(make):
    paths = [
        make("a", [0.9], lr=0.1, schedule="cosine"),
        make("b", [0.9], lr=0.2, schedule="cosine"),
        make("c", [0.9], lr=0.2, schedule="cosine", set={"betas": 0.5}),
        make("d", [0.9], optimizer="sgd"),
    ]
    assert results_of_runs(paths).methods == (
        "adam (lr 0.1, betas default)",
        "adam (lr 0.2, betas default)",
        "adam (lr 0.2, betas 0.5)",
        "sgd",
    )


def test_settings_without_effect_do_not_make_methods(make):
    paths = [make("a", [0.9], keep=1, threads=1), make("b", [0.9], seed=1, watch=True, log=("csv",))]
    assert results_of_runs(paths).methods == ("adam",)


def test_two_runs_of_a_seed(make):
    with pytest.raises(RunError, match=r"adam seed 0 occurs twice, in .*a and .*b; remove one of the folders\.$"):
        results_of_runs([make("a", [0.9]), make("b", [0.8])])


def test_diverged_and_unfinished_runs(make):
    paths = [
        make("a", [0.3, 0.9]),
        make("b", [0.4, 0.5], seed=1, status="diverged"),
        make("c", [], seed=2, status="diverged"),
        make("d", [0.5], seed=3, status=None),
    ]
    found = results_of_runs(paths)
    assert [run.status for run in found.of("adam")] == ["done", "diverged", "diverged", "unfinished"]
    assert [run.score for run in found.of("adam")] == [0.9, 0.4, 0.3, None]
    assert [run.steps_to_target for run in found.of("adam")][:3] == [20, math.inf, math.inf]
    assert any("diverged run is its first value: adam seed 1, adam seed 2" in note for note in judge(found).notes)


def test_completed_run_with_a_score_that_is_not_finite_has_diverged(make):
    found = results_of_runs([make("a", [0.3, "nan"]), make("b", [0.9, 0.9], seed=1)])
    assert [(run.status, run.score, run.steps_to_target) for run in found.runs] == [
        ("diverged", 0.3, math.inf),
        ("done", 0.9, 10),
    ]


def test_different_lengths_are_remarked(make):
    found = results_of_runs([make("a", [0.5, 0.9]), make("b", [0.9], seed=1)])
    assert found.remarks == ("The runs have different lengths, 10 to 20 steps; each score is the last value.",)


def test_different_tasks(make):
    other = {"task": {"name": "mnist", "config": {"batch_size": 50}, "parameters": 7}}
    with pytest.raises(RunError, match=r"different tasks cannot be compared: .*a is on digits, .*b on mnist"):
        results_of_runs([make("a", [0.9]), make("b", [0.9], seed=1, header=other)])


def test_different_settings_of_the_task(make):
    other = {"task": {"name": "digits", "config": {"batch_size": 64}, "parameters": 7}}
    with pytest.raises(RunError, match=r"settings of the task .*: batch_size is 50 in .*a and 64 in .*b\.$"):
        results_of_runs([make("a", [0.9]), make("b", [0.9], seed=1, header=other)])


def test_different_scores(make):
    with pytest.raises(RunError, match="different scores cannot be compared"):
        results_of_runs([make("a", [0.9]), make("b", [0.9], seed=1, header={"score": {**SCORE, "target": 0.7}})])


def test_task_without_validation_data(make):
    found = results_of_runs([make("a", [0.6, 0.9], header={"score": {**SCORE, "phase": "train", "split": "train"}})])
    assert (found.rule.split, found.of("adam")[0].score) == ("train", 0.9)


def test_folders_that_are_not_runs(make, tmp_path):
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no run\.toml"):
        results_of_runs([tmp_path])
    folder = make("a", [0.9])
    (folder / "run.jsonl").unlink()
    with pytest.raises(RunError, match="has no record to report"):
        results_of_runs([folder])
