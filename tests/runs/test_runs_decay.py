"""Studies and searches in which some parameters have no weight decay."""

from __future__ import annotations

import pytest
import torch
from study_support import build, toy

from dashpot.comparison import Entry, entry
from dashpot.comparison.study_items import items
from dashpot.comparison.tuned_settings import tuning_text
from dashpot.errors import ArgumentError
from dashpot.names import known_methods
from dashpot.runs.search_space import apply
from dashpot.runs.study import Study
from dashpot.runs.study_names import StudyNames, study_of_names
from dashpot.scheduling.work_items import Outcome

MATRICES = ("norms", "biases", "vectors")


def decays(optimizer: torch.optim.Optimizer) -> list[tuple[float, list[int]]]:
    """Return the decay and the dimensions of the parameters of each group."""
    return [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", known_methods())
def test_matrices_alone_decay_for_every_method(name):
    made = entry(name, "toy", options={"weight_decay": 0.25})
    grouped = Entry(name, made.make, made.lr, made.options, no_decay=MATRICES)
    model = build(0).model
    assert decays(grouped.optimizer_of(model, 1)) == [(0.25, [2, 2]), (0.0, [1, 1, 1, 1])]
    assert decays(made.optimizer_of(model, 1)) == [(0.25, [2, 1, 1, 1, 2, 1])]


def test_matrices_alone_decay_for_an_optimizer_of_torch_with_a_tuned_decay():
    grouped = Entry("torch", torch.optim.AdamW, 0.1, no_decay=MATRICES)
    model = build(0).model
    assert decays(grouped.optimizer_of(model, 1)) == [(0.01, [2, 2]), (0.0, [1, 1, 1, 1])]
    tuned = apply(grouped, {"weight_decay": 0.5})
    assert decays(tuned.optimizer_of(model, 1)) == [(0.5, [2, 2]), (0.0, [1, 1, 1, 1])]
    assert tuned.call(1) == (
        "torch.optim.AdamW(dashpot.param_groups(model, no_decay=('norms', 'biases', 'vectors'), allow_tied=True), "
        "lr=0.1, weight_decay=0.5)"
    )


def test_study_without_any_decay_raises():
    def study(*methods: str) -> Study:
        entries = [entry(name, "toy") for name in methods]
        grouped = tuple(Entry(e.name, e.make, e.lr, e.options, no_decay=("bias",)) for e in entries)
        return Study(toy(), grouped, seeds=(0,), epochs=1)

    assert "no_decay=('bias',)" in study("sgd", "adamw").settings()["methods"]["adamw"]
    with pytest.raises(ArgumentError, match=r"^Study: no_decay requires weight decay, which sgd, adam lack by default"):
        study("sgd", "adam").settings()


def test_names_with_no_decay_rebuild_the_study_and_print_commands_with_it(tmp_path):
    names = StudyNames(
        "digits", methods="adamw", seeds=0, epochs=1, no_decay=("bias",), design={"budget": 1, "tune": ("lr",)}
    )
    study = names.study()
    assert study_of_names(study.names, tmp_path / "study.json").settings() == study.settings()
    [item] = items(study)
    text = tuning_text(study, {item.key: Outcome(item.key, "done", 0.5, {"lr": 0.25}, {})})
    assert text.count("--no-decay bias") == 2
