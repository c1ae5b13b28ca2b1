"""Contract: state keys, shapes and step counts, which equal those of torch for methods that torch also has."""

import torch
from contracts.trajectories import parameters, run
from registry import each


@each()
def test_state_has_the_documented_keys(subject):
    params = parameters()
    optimizer = subject.make(params)
    assert not optimizer.state
    run(optimizer, params, 3)
    for p in params:
        assert set(optimizer.state[p]) == {"step", *subject.keys}


@each()
def test_step_count_equals_torchs(subject):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 3, missing=lambda step, index: index == 1 and step == 0)
    steps = [optimizer.state[p]["step"] for p in params]
    assert [int(step) for step in steps] == [3, 2, 3]
    assert all(step.shape == () and step.dtype == torch.float32 and step.device.type == "cpu" for step in steps)
    assert optimizer.steps_done() == 3


@each()
def test_state_shapes_match_the_slots(subject):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 1)
    slots = {slot.key: slot.shape for slot in optimizer.recipe.slots}
    for p in params:
        shapes = {key: p.shape if shape == "elementwise" else () for key, shape in slots.items()}
        assert {key: optimizer.state[p][key].shape for key in slots} == shapes
        assert not any(value.requires_grad for value in optimizer.state[p].values())


@each(lambda subject: subject.counterpart)
def test_state_keys_equal_torchs(subject):
    ours, theirs = parameters(), parameters()
    optimizer, reference = subject.make(ours), subject.make_torch(theirs)
    run(optimizer, ours, 1)
    run(reference, theirs, 1)
    for p, q in zip(ours, theirs, strict=True):
        expected = {key for key, value in reference.state[q].items() if value is not None}
        assert set(optimizer.state[p]) == expected | {"step"}  # torch's SGD does not count steps
