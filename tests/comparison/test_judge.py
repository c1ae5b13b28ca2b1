"""Findings of synthetic results: order, groups, verdicts, headline and notes in regular and irregular studies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import results_support
from results_support import CASES, case, results

from dashpot.comparison.judge import judge
from dashpot.comparison.results import JudgedRun
from dashpot.comparison.score_matrix import adjusted_means, score_matrix
from dashpot.comparison.table import markdown_summary, text_summary
from dashpot.errors import ArgumentError

FAST = [name for name in CASES if not name.startswith("many")]


def check_findings(found):
    """Check the properties of all findings."""
    given = found.results
    assert sorted(method.name for method in found.methods) == sorted(given.methods)
    without = [method.mean is None for method in found.methods]
    assert without == sorted(without)
    rank = {method.name: k for k, method in enumerate(found.methods)}
    scored = {method.name for method in found.methods if method.mean is not None}
    assert {frozenset((pair.better, pair.other)) for pair in found.pairs} == {
        frozenset((a, b)) for a in scored for b in scored if a != b
    }
    groups = {method.name: method.group for method in found.methods}
    assert [groups[method.name] is None for method in found.methods] == without
    if scored:
        assert found.methods[0].group == 1
    complete = all(math.isfinite(score) for method in found.methods for score in method.scores if method.mean)
    for pair in found.pairs:
        assert given.rule.sign * pair.difference.estimate >= 0 or math.isinf(pair.difference.low)
        assert pair.verdict in ("better", "equivalent", "undecided")
        if pair.verdict == "better":
            assert pair.difference.excludes(0)
            assert pair.p is not None
            assert pair.p <= 0.05
        if complete:
            assert rank[pair.better] < rank[pair.other]
        for name in (pair.better, pair.other):
            assert name in pair.sentence
    for method in found.methods:
        assert len(method.scores) == len(found.seeds)
        count = sum(map(math.isfinite, method.scores))
        assert (method.sd is None) == (count < 2)
        if count == 1:
            assert math.isinf(method.mean.low)
    assert found.headline.endswith(".")
    assert all(note.endswith(".") for note in found.notes)


@pytest.mark.parametrize("name", FAST)
def test_findings_of_every_case_are_consistent(name):
    check_findings(judge(case(name)))


@pytest.mark.parametrize("first", range(0, 20, 4))
def test_findings_of_random_results_are_consistent(first):
    for seed in range(first, first + 4):
        found = judge(results_support.random_results(seed))
        check_findings(found)
        text_summary(found)
        markdown_summary(found)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20, 420, 40))
def test_findings_of_many_random_results_are_consistent(first):
    for seed in range(first, first + 40):
        check_findings(judge(results_support.random_results(seed)))


def by_name(found):
    return {method.name: method for method in found.methods}


def with_scores(table, **parameters):
    """Return results with the scores of a table {method: scores by seed}, None for a failed run."""
    seeds = len(next(iter(table.values())))
    made = results(methods=tuple(table), seeds=seeds, **parameters)
    runs = [
        replace(run, score=score, status="failed" if score is None else run.status)
        for name, scores in table.items()
        for run, score in zip(made.of(name), scores, strict=True)
    ]
    return replace(made, runs=tuple(runs))


def test_mean_and_deviation_of_a_method():
    found = by_name(judge(with_scores({"a": [0.9, 0.84, 0.78]})))["a"]
    assert found.mean.estimate == pytest.approx(0.84, abs=1e-12)
    assert found.sd == pytest.approx(0.06, abs=1e-12)  # sqrt((.0036 + 0 + .0036)/2)
    assert found.mean.high - found.mean.estimate == pytest.approx(4.302653 * 0.06 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("metric", "order"), [("accuracy", ["b", "a"]), ("loss", ["a", "b"])])
def test_order_follows_the_direction(metric, order):
    found = judge(with_scores({"a": [0.1, 0.1], "b": [0.9, 0.91]}, metric=metric))
    assert [method.name for method in found.methods] == order
    assert found.pairs[0].better == order[0]


def test_equal_methods_keep_the_order_of_the_settings():
    found = judge(with_scores({"z": [0.5, 0.6], "a": [0.6, 0.5], "m": [0.5, 0.6]}))
    assert [method.name for method in found.methods] == ["z", "a", "m"]


def test_missing_run_with_an_unfavourable_seed_does_not_improve_the_rank():
    """Method b is better on every common seed; the plain mean of a, which lacks the bad seed, is larger."""
    found = judge(with_scores({"a": [0.80, 0.81, None], "b": [0.82, 0.83, 0.50]}))
    assert [method.name for method in found.methods] == ["b", "a"]
    assert by_name(found)["a"].mean.estimate > by_name(found)["b"].mean.estimate


def test_methods_with_equal_scores_on_their_common_seeds():
    found = judge(with_scores({"a": [0.8, 0.9, 0.7], "b": [0.8, 0.9, None], "c": [0.1, 0.3, 0.2]}, margin=None))
    pair = next(pair for pair in found.pairs if {pair.better, pair.other} == {"a", "b"})
    assert (pair.difference.estimate, pair.p) == (0, 1)


def test_adjusted_means_of_unconnected_rows_are_plain():
    values = np.array([[1.0, 2.0, np.nan, np.nan], [np.nan, np.nan, 5.0, 7.0], [np.nan] * 4])
    assert adjusted_means(values)[:2].tolist() == [1.5, 6.0]
    assert math.isnan(adjusted_means(values)[2])


def test_seeds_without_scores_are_omitted():
    matrix = score_matrix(with_scores({"a": [0.8, None, 0.9], "b": [0.7, None, 0.6]}))
    assert matrix.seeds == (0, 2)
    assert matrix.values.tolist() == [[0.8, 0.9], [0.7, 0.6]]


def test_headline_of_a_single_best_method():
    found = judge(case("clear"))
    assert found.headline.startswith("adamw is best: test accuracy .8810, ahead of the next method, adam, by .0244 (95")


def test_headline_of_ties():
    assert judge(case("tied")).headline == (
        "No single best method: adamw, adam, sgd and nag are not separated (5 seeds)."
    )
    table = {"a": [0.80, 0.81, 0.82, 0.83], "b": [0.81, 0.80, 0.83, 0.82], "c": [0.50, 0.515, 0.52, 0.53]}
    assert judge(with_scores(table)).headline == (
        "No single best method: a and b are not separated (4 seeds); c is worse than both."
    )


def test_headline_of_equivalent_methods_does_not_name_a_best_one():
    steady = {"a": [0.8000, 0.8100, 0.8200], "b": [0.8005, 0.8105, 0.8206]}
    found = judge(with_scores(steady))
    assert (found.pairs[0].verdict, found.methods[1].group) == ("equivalent", 1)
    assert found.headline == "b and a are equivalent in test accuracy (3 seeds)."


@pytest.mark.parametrize(
    ("name", "headline"),
    [
        ("no runs", "No run has a score yet."),
        ("all unfinished", "No run has a score yet."),
        ("all failed", "No run has a score: there is no result."),
        ("all diverged", "Every run with a score diverged: there is no result."),
        ("one run", "adamw: test accuracy .880."),
        ("one method", "adamw: test accuracy .8810 (95 % interval .8787 to .8832), 5 seeds."),
        ("one seed", "Undecided: the methods share fewer than two seeds. adamw has the best test accuracy, .880."),
    ],
)
def test_headline_without_verdict(name, headline):
    assert judge(case(name)).headline == headline


def test_headline_of_the_only_scored_method():
    found = judge(with_scores({"a": [0.8, 0.9], "b": [None, None], "c": [None, None]}))
    assert found.headline.endswith("2 seeds. The other methods have no score.")


def test_one_seed_gives_neither_interval_nor_verdict():
    found = judge(case("one seed"))
    assert all(math.isinf(pair.difference.low) and math.isinf(pair.difference.high) for pair in found.pairs)
    assert {pair.verdict for pair in found.pairs} == {"undecided"}
    assert {pair.p for pair in found.pairs} == {None}
    assert "There is one seed: intervals and verdicts need at least two." in found.notes


def test_diverged_run_is_a_miss_with_the_score_of_the_untrained_model():
    found = judge(case("one diverged"))
    sgd = by_name(found)["sgd"]
    assert sgd.scores[1] == 0.1
    assert (sgd.counts, sgd.reached) == ({"done": 4, "diverged": 1}, 4)
    assert any(note.startswith("sgd: 1 of 5 runs diverged, counted with the score") for note in found.notes)


def test_failed_run_is_kept_with_its_error():
    found = judge(case("everything"))
    assert by_name(found)["nag"].counts == {"done": 4, "failed": 1}
    assert "nag: 1 of 5 runs failed (ValueError: bad batch); seed 4 without score." in found.notes
    assert "The comparison is incomplete: 44 of 45 runs have ended." in found.notes


def test_nonfinite_score_counts_as_missing():
    made = with_scores({"a": [0.8, 0.9], "b": [0.7, math.inf]})
    assert judge(made).methods[1].counts == {"done": 2}
    assert math.isnan(judge(made).methods[1].scores[1])


def test_target_that_all_runs_miss():
    found = judge(case("target nobody reaches"))
    assert {method.steps_to_target for method in found.methods} == {math.inf}
    assert {method.reached for method in found.methods} == {0}
    assert {method.step_ratio for method in found.methods} == {None}
    assert "No run reached the target, accuracy 0.99, within 1200 steps." in found.notes


def test_without_target_there_are_no_steps():
    found = judge(case("no target"))
    assert {method.steps_to_target for method in found.methods} == {None}
    assert {method.survival for method in found.methods} == {None}
    assert {pair.log_rank_p for pair in found.pairs} == {None}


@pytest.mark.parametrize(
    ("split", "start"),
    [("validation", "The verdict uses validation data"), ("train", "The verdict uses training data")],
)
def test_split_of_the_verdict_is_noted(split, start):
    assert judge(case(split)).notes[0].startswith(start)
    assert not any(note.startswith("The verdict uses") for note in judge(case("plain")).notes)


def test_validation_data_that_selected_the_settings_are_noted():
    assert "the same data selected the settings" in judge(results(split="validation", trials=2)).notes[0]


def test_steps_to_target_relative_to_the_reference():
    def runs(name, steps):
        return [JudgedRun(name, seed, "done", 0.9, float(s), 1000, {}) for seed, s in enumerate(steps)]

    slow, fast = runs("slow", [200, 400, 600]), runs("adamw", [100, 200, 300])
    made = replace(results(methods=("slow", "adamw"), seeds=3), runs=(*slow, *fast))
    found = by_name(judge(made))
    assert (found["slow"].steps_to_target, found["adamw"].steps_to_target) == (400, 200)
    assert found["slow"].step_ratio.estimate == pytest.approx(2)
    assert found["adamw"].step_ratio is None
    assert by_name(judge(made, reference="slow"))["adamw"].step_ratio.estimate == pytest.approx(0.5)


def test_reference_is_adamw_or_the_first_method():
    assert judge(results(methods=("sgd", "adamw"))).reference == "adamw"
    assert judge(results(methods=("sgd", "adam"))).reference == "sgd"
    with pytest.raises(ArgumentError, match="Unknown reference method 'adm': did you mean 'adam'"):
        judge(results(methods=("sgd", "adam")), reference="adm")


def test_sensitivity_is_paired_with_the_judged_runs():
    made = results(methods=("adam",), rate_seeds=2)
    [method] = judge(made).methods
    changes = [run.score - made.of("adam")[run.seed].score for run in made.rate_runs if run.factor == 10]
    assert list(method.sensitivity) == [0.1, 0.5, 2.0, 10.0]
    assert method.sensitivity[10.0].estimate == pytest.approx(np.mean(changes))


def test_best_of_trials_increases_and_ends_at_the_best_trial():
    made = results(methods=("adam",), trials=8)
    mean = judge(made).methods[0].best_of[0]
    assert mean.steps.tolist() == list(range(1, 9))
    assert (np.diff(mean.values) >= 0).all()
    assert mean.values[-1] == pytest.approx(max(t.score for t in made.trials if t.score is not None))


def test_cost_is_the_mean_over_finished_runs():
    made = case("one diverged")
    done = [run.cpu_s for run in made.of("sgd") if run.status == "done"]
    assert by_name(judge(made))["sgd"].cost["cpu_s"] == pytest.approx(np.mean(done))


def test_looks_spend_the_error_rate():
    """Of 5, 10 and 20 seeds, the look after 10 has .05 * 5/20."""
    found = judge(case("looks"))
    assert {pair.difference.level for pair in found.pairs} == {0.9875}
    assert any("this is look 2 of 3" in note for note in found.notes)
    between = judge(results(seeds=7, changes={"looks": (5, 10, 20)}))
    assert any("with 7 seeds, the verdicts are provisional" in note for note in between.notes)


def test_study_that_ended_at_a_look_is_complete():
    made = results(seeds=5, gap=6.0, changes={"looks": (5, 10, 20), "seeds": tuple(range(20))})
    assert not any("incomplete" in note for note in judge(made).notes)
    partial = replace(made, runs=made.runs[:-1])
    assert any("incomplete: 19 of 20 runs" in note for note in judge(partial).notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["many seeds", "many methods"])
def test_results_of_a_thousand_runs_are_consistent(name):
    check_findings(judge(case(name)))
