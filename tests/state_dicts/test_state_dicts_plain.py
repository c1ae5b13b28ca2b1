"""`state_dict()` holds tensors and plain Python values only, whoever wrote what into the groups."""

import collections
import enum
import io

import numpy as np
import pytest
import torch
from contracts.trajectories import identical, parameters, run
from registry import each

import dashpot as dp
from dashpot.optimizers.state_dict import plain_data

PLAIN = (torch.Tensor, bool, int, float, str, type(None))


def through_a_file(saved):
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_plain(value):
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) in (int, str)
            assert_plain(item)
    elif type(value) in (list, tuple):
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in PLAIN, type(value)


def numpy_in_the_place_of(value):
    """A setting as a numpy number of the same value, within pairs too."""
    if isinstance(value, tuple):
        return tuple(map(numpy_in_the_place_of, value))
    if isinstance(value, bool):
        return np.bool_(value)
    return np.float64(value) if isinstance(value, float) else value


@each()
def test_numpy_numbers_in_a_group_do_not_reach_the_file(subject):
    """At construction of the group, in the group, and written by a scheduler; the file goes on to the same bits."""
    params, others, straight = (parameters(shapes=((3,),)) for _ in range(3))
    settings = {key: numpy_in_the_place_of(value) for key, value in subject.make(params).param_groups[0].items()}
    del settings["params"]
    optimizer = subject.make([{**settings, "params": params}])
    assert_plain({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})
    expected = subject.make(straight)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(opt, lambda e: np.cos(e / 10)) for opt in (optimizer, expected)]
    for opt, ps, scheduler in zip((optimizer, expected), (params, straight), schedulers, strict=True):
        run(opt, ps, 2)
        scheduler.step()
    optimizer.param_groups[0].update({key: value for key, value in settings.items() if key == "betas"})
    saved = optimizer.state_dict()
    assert_plain(saved)
    other = subject.make(others)
    other.load_state_dict(through_a_file(saved))
    with torch.no_grad():
        others[0].copy_(params[0])
    run(other, others, range(2, 4))
    run(expected, straight, range(2, 4))
    assert identical(others, straight)


def test_a_numpy_seed_is_saved_as_pythons():
    for opt in (
        dp.AdamW(parameters(), rounding="stochastic", seed=np.int64(7)),
        dp.Sophia(parameters(), seed=np.int64(7)),
    ):
        assert_plain(opt.state_dict())
        assert 7 in through_a_file(opt.state_dict())["param_groups"][0].values()


def test_a_saved_group_with_numpy_numbers_loads_as_pythons():
    optimizer = dp.AdamW(parameters())
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(
        lr=np.float64(0.5), betas=(np.float64(0.5), np.float32(0.25)), initial_lr=np.float64(1)
    )
    optimizer.load_state_dict(saved)
    assert_plain({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})


def test_a_state_dict_that_is_plain_already_is_torchs():
    """The entries are the optimizer's own dictionaries, as in torch."""
    params = parameters()
    optimizer = dp.Adam(params)
    run(optimizer, params, 1)
    assert all(optimizer.state_dict()["state"][i] is optimizer.state[p] for i, p in enumerate(params))


class Level(enum.IntEnum):
    HIGH = 3


class Named(str, enum.Enum):
    NAME = "name"


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
        (np.array(3), 3),
        (Level.HIGH, 3),
        (Named.NAME, "name"),
        (Pair(np.int64(1), 2), (1, 2)),
        (collections.OrderedDict(a=[np.int8(1)]), {"a": [1]}),
    ],
    ids=repr,
)
def test_values_become_pythons_own(value, expected):
    made = plain_data(value)
    assert made == expected
    assert type(made) is type(expected)
    assert_plain(made)


def test_the_state_of_one_parameter_is_saved_alone():
    """One entry of many, saved by itself, does not carry the counts of all."""
    params = parameters(shapes=((2,),) * 300)
    optimizer = dp.AdamW(params)
    run(optimizer, params, 1)
    for entry in optimizer.state_dict()["state"].values():
        for value in entry.values():
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict()["state"][0], buffer)
    assert buffer.tell() < 4000
