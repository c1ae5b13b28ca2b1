"""`state_dict()` contains only tensors and plain Python values."""

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


def as_numpy(value):
    """Return a setting, which may be a pair, as NumPy numbers of the same value."""
    if isinstance(value, tuple):
        return tuple(map(as_numpy, value))
    if isinstance(value, bool):
        return np.bool_(value)
    return np.float64(value) if isinstance(value, float) else value


@each()
def test_state_dict_converts_numpy_numbers(subject):
    """NumPy numbers are in a new group, in an edited group and from a scheduler. The resumed run is bitwise equal."""
    params, others, straight = (parameters(shapes=((3,),)) for _ in range(3))
    settings = {key: as_numpy(value) for key, value in subject.make(params).param_groups[0].items()}
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


def test_state_dict_converts_a_numpy_seed():
    for opt in (
        dp.AdamW(parameters(), rounding="stochastic", seed=np.int64(7)),
        dp.Sophia(parameters(), seed=np.int64(7)),
    ):
        assert_plain(opt.state_dict())
        assert 7 in through_a_file(opt.state_dict())["param_groups"][0].values()


def test_loading_converts_numpy_numbers():
    optimizer = dp.AdamW(parameters())
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(
        lr=np.float64(0.5), betas=(np.float64(0.5), np.float32(0.25)), initial_lr=np.float64(1)
    )
    optimizer.load_state_dict(saved)
    assert_plain({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})


def test_plain_state_dict_is_returned_without_copies():
    """The entries are the dictionaries of the optimizer, as in torch."""
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
def test_plain_data_converts_to_builtin_types(value, expected):
    made = plain_data(value)
    assert made == expected
    assert type(made) is type(expected)
    assert_plain(made)


def test_saved_state_of_one_parameter_is_small():
    """The counts of different parameters do not share a storage."""
    params = parameters(shapes=((2,),) * 300)
    optimizer = dp.AdamW(params)
    run(optimizer, params, 1)
    for entry in optimizer.state_dict()["state"].values():
        for value in entry.values():
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict()["state"][0], buffer)
    assert buffer.tell() < 4000
