"""A learner's checkpoint written by an earlier version within an epoch: the fit resumes to the same weights."""

import shutil

import pytest
import torch
from stored_support import EPOCHS, STORED, StopAt, callbacks, distance, learner

from dashpot.training import Checkpoints, latest, read_newest


@pytest.fixture
def checkpoints(tmp_path):
    return shutil.copytree(STORED / "learner", tmp_path / "learner")


def test_stored_checkpoint_is_within_an_epoch(checkpoints):
    epoch, batch = read_newest(checkpoints)["progress"]["position"]
    assert (epoch, batch > 0) == (1, True)


def test_stored_checkpoint_resumes_to_the_stored_weights_and_history(checkpoints):
    """1e-9 in float64: sums in a different order on another processor, over 15 steps of a network."""
    resumed = learner()
    found = [*callbacks(), Checkpoints(checkpoints, every_steps=2, keep=1)]
    resumed.fit(EPOCHS, callbacks=found, resume=read_newest(checkpoints))
    expected = torch.load(STORED / "learner.pt", weights_only=True)
    weights = resumed.model.state_dict()
    assert weights.keys() == expected["model"].keys()
    assert distance(weights.values(), expected["model"].values()) <= 1e-9
    assert len(resumed.history) == len(expected["history"]) == EPOCHS
    for epoch, stored in zip(resumed.history, expected["history"], strict=True):
        assert epoch.keys() == stored.keys()
        for phase, means in stored.items():
            assert epoch[phase] == pytest.approx(means, rel=1e-9)


def test_new_checkpoint_has_the_stored_keys(checkpoints, tmp_path):
    found = [*callbacks(), Checkpoints(tmp_path / "new", every_steps=2, keep=1), StopAt()]
    learner().fit(EPOCHS, callbacks=found)
    assert latest(tmp_path / "new").name == latest(checkpoints).name
    assert outline(read_newest(tmp_path / "new")) == outline(read_newest(checkpoints))


def outline(state):
    """The settings, and the keys of the nested mappings that are fixed names."""
    return {
        "": sorted(state),
        "callbacks": {name: sorted(kept) for name, kept in state["callbacks"].items()},
        "observers": state["observers"],
        "progress": sorted(state["progress"]),
        "settings": state["settings"],
        "besides": sorted(state["besides"]),
        "data": sorted(state["data"]),
        "random": [sorted(one) for one in state["random"]],
        "groups": [sorted(group) for group in state["optimizer"]["param_groups"]],
    }
