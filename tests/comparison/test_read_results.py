"""Results read from the folder of a study with tuning, sensitivity, a divergence and a crash."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from study_support import diverging, study, toy

from dashpot.comparison import Entry, Study, judge, results_of_folder, run_study
from dashpot.comparison.record_results import thinned
from dashpot.comparison.report_inputs import results_of_paths
from dashpot.comparison.table import text_summary
from dashpot.errors import ArgumentError, RunError


class Crashing(torch.optim.SGD):
    """An optimizer that raises an error in its third step."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise ValueError("<b>broken</b>\nstep")
        return super().step(closure)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    entries = (*study("adam", "sgd").entries, diverging(), Entry("crashing", Crashing, 0.1))
    run_study(Study(toy(), entries, (0, 1, 2), 1, budget=2, tune=("lr",), rate_seeds=1), out, command="dashpot x")
    return out


@pytest.fixture(scope="module")
def found(folder):
    return results_of_folder(folder)


def statuses(found):
    return {name: {run.status for run in found.of(name)} for name in found.methods}


def test_settings_of_the_study(found):
    assert (found.task, found.description, found.command) == ("toy", "two classes of points", "dashpot x")
    assert found.methods == ("adam", "sgd", "too-fast", "crashing")
    assert found.seeds == (0, 1, 2)
    assert (found.rule.metric, found.rule.direction, found.rule.split) == ("accuracy", "max", "validation")
    assert found.rule.target == 0.8


def test_runs_of_every_status(found):
    assert statuses(found) == {"adam": {"done"}, "sgd": {"done"}, "too-fast": {"diverged"}, "crashing": {"failed"}}
    failed = found.of("crashing")[0]
    assert (failed.score, failed.error) == (None, "ValueError: <b>broken</b> step")
    assert math.isnan(failed.steps_to_target)


def test_diverged_run_has_the_first_score_and_misses_the_target(found):
    run = found.of("too-fast")[0]
    assert run.score == run.curves["validation accuracy"].values[0]
    assert run.steps_to_target == math.inf
    assert run.steps == 4


def test_curves_begin_at_the_untrained_model_and_end_at_the_score(found):
    run = found.of("adam")[1]
    curve = run.curves["validation accuracy"]
    assert (curve.steps[0], curve.steps[-1]) == (0, 4)
    assert curve.values[-1] == run.score
    assert len(run.curves["train loss"].steps) == 4
    met = curve.steps[curve.values >= 0.8]
    assert run.steps_to_target == (met[0] if len(met) else math.inf)


def test_costs_of_a_run(found):
    run = found.of("adam")[0]
    assert run.cpu_s >= 0
    assert run.wall_s > 0
    assert run.state_bytes > 0
    assert found.of("crashing")[0].cpu_s is None


def test_trials_and_the_selected_one(found):
    trials = [trial for trial in found.trials if trial.method == "adam"]
    assert [trial.number for trial in trials] == [0, 1]
    assert trials[0].values == {"lr": 0.05}
    best = max(trials, key=lambda trial: trial.score)
    assert [trial.selected for trial in trials] == [trial is best for trial in trials]
    assert found.of("adam")[0].lr == best.values["lr"]
    assert {trial.score for trial in found.trials if trial.method == "too-fast"} == {None}
    assert {trial.status for trial in found.trials if trial.method == "crashing"} == {"failed"}


def test_rate_runs(found):
    assert {(run.factor, run.seed) for run in found.rate_runs if run.method == "adam"} == {
        (factor, 0) for factor in (0.1, 0.5, 2.0, 10.0)
    }
    assert all(run.score is not None for run in found.rate_runs if run.method in ("adam", "too-fast"))


def test_recipes_have_the_selected_rate(found):
    rate = found.of("adam")[0].lr
    assert f"lr={rate!r}" in found.recipes["adam"][0]
    assert found.recipes["crashing"][0].startswith("test_read_results.Crashing(")


def test_protocol_and_facts(found):
    protocol, facts = dict(found.protocol), dict(found.facts)
    assert protocol["Length"] == "1 epoch, 4 steps"
    assert protocol["Tuning"].startswith(
        "2 trials per method with seed 1000: the given settings, then a scrambled Sobol"
    )
    assert protocol["Pruning"] == "none"
    assert "lr 3.33333e-05 to 0.05 (log)" in protocol["Search space of adam"]
    assert protocol["Sensitivity"] == "learning rate times 0.1, 0.5, 2, 10, seeds 0"
    assert facts["Task"] == "62 parameters; batch_size 6"
    assert "torch" in facts["Versions"]


def test_findings_of_the_folder(found):
    text = text_summary(judge(found))
    assert "crashing: 3 of 3 runs failed" in " ".join(text.split())
    assert "too-fast: 3 of 3 runs diverged" in " ".join(text.split())


def test_unfinished_study(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    for path in (tmp_path / "out" / "runs").glob("sgd-*"):
        path.unlink()
    record = tmp_path / "out" / "runs" / "adam-seed2.jsonl"
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:4]))
    found = results_of_folder(tmp_path / "out")
    assert found.of("sgd") == ()
    assert found.of("adam")[2].status == "unfinished"
    assert any(note.startswith("The comparison is incomplete: 8 of 12 runs") for note in judge(found).notes)


def test_study_with_trials_only(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs")
    found = results_of_folder(tmp_path / "out")
    assert len(found.trials) == 8
    assert judge(found).headline == "No run has a score yet."


def test_study_without_records(folder, tmp_path):
    shutil.copy(folder / "study.json", tmp_path)
    with pytest.raises(RunError, match=r"has no records to report; run the comparison first\.$"):
        results_of_folder(tmp_path)


def test_study_of_the_old_format(folder, tmp_path):
    old = json.loads((folder / "study.json").read_text()) | {"format": 1}
    (tmp_path / "study.json").write_text(json.dumps(old))
    with pytest.raises(RunError, match="older version of dashpot"):
        results_of_folder(tmp_path)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 2}', ""])
def test_damaged_study_file(damage, tmp_path):
    (tmp_path / "study.json").write_text(damage)
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        results_of_folder(tmp_path)


def test_damaged_record(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    record = tmp_path / "out" / "tuning" / "adam-trial1.jsonl"
    header, _, *rest = record.read_text().splitlines()
    record.write_text("\n".join([header, "{", *rest, ""]))
    with pytest.raises(RunError, match=r"adam-trial1\.jsonl is damaged"):
        results_of_folder(tmp_path / "out")


def test_several_folders_of_one_task_have_different_names(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    found = results_of_paths([folder, tmp_path / "out"])
    assert [each.task for each in found] == [f"toy ({folder})", f"toy ({tmp_path / 'out'})"]


def test_empty_and_foreign_folders(tmp_path):
    with pytest.raises(RunError, match=r"is not a comparison: the folder is empty\.$"):
        results_of_paths([tmp_path])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RunError, match=r"the folder has neither study\.json nor run\.toml\.$"):
        results_of_paths([tmp_path])
    with pytest.raises(RunError, match="cannot read the folder"):
        results_of_paths([tmp_path / "none"])
    with pytest.raises(ArgumentError, match="at least one folder"):
        results_of_paths([])


def test_thinned_losses_are_means_that_keep_divergence():
    curve = thinned(range(1, 1001), [1.0] * 999 + [math.inf], points=10)
    assert curve.steps.tolist() == list(range(100, 1001, 100))
    assert curve.values.tolist() == [1.0] * 9 + [math.inf]
    assert thinned([1], [2.0]).values.tolist() == [2.0]
