"""Contract: state initialization, saving and loading by torch.distributed.checkpoint."""

import copy
import math

import numpy as np
import pytest
import torch
from registry import SECOND_ORDER, each
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    _init_optim_state,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import dashpot as dp


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to(dtype)


def train(model, opt, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        opt.step()
    opt.zero_grad()


def copied(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        assert all(torch.equal(value, b["state"][key][name]) for name, value in state.items())
    assert a["param_groups"] == b["param_groups"]


@each()
def test_state_init_step_changes_only_the_state(subject):
    """The state is complete after this step, and training continues as if the step had not been taken."""
    one, two = network(), network()
    made, fresh = subject.make(one.parameters()), subject.make(two.parameters())
    before = copied(one)
    _init_optim_state(made)
    assert all(map(torch.equal, one.parameters(), before))
    assert all(set(made.state[p]) == {"step", *subject.keys} for p in one.parameters())
    assert (made.steps_done(), made.param_groups[0]["lr"]) == (0, subject.lr)
    train(one, made, 2)
    train(two, fresh, 2)
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    assert_equal(made.state_dict(), fresh.state_dict())


def resumed(subject, saved, trained, flat, **options):
    """Return a copy of the model and a new optimizer that loaded the checkpoint."""
    model, how = network(), StateDictOptions(flatten_optimizer_state_dict=flat)
    model.load_state_dict(trained.state_dict())
    opt = subject.make(model.parameters(), **options)
    set_optimizer_state_dict(model, opt, copy.deepcopy(saved), options=how)
    assert all(map(torch.equal, model.parameters(), trained.parameters()))
    return model, opt


def check_resume(subject, **options):
    """Check that a resumed run ends exactly like an uninterrupted one."""
    model = network()
    opt = subject.make(model.parameters(), **options)
    train(model, opt, 2)
    saved = [
        get_optimizer_state_dict(model, opt, options=StateDictOptions(flatten_optimizer_state_dict=flat))
        for flat in (False, True)
    ]
    copies = [resumed(subject, saved[flat], model, flat, **options) for flat in (False, True)]
    train(model, opt, 2, first=2)
    for other, resumed_opt in copies:
        assert resumed_opt.steps_done() == 2
        train(other, resumed_opt, 2, first=2)
        assert all(map(torch.equal, other.parameters(), model.parameters()))
        assert_equal(resumed_opt.state_dict(), opt.state_dict())


@each()
def test_resume_from_a_distributed_checkpoint_is_exact(subject):
    check_resume(subject)


OPTIONS = [{"state_dtype": torch.bfloat16}, {"rounding": "kahan"}, {"rounding": "stochastic"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_resume_with_low_precision_state_is_exact(options):
    check_resume(SECOND_ORDER[0], **options)


def test_saving_before_the_first_step_changes_nothing():
    """torch's own optimizers, in contrast, count the state initialization step."""
    one, two = network(), network()
    saved, straight = dp.AdamW(one.parameters()), dp.AdamW(two.parameters())
    get_optimizer_state_dict(one, saved)
    train(one, saved, 3)
    train(two, straight, 3)
    assert all(map(torch.equal, one.parameters(), two.parameters()))


def test_state_init_step_with_a_tensor_lr():
    model = network()
    opt = dp.Sophia(model.parameters(), lr=torch.tensor(0.1))
    _init_optim_state(opt)
    assert opt.param_groups[0]["lr"] == torch.tensor(0.1)
    assert opt.should_create_graph()


@pytest.mark.parametrize("lr", [0, np.float32(0), np.int64(0), torch.tensor(0, dtype=torch.float64)], ids=repr)
def test_state_init_step_accepts_every_zero_lr(lr):
    model = network()
    opt = dp.ESGD(model.parameters())
    opt.param_groups[0]["lr"] = lr
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    assert (len(opt.state), opt.steps_done()) == (4, 0)


@pytest.mark.parametrize("lr", [torch.zeros(2), None, "0", False, torch.zeros((), device="meta")], ids=repr)
def test_state_init_step_rejects_invalid_lr(lr):
    model = network()
    opt = dp.AdamW(model.parameters())
    opt.param_groups[0]["lr"] = lr
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(dp.ArgumentError, match="lr"):
        opt.step()
    assert not opt.state


@pytest.mark.parametrize("cls", [dp.ESGD, dp.AdaHessian, dp.Sophia])
def test_state_init_step_observes_and_counts_nothing(cls):
    model = network()
    opt = cls(model.parameters())
    _init_optim_state(opt)
    assert opt.curvature_stats[:4] == (None, None, 0, 0)
    assert all(not value.any() for state in opt.state.values() for value in state.values())
    assert opt.should_create_graph()


CHANGES = {
    "lr": lambda opt, p: opt.param_groups[0].update(lr=1e-30),
    "gradient": lambda opt, p: p.grad.view(-1)[0].fill_(1e-45),
    "nan": lambda opt, p: p.grad.view(-1)[0].fill_(math.nan),
    "state": lambda opt, p: opt.state[p].update(exp_avg=torch.zeros_like(p), hess_sq=torch.zeros_like(p)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_similar_steps_still_require_a_product(change):
    """A step requires a product unless all gradients and rates are zero and there is no state."""
    model = network()
    opt = dp.AdaHessian(model.parameters(), lr=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    change(opt, model[1].bias)
    with pytest.raises(dp.CurvatureError, match="a product is due"):
        opt.step()
    assert not any("step" in state for state in opt.state.values())


def test_zero_lr_step_uses_a_computed_product():
    w = torch.zeros(2, requires_grad=True)
    opt = dp.ESGD([w], lr=0.0)
    opt.backward((w**2).sum())
    opt.step()
    assert opt.curvature_stats.products == 1
    assert opt.state[w]["hess_sq"].all()


def test_state_init_step_skips_frozen_parameters():
    model = network()
    model[0].requires_grad_(False)
    opt = dp.ESGD(model.parameters())
    _init_optim_state(opt)
    assert set(opt.state) == set(model[1].parameters())
