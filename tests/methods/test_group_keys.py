"""Keys of parameter groups: misspelt settings and optimizer arguments are rejected, other keys are kept."""

import inspect
import re

import pytest
import torch
from contracts.trajectories import identical, parameters, run
from registry import SUBJECTS, each, each_second, marked

import dashpot as dp
from dashpot.optimizers.group_keys import CARRIED, edit_distance, nearest
from dashpot.optimizers.options import OPTION_NAMES
from dashpot.optimizers.second_order_base import SecondOrder

FIRST_OF_CLASS = frozenset({item.cls: item.name for item in reversed(SUBJECTS) if item.kind}.values())
each_class = pytest.mark.parametrize("subject", marked(SUBJECTS, FIRST_OF_CLASS), ids=str)
"""The names of settings depend on the class, so that the other subjects of a class are slow tests."""

USER_KEYS = {
    "layer": 3,
    "bias": True,
    "meta": "x",
    "role": "head",
    "main": 1,
    "id": 7,
    "wd": 0.1,
    "tag": "a",
    5: "five",
}
USER_KEYS |= {"lr_mult": 2.0, "group_name": "b", "depth": 1, "is_frozen": False, "weight_decay_scale": 0.5}


def weight():
    return [torch.ones(2, requires_grad=True)]


def is_one_line(text):
    return text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: dp.AdamW([{"params": weight(), "weight_decy": 0.1}]),
            "AdamW: unknown key 'weight_decy' in a parameter group: did you mean 'weight_decay'? "
            "Put other values into extra={...}.",
        ),
        (
            lambda: dp.SGM([{"params": weight(), "rate": dp.SecondMoment()}, {"params": weight()}], lr=0.1),
            "SGM: a parameter group must not have stages, got 'rate': groups share the stages and may differ "
            "in numeric settings (none in this recipe); for different stages create a second SGM.",
        ),
        (
            lambda: dp.AdamW([{"params": weight(), "max_norm": 1.0}]),
            "AdamW: a parameter group must not have 'max_norm', an argument for all groups: pass it to AdamW(...).",
        ),
        (
            lambda: dp.AutoSGM([{"params": weight(), "lr_cgf": (True, 0.1, 1)}]),
            "AutoSGM: unknown key 'lr_cgf' in a parameter group: did you mean 'lr_cfg'? "
            "Put other values into extra={...}.",
        ),
        (
            lambda: dp.SGD([{"params": weight(), "extra": 3}]),
            "SGD: extra of a parameter group must be a dict, got int.",
        ),
        (
            lambda: dp.SGD([{"params": weight(), "differentiable": True}]),
            "SGD: differentiable must be the same in all parameter groups, False, got True.",
        ),
        (
            lambda: dp.Sophia([{"params": weight()}, {"params": weight(), "update_d_every": 3}]),
            "Sophia: update_d_every must be the same in all parameter groups, 10, got 3.",
        ),
    ],
    ids=["misspelt", "a stage", "an option", "a misspelt tuple", "extra", "differentiable", "timetable"],
)
def test_error_message(build, message):
    with pytest.raises(dp.ArgumentError) as caught:
        build()
    assert str(caught.value) == message


def arguments_of(optimizer):
    """Return all arguments of the constructor and all options."""
    arguments = [*inspect.signature(type(optimizer).__init__).parameters][2:]
    return {name for name in arguments if name != "options"} | {*OPTION_NAMES}


@each_second()
def test_group_accepts_or_rejects_every_argument(subject):
    optimizer = subject.make(parameters())
    words = arguments_of(optimizer)
    words |= (
        {"probe", "distribution", "relative_step", "process_group"} if isinstance(optimizer, SecondOrder) else set()
    )
    for word in sorted(words):
        kept_as = "momentum" if word == "pole" and "momentum" in optimizer.defaults else word
        if kept_as in optimizer.defaults:
            optimizer.add_param_group({"params": weight(), word: optimizer.defaults[kept_as]})
        elif word not in CARRIED and not word.endswith("_cfg"):
            with pytest.raises(dp.ArgumentError, match=f"a parameter group must not have .*'{word}'") as caught:
                optimizer.add_param_group({"params": weight(), word: None})
            assert is_one_line(str(caught.value))


