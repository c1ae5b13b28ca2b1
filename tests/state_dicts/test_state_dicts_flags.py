"""Flags of saved groups, such as decoupled decay, Nesterov and amsgrad, are loaded together with the state."""

import copy
from dataclasses import dataclass

import pytest
import torch
from contracts.trajectories import distance, parameters, run

import dashpot as dp


def stepped(optimizer, w):
    w.grad = torch.ones_like(w)
    optimizer.step()
    return optimizer


def one_weight():
    return torch.ones(1, dtype=torch.float64, requires_grad=True)


def after_the_next_step(saved_by, loaded_into, **settings):
    w = one_weight()
    first = stepped(saved_by([w], lr=0.1, weight_decay=0.5, **settings), w)
    after_one = w.item()
    second = loaded_into([w])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    stepped(second, w)
    return after_one, w.item(), second


OURS_AND_TORCHS = (dp, torch.optim)


@pytest.mark.parametrize("saving", OURS_AND_TORCHS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("loading", OURS_AND_TORCHS, ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("saved_by", "loaded_into", "first", "second"),
    [
        ("AdamW", "AdamW", 0.85, 0.7075),
        ("AdamW", "Adam", 0.85, 0.7075),
        ("Adam", "Adam", 0.9, 0.8001),
        ("Adam", "AdamW", 0.9, 0.75796),
    ],
)
def test_kind_of_decay_is_kept_on_load(saving, loading, saved_by, loaded_into, first, second):
    """The values are lr 0.1, weight_decay 0.5, weight 1 and gradient 1."""
    one, two, optimizer = after_the_next_step(getattr(saving, saved_by), getattr(loading, loaded_into))
    assert one == pytest.approx(first, abs=1e-6)
    assert two == pytest.approx(second, abs=2e-5)
    decoupled = "AdamW" in (saved_by, loaded_into)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is decoupled
    if loading is dp:
        assert any(isinstance(stage, dp.DecoupledDecay) for stage in optimizer.recipe.stages) is decoupled
        assert ("DecoupledDecay(weight_decay=0.5)" in repr(optimizer)) is decoupled
        assert ("CoupledDecay(weight_decay=0.5)" in repr(optimizer)) is not decoupled or decoupled


FLAGS = [
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.3}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True}),
    ("Adam", {"maximize": True}),
    ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"momentum": 0.9, "maximize": True}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True, "maximize": True}),
    ("Adagrad", {"maximize": True, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
]


@pytest.mark.diagonal
@pytest.mark.parametrize(("name", "settings"), FLAGS, ids=str)
@pytest.mark.parametrize(("saving", "loading"), [(torch.optim, dp), (dp, torch.optim), (dp, dp)])
def test_flags_come_from_the_saved_group(saving, loading, name, settings):
    """Conversely, loading a group without the flag disables the flag."""
    for mine, others in ((settings, {}), ({key: settings[key] for key in settings if key == "momentum"}, settings)):
        start, straight = parameters(torch.float64), parameters(torch.float64)
        first = getattr(saving, name)(start, lr=0.01, **mine)
        reference = getattr(torch.optim, name)(straight, lr=0.01, **mine)
        run(first, start, 3)
        second = getattr(loading, name)(start, **others)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        run(second, start, range(3, 6))
        run(reference, straight, 6)
        assert distance(start, straight) < (1e-8 if name == "NAdam" else 1e-11)  # torch stores mu_product in float32


@pytest.mark.parametrize(("name", "settings"), FLAGS, ids=str)
def test_flags_missing_in_old_checkpoints_are_off(name, settings):
    flags = [key for key, value in settings.items() if value is True]
    params = parameters()
    saved = getattr(torch.optim, name)(params).state_dict()
    for flag in flags:
        del saved["param_groups"][0][flag]
    for module in OURS_AND_TORCHS:
        optimizer = getattr(module, name)(params, **settings)
        optimizer.load_state_dict(copy.deepcopy(saved))
        assert all(optimizer.param_groups[0].get(flag, False) is False for flag in flags)


def test_rmsprop_checkpoint_without_momentum():
    params = parameters()
    saved = torch.optim.RMSprop(params).state_dict()
    del saved["param_groups"][0]["momentum"]
    optimizer = dp.RMSprop(params, momentum=0.5)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize(("cls", "nesterov"), [(dp.HeavyBall, False), (dp.NAG, True)])
@pytest.mark.parametrize("module", OURS_AND_TORCHS, ids=lambda m: m.__name__)
def test_heavy_ball_and_nag_exchange_checkpoints_with_sgd(cls, nesterov, module):
    start, straight = parameters(), parameters()
    for first, into in (
        (cls(start, lr=0.01, pole=0.8), lambda: module.SGD(start)),
        (module.SGD(start, lr=0.01, momentum=0.8, nesterov=nesterov), lambda: cls(start)),
    ):
        with torch.no_grad():
            for p, q in zip(start, straight, strict=True):
                q.copy_(p)
        run(first, start, 3)
        second = into()
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        run(second, start, range(3, 6))
        run(torch.optim.SGD(straight, lr=0.01, momentum=0.8, nesterov=nesterov), straight, 6)
        assert distance(start, straight) < 1e-12


@pytest.mark.parametrize(
    ("saved_by", "loaded_into", "words"),
    [
        (dp.HeavyBall, dp.NAG, "nesterov must be True, got False"),
        (dp.NAG, dp.HeavyBall, "nesterov must be False, got True"),
        (lambda p: dp.SGD(p, momentum=0.9, dampening=0.5), dp.HeavyBall, "dampening must be 0, got 0.5"),
        (
            lambda p: dp.AdamW(p, decay_scale="constant"),
            dp.Adam,
            "must not have decay_scale='constant', a setting of a different method",
        ),
        (dp.QHAdam, dp.AdamW, "of a different method"),
        (dp.CenteredAdam, dp.AdamW, "of a different method"),
        (dp.NAdam, dp.Adam, "got exp_avg, exp_avg_sq, mu_product, step, of a different method"),
        (torch.optim.NAdam, dp.AdamW, "of a different method"),
        (torch.optim.Adamax, dp.Adam, "of a different method"),
        (lambda p: dp.ESGD(p, probe=lambda ws, us: us), dp.AdamW, "a setting of a different method"),
    ],
)
def test_settings_of_a_different_method_are_rejected(saved_by, loaded_into, words):
    w = one_weight()
    first, second = stepped(saved_by([w]), w), loaded_into([one_weight()])
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(dp.ArgumentError, match=words):
        second.load_state_dict(first.state_dict())
    assert second.state_dict() == before


@pytest.mark.parametrize("cls", [dp.ESGD, dp.AdaHessian, dp.Sophia, dp.NAdam, dp.CenteredAdam])
def test_slots_of_a_different_method_are_rejected(cls):
    """The saved group itself is valid."""
    w, v = one_weight(), one_weight()
    known = {"probe": lambda ws, us: us} if issubclass(cls, dp.SecondOrder) else {}
    first, second = stepped(cls([w], **known), w), stepped(dp.AdamW([v]), v)
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(
        dp.ArgumentError, match=r"^AdamW: the saved state of parameter 0 must have .* of a different method"
    ):
        second.load_state_dict({**second.state_dict(), "state": first.state_dict()["state"]})
    assert second.state_dict() == before


@pytest.mark.parametrize(
    ("saved_by", "loaded_into"),
    [
        (lambda p: dp.SGD(p, momentum=0.9), dp.AdamW),
        (
            lambda p: dp.SGM(p, filter=dp.Filter(0.9)),
            lambda p: dp.SGM(p, filter=dp.Filter(0.9), rate=dp.SecondMoment()),
        ),
        (dp.Adam, dp.AutoSGM),
    ],
)
def test_group_of_a_different_method_is_rejected(saved_by, loaded_into):
    w, v = one_weight(), one_weight()
    first, second = stepped(saved_by([w]), w), loaded_into([v])
    with pytest.raises(dp.ArgumentError, match="of a different method"):
        second.load_state_dict(first.state_dict())
    assert not second.state


def test_empty_state_dict_is_rejected():
    with pytest.raises(dp.ArgumentError, match="'state' and 'param_groups'"):
        dp.Adam([one_weight()]).load_state_dict({})


@dataclass(frozen=True)
class Remembering(dp.Stage):
    slots = (dp.elementwise("seen", "seen_gradients"),)

    def apply(self, x, s, c, ctx):
        return x, s._replace(seen=s.seen + x.g)


def test_slots_of_a_custom_stage_are_rejected_elsewhere():
    w, v = one_weight(), one_weight()
    first = stepped(dp.SGM([w], filter=dp.Filter(0.9), rate=Remembering()), w)
    second = dp.SGM([v], filter=dp.Filter(0.9))
    with pytest.raises(dp.ArgumentError, match=r"seen_gradients, step, of a different method"):
        second.load_state_dict(first.state_dict())


def test_leftover_amsgrad_slot_is_accepted():
    """After amsgrad is disabled, torch still saves and loads its slot."""
    w = one_weight()
    first = stepped(torch.optim.Adam([w], amsgrad=True), w)
    first.param_groups[0]["amsgrad"] = False
    second = dp.Adam([w])
    second.load_state_dict(first.state_dict())
    assert "max_exp_avg_sq" in second.state[w]
    stepped(second, w)


@pytest.mark.parametrize("give", ["to a group", "by an edit"])
def test_adamw_without_decoupled_decay_is_rejected(give):
    w = one_weight()
    message = "AdamW: decoupled_weight_decay must be True, got False"
    if give == "to a group":
        with pytest.raises(dp.ArgumentError, match=message):
            dp.AdamW([{"params": [w], "decoupled_weight_decay": False}])
        return
    optimizer = dp.AdamW([w])
    optimizer.param_groups[0]["decoupled_weight_decay"] = False
    with pytest.raises(dp.ArgumentError, match=message):
        stepped(optimizer, w)
    assert w.item() == 1.0


def test_repr_shows_lazy_parameters_and_maximize():
    model = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(4, 2))
    optimizer = dp.SGD(model.parameters(), maximize=True)
    assert "group 0: 4 tensors, 10 elements, 2 uninitialized, maximize=True" in repr(optimizer)
