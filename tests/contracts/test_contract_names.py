"""Contract: state is matched by parameter name, or by position without names."""

import pytest
import torch
from contracts.trajectories import gradient, identical, parameters, run
from registry import each

import dashpot as dp

SHAPES = ((3,), (3,), (3,))
NAMES = ("first", "second", "third")
ORDER = (2, 0, 1)


def named(params, names=NAMES):
    return list(zip(names, params, strict=True))


def feed(optimizer, params, steps, order=(0, 1, 2)):
    """Run steps in which `params[i]` receives the gradients recorded for parameter `order[i]`."""
    for step in steps:
        for p, index in zip(params, order, strict=True):
            p.grad = gradient(p, step, index)
        optimizer.step()


@each()
def test_state_is_matched_by_name_in_any_order(subject):
    straight = parameters(shapes=SHAPES)
    feed(subject.make(named(straight)), straight, range(6))
    params = parameters(shapes=SHAPES)
    first = subject.make(named(params))
    feed(first, params, range(3))
    moved = [params[index].detach().clone().requires_grad_() for index in ORDER]
    second = subject.make(named(moved, [NAMES[index] for index in ORDER]))
    second.load_state_dict(first.state_dict())
    feed(second, moved, range(3, 6), ORDER)
    assert identical(moved, [straight[index] for index in ORDER])
    assert second.param_groups[0]["param_names"] == [NAMES[index] for index in ORDER]


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("with_names", [(False, False), (True, False), (False, True)], ids=str)
def test_state_is_matched_by_position_without_names(subject, with_names):
    straight = parameters(shapes=SHAPES)
    run(subject.make(straight), straight, 6)
    params = parameters(shapes=SHAPES)
    saver_named, loader_named = with_names
    first = subject.make(named(params) if saver_named else params)
    run(first, params, 3)
    again = [p.detach().clone().requires_grad_() for p in params]
    second = subject.make(named(again) if loader_named else again)
    second.load_state_dict(first.state_dict())
    run(second, again, range(3, 6))
    assert identical(again, straight)


def test_state_is_matched_by_name_across_groups():
    params = parameters(shapes=SHAPES)
    first = dp.Adam([{"params": named(params)[:1]}, {"params": named(params)[1:], "lr": 0.5}])
    run(first, params, 3)
    others = parameters(shapes=SHAPES)
    pairs = named(others)
    second = dp.Adam([{"params": [pairs[2], pairs[1]]}, {"params": [pairs[0]]}])
    second.load_state_dict(first.state_dict())
    for p, q in zip(params, others, strict=True):
        assert torch.equal(second.state[q]["exp_avg"], first.state[p]["exp_avg"])
    assert [group["lr"] for group in second.param_groups] == [0.5, 1e-3]  # settings are also matched by name


def test_merging_groups_with_different_settings_is_rejected():
    params = parameters(shapes=SHAPES)
    first = dp.Adam([{"params": named(params)[:1]}, {"params": named(params)[1:], "lr": 0.5}])
    run(first, params, 3)
    pairs = named(parameters(shapes=SHAPES))
    second = dp.Adam([{"params": [pairs[2], pairs[0]]}, {"params": [pairs[1]]}])
    with pytest.raises(dp.ArgumentError, match="were saved with different lr"):
        second.load_state_dict(first.state_dict())
    assert not second.state


def test_ambiguous_names_are_matched_by_position():
    """Two models in one optimizer can both have a `weight`."""

    def groups(params):
        return [{"params": [("weight", params[0])]}, {"params": [("weight", params[1]), ("bias", params[2])]}]

    params, others = parameters(shapes=SHAPES), parameters(shapes=SHAPES)
    first, second = dp.Adam(groups(params)), dp.Adam(groups(others))
    run(first, params, 3)
    second.load_state_dict(first.state_dict())
    for p, q in zip(params, others, strict=True):
        assert torch.equal(second.state[q]["exp_avg"], first.state[p]["exp_avg"])
