from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.constraints import Interval
from dashpot.data import SEED, generator, seeded
from dashpot.errors import ArgumentError

keys = st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=3)), min_size=1, max_size=3).map(tuple)


@settings(deadline=None, max_examples=25)
@given(first=keys, second=keys)
def test_generators_are_equal_if_and_only_if_keys_are(first, second):
    a, b = (torch.randint(2**62, (4,), generator=generator(*key)) for key in (first, second))
    assert torch.equal(a, b) == (first == second)


def test_generator_numbers_are_frozen():
    """Later versions continue records of earlier ones, so the random numbers of a key must not change."""
    assert generator("order", 0, 0).initial_seed() == 2171595965


def test_generator_keeps_global_random_state():
    before = torch.get_rng_state()
    torch.rand(5, generator=generator(1, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_matches_manual_seed_and_restores_state():
    torch.manual_seed(123)
    expected = torch.rand(4)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    with seeded(123):
        assert torch.equal(torch.rand(4), expected)
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_restores_the_state_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="must match the size"), seeded(0):
        torch.rand(2).add_(torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", SEED.refused(), ids=repr)
def test_seeded_with_invalid_seed_raises(seed):
    assert isinstance(SEED, Interval)
    with pytest.raises(ArgumentError, match="seeded: seed must be an integer in"), seeded(seed):
        pass
