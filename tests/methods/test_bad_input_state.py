"""Invalid gradients, checkpoints and parameters, and overshooting decays, are rejected before any write."""

import copy

import pytest
import torch
from contracts.trajectories import gradient, identical, parameters, run, values
from registry import SUBJECTS, each

import dashpot as dp


@each()
def test_sparse_gradient_is_rejected_before_any_write(subject):
    """The last gradient is sparse; the parameters before it are unchanged too."""
    params = parameters(shapes=((4,), (2,), (3, 2)))
    optimizer = subject.make([{"params": params[:1]}, {"params": params[1:]}])
    run(optimizer, params, 1)
    start, state = values(params), copy.deepcopy(optimizer.state_dict()["state"])
    for index, p in enumerate(params):
        p.grad = gradient(p, 1, index)
    params[2].grad = params[2].grad.to_sparse()
    with pytest.raises(dp.ArgumentError, match=r"gradients must be dense, got layout torch.sparse_coo .*\(3, 2\)"):
        optimizer.step()
    assert identical(params, start)
    for index, saved in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[index][slot]) for slot, value in saved.items())


@each()
def test_invalid_lr_of_the_last_group_is_rejected_before_any_write(subject):
    first, second = parameters(seed=1), parameters(seed=2)
    optimizer = subject.make([{"params": first}, {"params": second}])
    start = values(first)
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(dp.ArgumentError, match="lr must be"):
        run(optimizer, [*first, *second], 1)
    assert identical(first, start)
    assert not optimizer.state


@each()
def test_gradient_of_a_different_dtype_is_rejected_before_any_write(subject):
    params = parameters()
    optimizer = subject.make(params)
    start = values(params)
    for index, p in enumerate(params):
        p.grad = gradient(p, 0, index)
    params[-1].grad_dtype = None  # torch then accepts any dtype
    params[-1].grad = params[-1].grad.float()
    with pytest.raises(dp.ArgumentError, match=r"dtype must be its parameter's,? torch.float64, got torch.float32"):
        optimizer.step()
    assert identical(params, start)
    assert not optimizer.state


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.name in ("sgd", "adamw", "autosgm-1-zero")], ids=str)
def test_state_with_a_different_number_of_parameters_is_rejected(subject):
    first = subject.make(parameters())
    fewer = subject.make(parameters()[:2])
    grouped = subject.make([{"params": [p]} for p in parameters()])
    for other, message in ((fewer, "doesn't match the size"), (grouped, "different number of parameter groups")):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(first.state_dict())
        assert other.param_groups[0]["lr"] == subject.lr


OVERSHOOTING = {
    "AdamW": lambda p, share: dp.AdamW(p, lr=0.5, weight_decay=2 * share),
    "AdamW, by the schedule": lambda p, share: dp.AdamW(p, weight_decay=share, decay_scale="schedule"),
    "AdamW, constant": lambda p, share: dp.AdamW(p, weight_decay=share, decay_scale="constant"),
    "QHAdam": lambda p, share: dp.QHAdam(p, lr=0.5, weight_decay=2 * share),
    "NAdam": lambda p, share: dp.NAdam(p, lr=0.5, weight_decay=2 * share, decoupled_weight_decay=True),
    "AutoSGM": lambda p, share: dp.AutoSGM(p, lr=0.5, pole=0.0, weight_decay=2 * share, decay="change"),
    "AutoSGM, constant": lambda p, share: dp.AutoSGM(
        p, pole=0.0, weight_decay=share, decay="change", decay_scale="constant"
    ),
}


@pytest.mark.parametrize("name", OVERSHOOTING)
def test_overshooting_decay_warns_and_diverging_decay_is_rejected(name):
    build = OVERSHOOTING[name]
    params = parameters()
    start = values(params)
    run(build(params, 0.99), params, 1)
    params = parameters()
    with pytest.warns(UserWarning, match=r"subtracts 1\.5 times the weight per step and overshoots zero"):
        run(build(params, 1.5), params, 1)
    params = parameters()
    with pytest.raises(dp.ArgumentError, match=r"must be below 2 \(unstable\), got 2"):
        run(build(params, 2.0), params, 1)
    assert identical(params, start)


def test_zero_above_the_pole_warns():
    with pytest.warns(UserWarning, match=r"zero 0\.5 is above pole 0\.1"):
        dp.AutoSGM(parameters(), pole=0.1, zero=0.5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool], ids=str)
def test_non_float_parameter_is_rejected(dtype):
    with pytest.raises(dp.ArgumentError, match=f"Adam: parameters must be real or complex floats, got {dtype}"):
        dp.Adam([torch.zeros(2, dtype=dtype)])


def test_empty_parameter_list_is_rejected():
    with pytest.raises(ValueError, match="empty parameter list"):
        dp.Adam([])
