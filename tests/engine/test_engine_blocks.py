"""Blocks of the eager engine: the results equal those of stepping each tensor separately."""

from dataclasses import dataclass

import pytest
import torch
from contracts.trajectories import distance, parameters, run, values
from registry import each_second

import dashpot as dp
from dashpot.engine import backend, blockwise
from dashpot.stages import Filter

SHAPES = ((3, 2), (), (5,), (0, 2), (2 * blockwise.ELEMENTS_PER_THREAD + 77,), (4, 3, 3, 3), (200, 200))


@pytest.fixture
def disable_blocks(monkeypatch):
    """Return a function that disables blocks."""

    def disable():
        monkeypatch.setattr(backend, "step_in_blocks", lambda recipe, works, scalars: list(works))

    return disable


@pytest.fixture
def block_sizes(monkeypatch):
    """Record the number of tensors in each block, with blocks for two threads."""
    monkeypatch.setattr(blockwise, "block_size", lambda: 2 * blockwise.ELEMENTS_PER_THREAD)
    found = []
    concatenated, single = blockwise._Blocks._step_concatenated, blockwise._Blocks._step_block

    def step_concatenated(self, blocks):
        found.append(len(blocks))
        concatenated(self, blocks)

    def step_block(self, block):
        found.append(1)
        single(self, block)

    monkeypatch.setattr(blockwise._Blocks, "_step_concatenated", step_concatenated)
    monkeypatch.setattr(blockwise._Blocks, "_step_block", step_block)
    return found


def results(make, steps=3, dtype=torch.float64, missing=lambda step, index: False):
    params = parameters(dtype, SHAPES)
    optimizer = make(params)
    run(optimizer, params, steps, missing)
    state = [x for p in params for x in optimizer.state[p].values() if x.numel()]
    return [*values(params), *state]


@each_second()
def test_blocks_match_single_steps_for_every_method(subject, disable_blocks):
    blocked = results(lambda params: subject.make(params, engine="eager"))
    disable_blocks()
    # torch's vectorized and scalar square roots differ in the last bit.
    assert distance(blocked, results(lambda params: subject.make(params, engine="eager"))) < 1e-14


@pytest.mark.parametrize(
    "options",
    [{"rounding": "kahan"}, {"rounding": "stochastic"}, {"state_dtype": torch.bfloat16}, {"clip_value": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64], ids=str)
def test_blocks_match_single_steps_bit_for_bit_for_every_storage(dtype, options, disable_blocks):
    if dtype.is_complex and "clip_value" not in options:
        return

    def make(params):
        return dp.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, engine="eager", **options)

    blocked = results(make, dtype=dtype)
    disable_blocks()
    assert all(torch.equal(x, y) for x, y in zip(blocked, results(make, dtype=dtype), strict=True))


def test_small_tensors_are_concatenated_and_large_ones_split(block_sizes):
    results(lambda params: dp.AdamW(params, engine="eager"), steps=1)
    assert block_sizes == [1, 1, 1, 4]  # large tensor twice, medium, four small tensors; not the empty one


def test_tensors_with_different_step_counts_use_different_blocks(block_sizes, disable_blocks):
    def late(step, index):
        return index == 2 and step == 0

    blocked = results(lambda params: dp.AdamW(params, engine="eager"), steps=2, missing=late)
    assert sorted(block_sizes) == [1] * 7 + [3, 3]
    disable_blocks()
    assert distance(blocked, results(lambda params: dp.AdamW(params, engine="eager"), steps=2, missing=late)) < 1e-14


@pytest.mark.parametrize(
    "recipe",
    [dp.Recipe(dp.HuberClip()), dp.Recipe(dp.AdaptiveClip(), Filter(0.9)), dp.Recipe(dp.SecondMoment(), dp.Parcor())],
    ids=str,
)
def test_recipe_with_reductions_uses_no_blocks(recipe, block_sizes):
    results(lambda params: dp.SGM.from_recipe(params, recipe, engine="eager"), steps=1)
    assert block_sizes == []


@dataclass(frozen=True)
class LastAxis(dp.Stage):
    """A custom stage that depends on the shape."""

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v / x.v.norm(dim=-1, keepdim=True).clamp_min(1e-3)), s


def test_custom_stage_uses_no_blocks(block_sizes):
    results(lambda params: dp.SGM.from_recipe(params, dp.Recipe(LastAxis()), engine="eager"), steps=1)
    assert block_sizes == []


def test_overlapping_weights_are_stepped_in_order(block_sizes):
    """The second weight is read after the first weight is written."""
    memory = torch.ones(6)
    first, second = memory[:4].requires_grad_(), memory[2:].requires_grad_()
    optimizer = dp.SGD([first, second], lr=1.0, weight_decay=0.5, engine="eager")
    first.grad, second.grad = torch.zeros(4), torch.zeros(4)
    optimizer.step()
    assert memory.tolist() == [0.5, 0.5, 0.25, 0.25, 0.5, 0.5]
    assert block_sizes == []


def test_noncontiguous_tensors_use_no_blocks(block_sizes):
    def make():
        torch.manual_seed(0)
        w = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
        v = torch.randn(4, 3).requires_grad_()
        w.grad, v.grad = torch.randn(2, 3, 4, 5), torch.randn(3, 4).t()
        return [w, v]

    params, others = make(), make()
    dp.AdamW(params, lr=0.1, engine="eager").step()
    torch.optim.AdamW(others, lr=0.1, foreach=False).step()
    assert block_sizes == []
    torch.testing.assert_close(params, others)
