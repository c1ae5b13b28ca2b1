"""Invalid settings, generated from the constraints, raise one message with owner, name, range and value."""

import copy
import inspect
import re

import pytest
import torch
from contracts.trajectories import SMALL, identical, parameters, run, values
from subjects import known_products

import dashpot as dp
from dashpot.constraints import ARGUMENTS
from dashpot.optimizers import registry
from dashpot.optimizers.options import OPTION_NAMES
from dashpot.schedules import Schedule

CLASSES = [row.cls for row in registry.METHODS.values()]
KEPT_AS = {"pole": "momentum"}
NOT_READ_IN_A_STEP = ("foreach", "fused", "differentiable")
"""Settings that have no effect or are fixed at construction."""


def arguments_of(cls):
    names = [name for name in (*inspect.signature(cls.__init__).parameters, *OPTION_NAMES) if name in ARGUMENTS]
    names = [name for name in dict.fromkeys(names) if name not in ("seed", "capturable")]
    assert "lr" in names
    return names


def made(cls, params, **options):
    """Return an optimizer with default settings and, if it uses products, with known products."""
    known = {"probe": known_products} if issubclass(cls, dp.SecondOrder) and cls is not dp.SGM else {}
    return cls(params, **known, **options)


CASES = [(cls, name) for cls in CLASSES for name in arguments_of(cls)]
IDS = [f"{cls.__name__}-{name}" for cls, name in CASES]
each_argument = pytest.mark.parametrize(("cls", "name"), CASES, ids=IDS)


def rejected_values(cls, name):
    """Return values that the constraint rejects. In AutoSGM, None means that the keyword is omitted."""
    refused = ARGUMENTS[name].refused()
    assert len(refused) >= 3
    parameter = inspect.signature(cls.__init__).parameters.get(name)
    optional = cls is dp.AutoSGM and parameter is not None and parameter.default is None
    return [value for value in refused if not (optional and value is None)]


def message(cls, name, value):
    """Return a pattern for the complete message."""
    return "^" + re.escape(f"{cls.__name__}: {name} must be {ARGUMENTS[name]}, got {value!r}.") + "$"


@each_argument
def test_constructor_rejects_invalid_values(cls, name):
    for value in rejected_values(cls, name):
        with pytest.raises(dp.ArgumentError, match=message(cls, name, value)):
            cls(parameters(), **{name: value})


@each_argument
def test_invalid_value_in_a_new_group_changes_nothing(cls, name):
    params = parameters(shapes=SMALL)
    optimizer = made(cls, params)
    run(optimizer, params, 1)
    start, groups = values(params), copy.deepcopy(optimizer.state_dict()["param_groups"])
    for value in ARGUMENTS[name].refused():
        group = {"params": [torch.zeros(2, requires_grad=True)], name: value}
        with pytest.raises(dp.ArgumentError, match=message(cls, name, value)):
            optimizer.add_param_group(group)
    assert optimizer.state_dict()["param_groups"] == groups
    assert identical(params, start)


@pytest.mark.parametrize(("cls", "name"), [case for case in CASES if case[1] not in NOT_READ_IN_A_STEP])
def test_invalid_value_in_an_edited_group_changes_nothing(cls, name):
    params = parameters(shapes=SMALL)
    optimizer = made(cls, params)
    run(optimizer, params, 1)
    start, state = values(params), copy.deepcopy(optimizer.state_dict()["state"])
    key = KEPT_AS.get(name, name)
    good = optimizer.param_groups[0][key]
    for value in [*ARGUMENTS[name].refused(), {}, [[]]]:
        optimizer.param_groups[0][key] = value
        with pytest.raises(dp.ArgumentError, match=message(cls, name, value)):
            run(optimizer, params, [1])
    assert identical(params, start)
    for index, saved in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[index][slot]) for slot, value in saved.items())
    optimizer.param_groups[0][key] = good
    run(optimizer, params, [1])
    straight = parameters(shapes=SMALL)
    run(made(cls, straight), straight, 2)
    assert identical(params, straight)


@each_argument
def test_invalid_value_in_a_checkpoint_changes_nothing(cls, name):
    params = parameters(shapes=SMALL)
    optimizer = made(cls, params)
    run(optimizer, params, 1)
    saved, before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][KEPT_AS.get(name, name)] = ARGUMENTS[name].refused()[0]
    with pytest.raises(dp.ArgumentError, match=f"{cls.__name__}: {name} must be"):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("value", [-1.0, float("nan"), torch.tensor(-1.0), torch.tensor(float("nan")), torch.ones(2)])
