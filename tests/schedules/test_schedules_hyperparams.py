"""Access to hyperparameters of a group by common names."""

import pytest
import torch

from dashpot.errors import ArgumentError
from dashpot.schedules.hyperparams import locate, read, write

SGD = {"params": [], "lr": 0.1, "momentum": 0.9}
ADAM = {"params": [], "param_names": [], "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}
BOTH = {"momentum": 0.8, "betas": (0.9, 0.999)}
RECIPE = {"pole": 0.7, "momentum": 0.8}


@pytest.mark.parametrize(
    ("group", "name", "place"),
    [
        (SGD, "lr", ("lr", None)),
        (SGD, "momentum", ("momentum", None)),
        (SGD, "pole", ("momentum", None)),
        (ADAM, "momentum", ("betas", 0)),
        (ADAM, "pole", ("betas", 0)),
        (ADAM, "betas", ("betas", None)),
        (ADAM, "betas[0]", ("betas", 0)),
        (ADAM, "betas[1]", ("betas", 1)),
        (BOTH, "pole", ("momentum", None)),
        (RECIPE, "pole", ("pole", None)),
    ],
)
def test_locate(group, name, place):
    assert locate(group, name) == place


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (SGD, "betas[0]"),
        (SGD, "lr[0]"),
        (SGD, "nu"),
        (ADAM, "betas[2]"),
        (ADAM, "betas[-1]"),
        (ADAM, "betas[]"),
        ({"lr": 0.1}, "pole"),
        ({"lr": torch.tensor(0.1)}, "lr[0]"),
        ({}, ""),
    ],
)
def test_unknown_hyperparameter_raises(group, name):
    with pytest.raises(ArgumentError, match=r"^The parameter group has no hyperparameter .*; it has ") as caught:
        locate(group, name)
    assert repr(name) in str(caught.value)
    assert "param" not in str(caught.value).partition("it has ")[2]


def test_read():
    assert read(SGD, "pole") == 0.9
    assert read(ADAM, "pole") == 0.9
    assert read(ADAM, "betas[1]") == 0.999
    assert read(ADAM, "betas") == (0.9, 0.999)


def test_write_replaces_a_pair_without_modifying_it():
    old = (0.9, 0.999)
    for pair in (old, list(old)):
        group = {"betas": pair}
        write(group, "pole", 0.5)
        write(group, "betas[1]", 0.25)
        assert group == {"betas": (0.5, 0.25)}
        assert tuple(pair) == old


def test_write_and_read_agree():
    for group in (dict(SGD), dict(ADAM), dict(BOTH), dict(RECIPE)):
        write(group, "pole", 0.125)
        assert read(group, "pole") == 0.125
    assert RECIPE["momentum"] == 0.8


def test_write_of_an_unknown_name_changes_nothing():
    group = dict(SGD)
    with pytest.raises(ArgumentError):
        write(group, "eps", 1.0)
    assert group == SGD
