"""Studies: paired runs, and checks of the settings."""

from __future__ import annotations

import pytest
import torch
from study_support import build, finished, numbers, study, toy

import dashpot
from dashpot.comparison import Entry, Study, entry, run_study
from dashpot.constraints import ARGUMENTS
from dashpot.errors import ArgumentError
from dashpot.runs.study import COUNT, SEED
from dashpot.tasks import Problem, Target


def test_runs_of_one_seed_share_initial_weights(tmp_path):
    runs = finished(tmp_path / "out", "sgd", "adam", "autosgm-3", seeds=(0, 1), epochs=1)
    starts = {(run.entry, run.seed): run.header["task"]["init"] for run in runs}
    for seed in (0, 1):
        assert len({starts[name, seed] for name in ("sgd", "adam", "autosgm-3")}) == 1
    assert starts["sgd", 0] != starts["sgd", 1]


def test_runs_of_one_seed_share_batches_and_dropout(tmp_path):
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}
    runs = iter(range(100))

    def recording(seed: int) -> Problem:
        problem = build(seed)
        batches = seen.setdefault((seed, next(runs)), [])
        problem.model[3].register_forward_hook(lambda _, x, y: batches.append((x[0] != 0) & (y != 0)))
        problem.model.register_forward_pre_hook(lambda _, x: batches.append(x[0]))
        return problem

    # A learning rate of zero keeps the weights constant, so equal inputs and dropout masks give equal activations.
    entries = (Entry("a", torch.optim.SGD, 0.0), Entry("b", torch.optim.Adam, 0.0))
    run_study(Study(toy(build=recording), entries, (0, 1), 2, evaluate_every=4), tmp_path / "out")
    recorded = [(seed, batches) for (seed, _), batches in seen.items() if batches]
    assert [seed for seed, _ in recorded] == [0, 0, 1, 1]
    for (_, one), (_, two) in (recorded[:2], recorded[2:]):
        assert len(one) == len(two) > 0
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    trained = [[batch for batch in batches if len(batch) < 22] for _, batches in recorded]  # without evaluations
    assert not torch.equal(trained[0][0], trained[2][0])


def test_run_does_not_depend_on_other_entries(tmp_path):
    together = finished(tmp_path / "a", "sgd", "adam", seeds=(0, 1), epochs=1)
    alone = finished(tmp_path / "b", "adam", seeds=(1,), epochs=1)
    assert numbers([run for run in together if run.entry == "adam" and run.seed == 1]) == numbers(alone)


@pytest.mark.parametrize("lr", [value for value in ARGUMENTS["lr"].refused() if not isinstance(value, str)])
def test_entry_rejects_invalid_lr(lr):
    if lr is None:
        assert entry("adam", "toy", lr=None).lr == 1e-3
    else:
        with pytest.raises(ArgumentError, match=r"^adam: lr must be a number in"):
            entry("adam", "toy", lr=lr)


def test_invalid_optimizer_settings_fail_before_writing(tmp_path):
    bad = Study(toy(), (*study("sgd").entries, Entry("adam", dashpot.Adam, 0.1, {"betas": (1.0, 0.9)})), (0,), 1)
    with pytest.raises(ArgumentError, match="Adam: betas"):
        run_study(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", COUNT.refused())
@pytest.mark.parametrize("name", ["epochs", "threads"])
def test_study_rejects_invalid_counts(name, value):
    settings = {"epochs": 1, "threads": 1, name: value}
    if (name, value) == ("threads", None):
        assert Study(toy(), study().entries, (0,), **settings).threads is None
        return
    with pytest.raises(ArgumentError, match=f"Study: {name} must be"):
        Study(toy(), study().entries, (0,), **settings)


@pytest.mark.parametrize("value", SEED.refused())
def test_study_rejects_invalid_seeds(value):
    with pytest.raises(ArgumentError, match="Study: seeds must be"):
        Study(toy(), study().entries, (value,), 1)


def test_study_rejects_empty_or_repeated_seeds_and_entries():
    adam = study().entries
    for entries, seeds in ((adam, ()), (adam, (1, 1)), ((), (0,)), (adam * 2, (0,))):
        with pytest.raises(ArgumentError, match=r"Study: (seeds|entries) must contain at least one"):
            Study(toy(), entries, seeds, 1)


def test_threads_are_restored_after_the_study(tmp_path):
    before = torch.get_num_threads()
    used = []

    def recording(seed: int) -> Problem:
        used.append(torch.get_num_threads())
        return build(seed)

    run_study(Study(toy(build=recording), study().entries, (0,), 1, threads=before + 1), tmp_path / "out")
    assert used[-1] == before + 1
    assert torch.get_num_threads() == before


def test_study_rejects_target_of_unknown_metric_before_writing(tmp_path):
    bad = Study(toy(target=Target("f1", 0.5, "max")), study().entries, (0,), 1)
    with pytest.raises(ArgumentError, match="Unknown metric in the target of toy: 'f1'"):
        run_study(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()
