from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.data import Batches
from dashpot.errors import ArgumentError

sizes = st.integers(1, 23)


def create(examples: int, batch_size: int, **options) -> Batches:
    x = torch.arange(examples * 2, dtype=torch.float64).reshape(examples, 2)
    return Batches(x, torch.arange(examples), batch_size, **options)


def order(batches: Batches, epoch: int) -> list[int]:
    return torch.cat([y for _, y in batches.epoch(epoch)]).tolist()


@settings(deadline=None, max_examples=60)
@given(examples=sizes, batch_size=sizes, shuffle=st.booleans(), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_epoch_contains_every_pair_once(examples, batch_size, shuffle, seed, epoch):
    batches = create(examples, batch_size, shuffle=shuffle, seed=seed)
    parts = list(batches.epoch(epoch))
    assert len(parts) == len(batches)
    assert all(len(x) == len(y) == batch_size for x, y in parts[:-1])
    x, y = (torch.cat(column) for column in zip(*parts, strict=True))
    assert sorted(y.tolist()) == list(range(examples))
    assert torch.equal(x, batches.x[y])


@settings(deadline=None, max_examples=40)
@given(examples=sizes, batch_size=sizes)
def test_drop_last_omits_smaller_batch(examples, batch_size):
    if examples < batch_size:
        with pytest.raises(ArgumentError, match="must have at least"):
            create(examples, batch_size, drop_last=True)
        return
    batches = create(examples, batch_size, drop_last=True)
    assert (
        [len(x) for x, _ in batches.epoch(0)] == [batch_size] * (examples // batch_size) == [batch_size] * len(batches)
    )


def test_order_is_pure_function_of_seed_and_epoch():
    batches = create(50, 7, shuffle=True, seed=3)
    later = order(batches, 4)
    for epoch in (0, 9, 4):
        torch.manual_seed(epoch)
        torch.rand(epoch + 1)
        order(batches, epoch)
    assert order(batches, 4) == later == order(create(50, 13, shuffle=True, seed=3), 4)
    assert (
        len({tuple(order(create(50, 7, shuffle=True, seed=seed), epoch)) for seed in range(4) for epoch in range(4)})
        == 16
    )


def test_epochs_iterate_independently():
    batches = create(20, 4, shuffle=True)
    mixed = list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    assert torch.cat([a[1] for a, _ in mixed]).tolist() == order(batches, 0)
    assert torch.cat([b[1] for _, b in mixed]).tolist() == order(batches, 1)


def test_shuffling_keeps_global_random_state():
    before = torch.get_rng_state()
    order(create(20, 4, shuffle=True), 2)
    assert torch.equal(before, torch.get_rng_state())


def test_batches_without_shuffling_are_views_in_order():
    batches = create(5, 2)
    assert order(batches, 0) == order(batches, 7) == [0, 1, 2, 3, 4]
    assert all(x.untyped_storage().data_ptr() == batches.x.untyped_storage().data_ptr() for x, _ in batches)
    assert [y.tolist() for _, y in batches] == [y.tolist() for _, y in batches] == [[0, 1], [2, 3], [4]]


x, y = torch.zeros(3, 2), torch.zeros(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((x, y, 0), r"^Batches: batch_size must be an integer in \[1, inf\), got 0\.$"),
        ((x, y, 1.5), r"^Batches: batch_size must be an integer"),
        ((x, y, 1, "yes"), r"^Batches: shuffle must be one of False, True, got 'yes'\.$"),
        ((x, y, 1, True, -1), r"^Batches: seed must be an integer in \[0, "),
        ((x, y[:2], 1), r"^Batches: x and y must have equal length, got 3 and 2\.$"),
        ((x, [1, 2, 3], 1), r"^Batches: y must be a tensor with a row per example, got \[1, 2, 3\]\.$"),
        ((torch.tensor(1.0), y, 1), r"^Batches: x must be a tensor with a row per example"),
        ((x[:0], y[:0], 1), r"^Batches: x and y must have at least 1 rows, got 0\.$"),
        ((x, y, 4, False, 0, True), r"at least 4 rows, got 3\.$"),
        ((x, y.to("meta"), 1), r"^Batches: x and y must be on the same device, got cpu, meta\.$"),
    ],
)
def test_batches_with_invalid_argument_raise(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Batches(*arguments)


@pytest.mark.parametrize("epoch", [-1, 0.5, None, True])
def test_epoch_with_invalid_index_raises(epoch):
    with pytest.raises(ArgumentError, match="Batches: epoch must be an integer in"):
        create(3, 1).epoch(epoch)


def add_noise(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + torch.rand(x.shape, generator=generator, dtype=x.dtype)


def inputs(batches: Batches, epoch: int) -> list[list[float]]:
    return [x.flatten().tolist() for x, _ in batches.epoch(epoch)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_augmentation_is_pure_function_of_seed_epoch_and_step(shuffle):
    batches = create(20, 6, shuffle=shuffle, seed=3, augment=add_noise)
    later = inputs(batches, 4)
    for epoch in (0, 9):
        torch.manual_seed(epoch)
        inputs(batches, epoch)
    assert inputs(batches, 4) == later == inputs(create(20, 6, shuffle=shuffle, seed=3, augment=add_noise), 4)
    *_, last = batches.epoch(4)
    assert last[0].flatten().tolist() == later[-1]


def test_augmentation_generators_differ_per_step_epoch_and_seed():
    """Batches are not shuffled, so that only the augmentation differs."""
    seen = []

    def record(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(torch.rand((), generator=generator).item())
        return x

    for seed in range(3):
        for epoch in range(3):
            order(create(8, 2, seed=seed, augment=record), epoch)
    assert len(seen) == len(set(seen)) == 3 * 3 * 4


def test_augmentation_changes_only_x_of_batch():
    batches = create(6, 4, shuffle=True, augment=lambda x, generator: -x)
    kept, before = batches.x.clone(), torch.get_rng_state()
    for x, y in batches.epoch(1):
        assert torch.equal(x, -kept[y])
    assert torch.equal(batches.x, kept)
    assert torch.equal(before, torch.get_rng_state())
    assert order(batches, 1) == order(create(6, 4, shuffle=True), 1)


def test_augment_not_callable_raises():
    with pytest.raises(
        ArgumentError, match=r"^Batches: augment must be a function of \(x, generator\) or None, got 2\.$"
    ):
        create(3, 1, augment=2)


def test_augment_from_starts_in_later_epoch():
    batches = Batches(torch.arange(4.0), torch.arange(4), 2, augment=lambda x, _: -x, augment_from=1)
    first, second = ([x.tolist() for x, _ in batches.epoch(k)] for k in (0, 1))
    assert first == [[0.0, 1.0], [2.0, 3.0]]
    assert second == [[-0.0, -1.0], [-2.0, -3.0]]