def test_invalid_lr_is_rejected_as_number_and_tensor(cls, value):
    with pytest.raises(dp.ArgumentError, match=rf"^{cls.__name__}: lr must be a number in \[0, inf\), got "):
        cls(parameters(), lr=value)
    optimizer = made(cls, parameters())
    optimizer.param_groups[0]["lr"] = value
    with pytest.raises(dp.ArgumentError, match=rf"^{cls.__name__}: lr must be a number in \[0, inf\), got "):
        run(optimizer, optimizer.param_groups[0]["params"], 1)


MESSAGES = [
    (lambda: dp.HeavyBall(parameters(), pole=1), "HeavyBall: pole must be a number in [0, 1), got 1."),
    (lambda: dp.Filter(pole=1), "Filter: pole must be a number in [0, 1), got 1."),
    (lambda: dp.Filter(zero=1), "Filter: zero must be a number in (-inf, 1), got 1."),
    (lambda: dp.Filter(zero=1.5), "Filter: zero must be a number in (-inf, 1), got 1.5."),
    (lambda: dp.AutoSGM(parameters(), zero=1.0), "AutoSGM: zero must be a number in (-inf, 1), got 1.0."),
    (lambda: dp.SGD(parameters(), lr=-1), "SGD: lr must be a number in [0, inf), got -1."),
    (lambda: dp.Adam(parameters(), lr=float("nan")), "Adam: lr must be a number in [0, inf), got nan."),
    (lambda: dp.Recipe(lr=-1.0), "Recipe: lr must be a number in [0, inf), got -1.0."),
    (
        lambda: dp.SGD(parameters(), nesterov=True),
        "SGD: nesterov requires momentum in (0, 1) and dampening 0, got momentum=0, dampening=0.",
    ),
    (
        lambda: dp.SGD(parameters(), momentum=0.9, nesterov=True, dampening=0.5),
        "SGD: nesterov requires momentum in (0, 1) and dampening 0, got momentum=0.9, dampening=0.5.",
    ),
    (
        lambda: dp.Filter(0.9, gain=1.0, normalise="exact"),
        "Filter: gain must be None with normalise='exact', got 1.0.",
    ),
    (
        lambda: dp.Filter(0.9, zero=0.1, normalise="running"),
        "Filter: zero must be 0 with normalise='running', got 0.1.",
    ),
    (
        lambda: dp.Recipe(dp.Filter(0.9), dp.Filter(0.5)),
        "Recipe: two stages use the state key 'momentum_buffer'; rename the slot of one of them.",
    ),
    (lambda: dp.Recipe(0.9), "Recipe: every positional argument must be a Stage, got 0.9."),
    (
        lambda: dp.SGM(parameters(), filter="ema"),
        "SGM: filter must be None, a Stage or a sequence of Stages, got 'ema'.",
    ),
    (
        lambda: dp.SGM(parameters(), rate=[dp.SecondMoment(), 3]),
        f"SGM: rate must be None, a Stage or a sequence of Stages, got [{dp.SecondMoment()!r}, 3].",
    ),
    (
        lambda: dp.SGM(parameters(), filter=(dp.Filter(0.9), dp.Filter(0.5))),
        "Recipe: two stages use the state key 'momentum_buffer'; rename the slot of one of them.",
    ),
]


@pytest.mark.parametrize(("build", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_error_message_states_owner_range_and_value(build, message):
    with pytest.raises(dp.ArgumentError) as caught:
        build()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("ask", "kind", "near"),
    [
        (lambda: registry.get("adamm"), "method 'adamm'", "adam"),
        (lambda: registry.get("heavyball"), "method 'heavyball'", "heavy-ball"),
        (
            lambda: dp.Recipe.from_dict({"stages": [{"stage": "Filtre"}], "lr": 0.1, "schedule": {}}),
            "stage 'Filtre'",
            "Filter",
        ),
        (
            lambda: dp.AutoSGM(parameters(), quirks=("maximise_negates_decay",)),
            "quirk 'maximise_negates_decay'",
            "maximize_negates_decay",
        ),
        (lambda: dp.schedules.from_name("cosin", 10), "schedule 'cosin'", "cosine"),
        (lambda: Schedule.from_dict({"schedule": "Cosin", "steps": 3}), "schedule 'Cosin'", "Cosine"),
    ],
    ids=["method", "method with a dash", "stage", "quirk", "schedule by name", "schedule in a file"],
)
def test_unknown_name_suggests_the_nearest(ask, kind, near):
    with pytest.raises(dp.ArgumentError, match=rf"^Unknown {kind}: did you mean '{near}'\? Known: .*{near}"):
        ask()


def test_unknown_name_without_a_near_one_lists_all():
    with pytest.raises(
        dp.ArgumentError, match=r"^Unknown method 'zzz'\. Known: adagrad, adahessian, adam, adamw, autosgm"
    ):
        registry.get("zzz")
