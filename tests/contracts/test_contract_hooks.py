"""Contract: torch's hooks of step, state_dict and load_state_dict, and closures."""

import pytest
import torch
from contracts.trajectories import gradient, identical, parameters, run
from registry import each


@each()
def test_step_hooks_run_before_and_after(subject):
    params = parameters()
    optimizer = subject.make(params)
    events = []
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: events.append(("before", params[0].detach().clone())))
    handle = optimizer.register_step_post_hook(lambda opt, args, kwargs: events.append(("after", params[0].clone())))
    start = params[0].detach().clone()
    run(optimizer, params, 1)
    assert [name for name, _ in events] == ["before", "after"]
    assert torch.equal(events[0][1], start)
    assert torch.equal(events[1][1], params[0])
    handle.remove()
    run(optimizer, params, 1)
    assert [name for name, _ in events] == ["before", "after", "before"]


@each()
def test_step_pre_hook_can_change_gradients(subject):
    """Hooks may be used for gradient clipping."""
    params, others = parameters(), parameters()
    first, second = subject.make(params), subject.make(others)

    def halve(optimizer, args, kwargs):
        for p in params:
            p.grad.mul_(0.5)

    first.register_step_pre_hook(halve)
    run(first, params, 3)
    for step in range(3):
        for index, p in enumerate(others):
            p.grad = 0.5 * gradient(p, step, index)
        second.step()
    assert identical(params, others)


@each()
def test_state_dict_hooks_can_replace_the_result(subject):
    optimizer = subject.make(parameters())
    events = []
    optimizer.register_state_dict_pre_hook(lambda opt: events.append("before"))
    optimizer.register_state_dict_post_hook(lambda opt, saved: {**saved, "note": "mine"})
    assert optimizer.state_dict()["note"] == "mine"
    assert events == ["before"]


@each()
def test_load_hooks_can_replace_the_state_dict(subject):
    params, others = parameters(), parameters()
    first, second = subject.make(params), subject.make(others)
    run(first, params, 2)
    order = []

    def replace(optimizer, saved):
        order.append("before")
        groups = [{**group, "lr": 0.125} for group in saved["param_groups"]]
        return {**saved, "param_groups": groups}

    def loaded(optimizer):
        order.append("after")
        # In a post-hook the state is final, including dtypes.
        pairs = zip(params, others, strict=True)
        assert all(torch.equal(second.state[q][key], first.state[p][key]) for p, q in pairs for key in subject.keys)

    second.register_load_state_dict_pre_hook(replace)
    second.register_load_state_dict_post_hook(loaded)
    second.load_state_dict(first.state_dict())
    assert order == ["before", "after"]
    assert second.param_groups[0]["lr"] == 0.125


@each()
def test_loading_removes_its_hooks(subject):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad], ids=["enabled", "disabled"])
def test_closure_is_called_once_with_grad_enabled(subject, mode):
    params, others = parameters(), parameters()
    calls = []

    def loss_of(tensors):
        return sum((p**2).sum() for p in tensors)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss

    optimizer, plain = subject.make(params), subject.make(others)
    expected = loss_of(others)
    expected.backward()
    with mode():
        returned = optimizer.step(closure)
    plain.step()
    assert calls == [True]
    assert torch.equal(returned, expected)
    assert identical(params, others)


@each()
def test_weights_stay_leaves_that_require_grad(subject):
    params = parameters()
    run(subject.make(params), params, 2)
    assert all(p.is_leaf and p.requires_grad and p.grad_fn is None for p in params)
