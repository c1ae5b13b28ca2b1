"""Options common to all optimizers: validation, copies and representation."""

import copy
import pickle

import pytest
import torch
from contracts.trajectories import parameters

import dashpot as dp
from dashpot.optimizers.options import ResolvedOptions
from dashpot.optimizers.registry import METHODS

INVALID = [
    ({"engine": "fast"}, "engine must be one of 'auto', 'eager', 'compiled', got 'fast'"),
    ({"max_norm": 0.0}, "max_norm must be"),
    ({"max_norm": -1.0}, "max_norm must be"),
    ({"max_norm": float("nan")}, "max_norm must be"),
    ({"clip_value": 0}, "clip_value must be"),
    ({"clip_value": "1"}, "clip_value must be"),
    ({"adaptive_clip": -0.1}, "adaptive_clip must be"),
    ({"nonfinite": "ignore"}, "nonfinite must be one of 'allow', 'skip', 'raise', got 'ignore'"),
    ({"rounding": "random"}, "rounding must be one of 'nearest', 'stochastic', 'kahan', got 'random'"),
    ({"state_dtype": torch.float16}, "state_dtype must be one of None, torch.bfloat16, got torch.float16"),
    ({"seed": -1}, "seed must be"),
    ({"seed": 2**63}, "seed must be"),
    ({"seed": 1.5}, "seed must be"),
]


@pytest.mark.parametrize(("option", "message"), INVALID, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("cls", [dp.AdamW, dp.AutoSGM])
def test_invalid_option_raises(cls, option, message):
    with pytest.raises(dp.ArgumentError) as caught:
        cls(parameters(), **option)
    text = str(caught.value)
    assert text.startswith(f"{cls.__name__}: ")
    assert message in text
    assert text.endswith(".")
    assert "\n" not in text


def test_unknown_option_raises_with_nearest_name():
    with pytest.raises(TypeError, match=r"AdamW: .*'max_nrom'.*max_norm"):
        dp.AdamW(parameters(), max_nrom=1.0)


def test_invalid_engine_in_environment_raises(monkeypatch):
    monkeypatch.setenv("DASHPOT_ENGINE", "fats")
    with pytest.raises(dp.ArgumentError, match=r"engine must be one of .* got 'fats'"):
        dp.AdamW(parameters())


VALID = {
    "engine": "compiled",
    "max_norm": 0.5,
    "clip_value": 0.2,
    "adaptive_clip": 0.1,
    "nonfinite": "skip",
    "rounding": "kahan",
    "state_dtype": torch.bfloat16,
    "seed": 3,
}


def test_every_option_has_a_valid_and_an_invalid_value():
    options = set(ResolvedOptions._fields) - {"capturable"}  # tests/engine/test_engine_capturable.py
    assert options == VALID.keys() == {name for option, _ in INVALID for name in option}


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_options_are_copied_and_pickled(copy_of):
    optimizer = dp.AdamW(parameters(), **VALID)
    assert copy_of(optimizer).options == optimizer.options == ResolvedOptions(**VALID)


def test_repr_shows_options():
    text = repr(dp.AdamW(parameters(), **VALID))
    assert ", ".join(f"{name}={value!r}" for name, value in VALID.items()) in text


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_accepts_every_option(name):
    params = parameters()
    optimizer = METHODS[name].cls(params, lr=0.01, **VALID)
    assert optimizer.options == ResolvedOptions(**VALID)
