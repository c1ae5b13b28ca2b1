"""Remarks on methods whose learning rate is not tuned, and on the order of methods with missing runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from results_support import case, results

from dashpot.comparison.judge import judge
from dashpot.comparison.results import RateRun


def with_rates(changes, *, factor=10.0, name="sgd", **parameters):
    """Return findings of a study in which a method has given changes of the score at a wrong rate."""
    made = results(**parameters)
    runs = made.of(name)[: len(changes)]
    rates = [RateRun(name, factor, r.seed, "done", r.score + c) for r, c in zip(runs, changes, strict=True)]
    return judge(replace(made, rate_runs=tuple(rates)))


def rate_notes(found):
    return [note for note in found.notes if "learning rate" in note]


@pytest.mark.parametrize(("factor", "words"), [(10.0, "10 times larger"), (0.1, "10 times smaller")])
def test_a_clearly_better_rate_is_named(factor, words):
    [note] = rate_notes(with_rates([0.175, 0.165], factor=factor, trials=4))
    assert note == f"The learning rate of sgd is not tuned: a {words} rate is better by .17 on 2 seeds; raise --budget."


def test_smaller_losses_are_better():
    [note] = rate_notes(with_rates([-0.2, -0.2], metric="loss"))
    assert note.endswith("a 10 times larger rate is better by .20 on 2 seeds; tune it with --budget.")
    assert not rate_notes(with_rates([0.2, 0.2], metric="loss"))


@pytest.mark.parametrize("changes", [[-0.2, -0.2], [0.002, 0.003], [0.0, 0.0]])
def test_worse_rates_and_changes_within_the_noise_have_no_remark(changes):
    assert not rate_notes(with_rates(changes))


def test_one_seed_needs_three_margins():
    assert rate_notes(with_rates([0.013], seeds=1))
    assert not rate_notes(with_rates([0.011], seeds=1))
    assert not rate_notes(with_rates([0.5], seeds=1, margin=None))


def test_the_best_of_several_rates_is_named():
    found = with_rates([0.17, 0.16])
    more = tuple(replace(run, factor=2.0, score=run.score + 0.05) for run in found.results.rate_runs)
    [note] = rate_notes(judge(replace(found.results, rate_runs=found.results.rate_runs + more)))
    assert "a 2 times larger rate" in note


@pytest.mark.parametrize("studies", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_null_studies_have_few_remarks(studies):
    count = 0
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        made = results(seed=seed)
        noise = 0.002 * rng.normal(size=(4, 2, 2))
        rates = tuple(
            RateRun(name, factor, r.seed, "done", r.score + noise[i, j, k])
            for i, name in enumerate(made.methods)
            for j, factor in enumerate((0.5, 2.0))
            for k, r in enumerate(made.of(name)[:2])
        )
        count += bool(rate_notes(judge(replace(made, rate_runs=rates))))
    assert count <= studies // 10


def test_an_order_unlike_the_means_is_explained():
    made = results(gap=0.2, noise=0.0, methods=("adam", "sgd"), seeds=4)
    scores = {("adam", 0): 0.5, ("sgd", 0): 0.4, ("adam", 1): 0.9, ("adam", 2): 0.9, ("adam", 3): 0.9}
    scores |= {("sgd", s): 0.89 for s in (1, 2, 3)}
    del scores["sgd", 0]
    runs = tuple(replace(r, score=scores[r.method, r.seed]) for r in made.runs if (r.method, r.seed) in scores)
    found = judge(replace(made, runs=runs))
    assert [method.name for method in found.methods] == ["adam", "sgd"]
    assert found.methods[0].mean.estimate < found.methods[1].mean.estimate
    assert "The order compares equal seeds; means of methods with missing runs cover fewer seeds." in found.notes
    assert not any("equal seeds" in note for note in judge(case("plain")).notes)
