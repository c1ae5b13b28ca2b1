"""A fit resumes from a learner checkpoint, written within an epoch by an earlier version, to the same weights."""

import shutil

import pytest
import torch
from stored_support import EPOCHS, FITS, STORED, StopAt, distance, fit_result, learner

from dashpot.training import Checkpoints, latest, read_newest

REL = 1e-9
"""Tolerance for float64 sums in a different order on other processors, over at most 30 steps of a network."""


@pytest.fixture(params=FITS)
def name(request):
    return request.param


@pytest.fixture
def checkpoints(name, tmp_path):
    return shutil.copytree(STORED / name, tmp_path / name)


def test_stored_checkpoint_is_within_an_epoch(checkpoints):
    epoch, batch = read_newest(checkpoints)["progress"]["position"]
    assert (epoch, batch > 0) == (1, True)


def test_stored_checkpoint_resumes_to_the_stored_weights_and_history(name, checkpoints):
    resumed, callbacks = learner(), FITS[name]()
    saving = Checkpoints(checkpoints, every_steps=2, keep=1)
    resumed.fit(EPOCHS, callbacks=[*callbacks, saving], resume=read_newest(checkpoints))
    found, expected = fit_result(resumed, callbacks), torch.load(STORED / f"{name}.pt", weights_only=True)
    assert found["model"].keys() == expected["model"].keys()
    assert distance(found["model"].values(), expected["model"].values()) <= REL
    assert found["recorded"] == {key: pytest.approx(values, rel=REL) for key, values in expected["recorded"].items()}
    assert len(found["history"]) == len(expected["history"]) == EPOCHS
    for epoch, stored in zip(found["history"], expected["history"], strict=True):
        assert epoch == {phase: pytest.approx(means, rel=REL) for phase, means in stored.items()}


def test_new_checkpoint_has_the_stored_keys(name, checkpoints, tmp_path):
    saving = Checkpoints(tmp_path / "new", every_steps=2, keep=1)
    learner().fit(EPOCHS, callbacks=[*FITS[name](), saving, StopAt()])
    assert latest(tmp_path / "new").name == latest(checkpoints).name
    assert missing(outline(read_newest(checkpoints)), outline(read_newest(tmp_path / "new"))) == []


def missing(stored, new, path=""):
    """Return the paths of stored keys and values that a new outline lacks; it may have others in addition."""
    if isinstance(stored, dict) and isinstance(new, dict):
        lost = [f"{path}/{name}" for name in stored if name not in new]
        return lost + [
            text for name in stored if name in new for text in missing(stored[name], new[name], f"{path}/{name}")
        ]
    if isinstance(stored, list) and isinstance(new, list):
        return [f"{path}: {value}" for value in stored if value not in new]
    return [] if stored == new else [f"{path}: {stored} != {new}"]


def outline(state):
    """Return the settings and observers in `state`, and the sorted keys of its other parts."""
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
