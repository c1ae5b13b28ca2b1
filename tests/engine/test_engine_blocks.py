"""The eager engine's blocks: joined and cut tensors get the numbers of tensors stepped one by one."""

from dataclasses import dataclass

import pytest
import torch
from contracts.trajectories import distance, parameters, run, values
from registry import each

import dashpot as dp
from dashpot.engine import backend, blockwise
from dashpot.stages import Filter

SHAPES = ((3, 2), (), (5,), (0, 2), (2 * blockwise.SHARE + 77,), (4, 3, 3, 3), (200, 200))


@pytest.fixture
def one_by_one(monkeypatch):
    """Call it to have every tensor stepped by itself from then on."""

    def switch():
        monkeypatch.setattr(backend, "step_in_blocks", lambda recipe, works, scalars: list(works))

    return switch


@pytest.fixture
def taken(monkeypatch):
    """How many tensors each block held, one entry for each block, with blocks for two threads."""
    monkeypatch.setattr(blockwise, "block_size", lambda: 2 * blockwise.SHARE)
    found = []
    joined, alone = blockwise._Blocks._step_joined, blockwise._Blocks._step_alone

    def step_joined(self, block):
        found.append(len(block))
        joined(self, block)

    def step_alone(self, lines):
        found.append(1)
        alone(self, lines)

    monkeypatch.setattr(blockwise._Blocks, "_step_joined", step_joined)
    monkeypatch.setattr(blockwise._Blocks, "_step_alone", step_alone)
    return found


def results(make, steps=3, dtype=torch.float64, missing=lambda step, index: False):
    params = parameters(dtype, SHAPES)
    optimizer = make(params)
    run(optimizer, params, steps, missing)
    state = [x for p in params for x in optimizer.state[p].values() if x.numel()]
    return [*values(params), *state]


@each()
def test_every_method_gets_the_same_numbers(subject, one_by_one):
    together = results(lambda params: subject.make(params, engine="eager"))
    one_by_one()
    # torch's vectorised square root and its scalar one differ in the last bit.
    assert distance(together, results(lambda params: subject.make(params, engine="eager"))) < 1e-14


@pytest.mark.parametrize(
    "options",
    [{"rounding": "kahan"}, {"rounding": "stochastic"}, {"state_dtype": torch.bfloat16}, {"clip_value": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64], ids=str)
def test_every_storage_gets_the_same_bits(dtype, options, one_by_one):
    if dtype.is_complex and "clip_value" not in options:
        return

    def make(params):
        return dp.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, engine="eager", **options)

    together = results(make, dtype=dtype)
    one_by_one()
    assert all(torch.equal(x, y) for x, y in zip(together, results(make, dtype=dtype), strict=True))


def test_small_tensors_are_joined_and_large_ones_cut(taken):
    results(lambda params: dp.AdamW(params, engine="eager"), steps=1)
    assert taken == [
        1,
        1,
        1,
        4,
    ]  # two pieces of the large one, the middle one, four small ones; an empty one has no step


def test_tensors_that_count_other_steps_are_apart(taken, one_by_one):
    def late(step, index):
        return index == 2 and step == 0

    together = results(lambda params: dp.AdamW(params, engine="eager"), steps=2, missing=late)
    assert sorted(taken) == [1] * 7 + [3, 3]
    one_by_one()
    assert distance(together, results(lambda params: dp.AdamW(params, engine="eager"), steps=2, missing=late)) < 1e-14


@pytest.mark.parametrize(
    "recipe",
    [dp.Recipe(dp.HuberClip()), dp.Recipe(dp.AdaptiveClip(), Filter(0.9)), dp.Recipe(dp.SecondMoment(), dp.Parcor())],
    ids=str,
)
def test_a_recipe_that_looks_at_whole_tensors_is_stepped_one_by_one(recipe, taken):
    results(lambda params: dp.SGM.from_recipe(params, recipe, engine="eager"), steps=1)
    assert taken == []


@dataclass(frozen=True)
class LastAxis(dp.Stage):
    """A user's stage that looks at the shape."""

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v / x.v.norm(dim=-1, keepdim=True).clamp_min(1e-3)), s


def test_a_users_stage_is_stepped_one_by_one(taken):
    results(lambda params: dp.SGM.from_recipe(params, dp.Recipe(LastAxis()), engine="eager"), steps=1)
    assert taken == []


def test_weights_that_share_memory_are_stepped_in_turn(taken):
    """The second step starts from what the first one wrote."""
    memory = torch.ones(6)
    first, second = memory[:4].requires_grad_(), memory[2:].requires_grad_()
    optimizer = dp.SGD([first, second], lr=1.0, weight_decay=0.5, engine="eager")
    first.grad, second.grad = torch.zeros(4), torch.zeros(4)
    optimizer.step()
    assert memory.tolist() == [0.5, 0.5, 0.25, 0.25, 0.5, 0.5]
    assert taken == []


def test_other_orders_in_memory_are_stepped_one_by_one(taken):
    def make():
        torch.manual_seed(0)
        w = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
        v = torch.randn(4, 3).requires_grad_()
        w.grad, v.grad = torch.randn(2, 3, 4, 5), torch.randn(3, 4).t()
        return [w, v]

    params, others = make(), make()
    dp.AdamW(params, lr=0.1, engine="eager").step()
    torch.optim.AdamW(others, lr=0.1, foreach=False).step()
    assert taken == []
    torch.testing.assert_close(params, others)