def misspelt(name):
    """Yield misspellings, with a letter dropped, doubled or swapped, with capitals, and with dashes."""
    middle = len(name) // 2
    yield name[:middle] + name[middle] + name[middle:]
    yield name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    yield name.upper()
    if len(name) > 2:
        yield name[:middle] + name[middle + 1 :]
    if len(name) >= 7:
        yield name[:middle] + "__" + name[middle + 2 :]
    if "_" in name:
        yield name.replace("_", "-")


@each_class
def test_misspelt_setting_is_rejected_with_a_suggestion(subject):
    optimizer = subject.make([{"params": parameters()}])
    known = {*optimizer.defaults, *arguments_of(optimizer), *CARRIED}
    groups = len(optimizer.param_groups)
    for name in optimizer.defaults:
        for wrong in {word for word in misspelt(name) if word not in known and len(name) > 1}:
            pattern = re.escape(
                f"{type(optimizer).__name__}: unknown key {wrong!r} in a parameter group: did you mean "
            )
            with pytest.raises(dp.ArgumentError, match=pattern) as caught:
                optimizer.add_param_group({"params": weight(), wrong: 0.1})
            assert is_one_line(str(caught.value).replace("? ", ", "))
            assert edit_distance(wrong.lower().replace("-", "_"), re.findall("mean '(.*?)'", str(caught.value))[0]) <= 2
    assert len(optimizer.param_groups) == groups


@each()
def test_group_keeps_keys_of_users_and_of_torch(subject):
    optimizer = subject.make(parameters())
    own = {**USER_KEYS, "name": "late", "lr_scale": 0.5, "initial_lr": 0.1, "max_lr": 1.0, "min_lr": 0.0}
    own |= {"foreach": None, "fused": None, "extra": {"weight_decy": 1, "schedule": object()}}
    optimizer.add_param_group({"params": weight(), **own})
    assert {key: optimizer.param_groups[1][key] for key in own} == own


@each()
def test_keys_of_users_have_no_effect(subject):
    first, second = parameters(), parameters()
    run(subject.make(first), first, 2)
    run(subject.make([{"params": second, **USER_KEYS, "extra": {"lr": 7}}]), second, 2)
    assert identical(first, second)


@pytest.mark.parametrize("cls", [dp.AdamW, dp.SGD, dp.RMSprop, dp.NAdam, dp.Adam])
def test_groups_of_torch_optimizers_are_accepted(cls):
    for other in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop):
        theirs = other(weight(), lr=0.25)
        torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.5, total_steps=10)
        if cls is dp.AdamW and other in (torch.optim.Adam, torch.optim.NAdam):  # their groups have coupled decay
            with pytest.raises(dp.ArgumentError, match="AdamW: decoupled_weight_decay must be True, got False"):
                cls(theirs.param_groups)
            continue
        ours = cls(theirs.param_groups, lr=0.1)
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]


def test_loading_accepts_every_key():
    optimizer = dp.AdamW(weight())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["weight_decy"] = 0.5
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["weight_decy"] == 0.5


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("weigth_decay", "weight_decay"),
        ("momentun", "momentum"),
        ("learning_rate", "lr"),
        ("epsilon", "eps"),
        ("rl", "lr"),
        ("LR", "lr"),
        ("lrs", "lr"),
        ("beta", "betas"),
        ("weightDecay", "weight_decay"),
        ("epss", "eps"),
        *((str(word), None) for word in USER_KEYS),
        *((word, None) for word in ("l", "r", "ls", "ir", "kr", "op", "v2", "lay", "label", "feed", "step", "reps")),
    ],
)
def test_nearest_name(word, name):
    settings = ["lr", "betas", "eps", "weight_decay", "momentum", "debias", "pole", "gain", "seed", "zero", "nu", "v"]
    assert nearest(word, settings) == name


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "ab", 2), ("ab", "ba", 1), ("abcd", "acbd", 1), ("kitten", "sitting", 3), ("x", "x", 0)],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance
