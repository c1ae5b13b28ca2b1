"""Fits with random combinations of features: an interruption or an evaluation within the fit changes nothing."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from combination_support import combined, drawn, logs
from learner_support import At, weights
from resume_support import assert_equal
from slow_values import others_slow
from torch import nn

from dashpot.training import latest, read_newest
from dashpot.training.optimizer_dict import named_optimizers

FAST = 2
SEEDS = others_slow(range(60), *range(FAST))


class InterruptionError(Exception):
    """Error that ends a fit."""


def outcome(learner, recorder, folder):
    opts = {name: opt.state_dict() for name, opt in named_optimizers(learner.opt).items()}
    progress = [learner.steps, learner.loop.position, learner.stop_reason]
    return [weights(learner), learner.history, progress, opts, recorder.values, logs(folder)]


def uninterrupted(chosen, folder, *callbacks):
    learner, recorder = combined(chosen, folder)
    learner.fit(**chosen["length"], callbacks=callbacks)
    return outcome(learner, recorder, folder)


def interrupt_after(count, folder):
    """Return a hook that raises an error in training, after a number of calls and the first checkpoint."""
    calls = []

    def hook(learner):
        calls.extend([1] * learner.training)
        if learner.training and len(calls) >= count and latest(folder) is not None:
            raise InterruptionError

    return hook


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("seed", SEEDS)
def test_combination_interrupted_and_resumed_equals_uninterrupted(seed, tmp_path):
    chosen = drawn(seed)
    expected = uninterrupted(chosen, tmp_path / "whole")
    folder = tmp_path / "resumed"
    count = chosen["after"] if chosen["interrupted"].endswith("batch") else min(chosen["after"], 6)
    count = 2 if chosen["interrupted"].endswith("epoch") else count
    learner, _ = combined(chosen, folder)
    interrupt = At(chosen["interrupted"], interrupt_after(count, folder / "checkpoints"), order=55)
    with suppress(InterruptionError):  # an earlier end of the fit is possible
        learner.fit(**chosen["length"], callbacks=[interrupt])
    assert latest(folder / "checkpoints") is not None
    learner, recorder = combined(chosen, folder)
    for p in learner.model.parameters():
        nn.init.zeros_(p)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    learner.fit(**chosen["length"], resume=read_newest(folder / "checkpoints"))
    assert_equal(outcome(learner, recorder, folder), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("seed", SEEDS)
def test_combination_with_evaluations_within_the_fit_equals_one_without(seed, tmp_path):
    chosen = drawn(seed)
    expected = uninterrupted(chosen, tmp_path / "plain")
    values = []

    def evaluate(learner):
        if len(learner._calls) == 1 and (learner.training or chosen["evaluated_at"].endswith("epoch")):
            values.append(learner.evaluate(learner.train.source if len(values) % 2 else learner_data(learner)))

    evaluated = uninterrupted(chosen, tmp_path / "evaluated", At(chosen["evaluated_at"], evaluate, order=1000))
    assert values
    assert_equal(evaluated, expected)


def learner_data(learner):
    return learner.train.source if learner.evaluation is None else learner.evaluation.source
