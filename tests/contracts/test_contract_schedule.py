"""schedule=: a pure function of the steps done, on any setting; resuming and rebuilding change nothing."""

from dataclasses import dataclass

import pytest
from contracts.trajectories import distance, identical, parameters, run
from registry import each

import dashpot as dp
from dashpot.constraints import ARGUMENTS
from dashpot.schedules import Cosine, Exponential, OneCycleMomentum, hyperparams

FALLING = Cosine(20, floor=0.1)
CHANGING = Exponential(0.9)


def scalar_settings(subject):
    """The names under which a schedule can reach the numbers of a group: pairs by their entries."""
    optimizer = subject.make(parameters(), schedule=None)
    names = []
    for name, value in optimizer.defaults.items():
        if isinstance(value, tuple) and len(value) == 2:
            names += [f"{name}[0]", f"{name}[1]"]
        elif isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
            names.append(name)
    whole = ("numerator", "uncentered_steps", "version", "probe_seed", "update_d_every", "d_warmup")
    return [name for name in names if name not in ("lr", *whole)]


def scheduled(subject, params, schedule, **changes):
    return subject.make(params, schedule=schedule, **changes)


def lr_is_a_plain_factor(subject):
    """The schedule multiplies an estimated numerator, and drives a decay of its own: there lr alone is not the same."""
    estimated = any(hasattr(stage, "smoothing") for stage in subject.make(parameters()).recipe.stages)
    return subject.lr_moves_all and not estimated


@each(lr_is_a_plain_factor)
def test_lr_follows_the_schedule(subject):
    """As if the group's lr were written by hand before every step."""
    params, others = parameters(), parameters()
    first, second = scheduled(subject, params, FALLING), subject.make(others, schedule=None)
    for step in range(8):
        second.param_groups[0]["lr"] = FALLING.value(subject.lr, step)
        assert first.current_lr() == pytest.approx(second.current_lr(), rel=1e-15)
        run(first, params, [step])
        run(second, others, [step])
    assert distance(params, others) < 1e-14  # (lr factor) v against lr (factor v): roundings


@each()
def test_every_setting_follows_a_schedule(subject):
    for name in scalar_settings(subject):
        params, others = parameters(), parameters()
        first, second = scheduled(subject, params, {name: CHANGING}), subject.make(others, schedule=None)
        base = hyperparams.read(second.param_groups[0], name)
        for step in range(4):
            hyperparams.write(second.param_groups[0], name, CHANGING.value(base, step))
            run(first, params, [step])
            run(second, others, [step])
        assert identical(params, others)


@each(lambda subject: not subject.flips_decay)
def test_the_recipe_carries_the_schedule_of_a_setting_or_says_why_not(subject):
    """What it carries is the method: run from the recipe alone, the numbers are the same."""
    for name in scalar_settings(subject):
        params, others = parameters(), parameters()
        optimizer = scheduled(subject, params, {name: CHANGING})
        assert repr(CHANGING) in repr(optimizer) or without_effect(optimizer, name)
        formula = (subject.cls, name) in MOVED_BY_FORMULA or moves_the_gain(subject, name)
        if formula and not without_effect(optimizer, name):
            with pytest.raises(dp.ArgumentError, match=r"the schedule of .* cannot be part of a recipe"):
                optimizer.recipe  # noqa: B018
            continue
        run(optimizer, params, 4)
        run(dp.SGM.from_recipe(others, optimizer.recipe, **subject.probing), others, 4)
        assert distance(others, params) < 1e-15  # the same arithmetic


MOVED_BY_FORMULA = {
    (dp.NAG, "momentum"),
    (dp.QHM, "momentum"),
    (dp.QHM, "nu"),
    (dp.QHAdam, "betas[0]"),
    (dp.QHAdam, "nus[0]"),
    (dp.SGD, "dampening"),
    (dp.ESGD, "betas[0]"),
    (dp.ESGD, "v"),
}


def moves_the_gain(subject, name):
    """Nesterov's zero, the factor of AutoSGM's decay and its gain are formulas of the pole and the zero."""
    options = subject.options
    by_decay = options.get("decay") == "change" and name in ("momentum", "zero")
    plain = options.get("debias", True) is False
    by_gain = plain and (name == "gain" or (name == "zero" and "gain" in options))
    return (options.get("nesterov") and name == "momentum") or by_decay or by_gain


def without_effect(optimizer, name):
    """Settings of what is switched off: nothing in the recipe is theirs."""
    group = optimizer.param_groups[0]
    unused = {
        "dampening": group.get("momentum") == 0 or group.get("nesterov"),
        "gain": bool(group.get("debias")),
        "beta_n": group.get("numerator") == 0 or not group.get("adaptive"),
        "beta_a": not group.get("adaptive"),
        "eps": not group.get("adaptive"),
    }
    return unused.get(name, False)


CARRIED = {
    dp.Adam: {"betas[0]": "pole", "betas[1]": "beta", "pole": "pole", "eps": "eps", "weight_decay": "weight_decay"},
    dp.NAdam: {"betas[0]": "beta", "betas[1]": "beta_2"},
    dp.RMSprop: {"alpha": "beta", "momentum": "pole"},
    dp.HeavyBall: {"pole": "pole", "momentum": "pole"},
    dp.QHAdam: {"nus[1]": "nu"},
    dp.AutoSGM: {"beta_a": "beta", "zero": "zero", "momentum": "pole"},
}
PAIRS = [(cls, name, carrier) for cls, names in CARRIED.items() for name, carrier in names.items()]


@pytest.mark.parametrize(("cls", "name", "carrier"), PAIRS, ids=[f"{c.__name__}-{n}" for c, n, _ in PAIRS])
def test_a_schedule_is_carried_under_the_name_of_the_stage_that_it_moves(cls, name, carrier):
    assert dict(cls(parameters(), schedule={name: CHANGING}).recipe.schedule) == {carrier: CHANGING}


@pytest.mark.parametrize(("cls", "name"), sorted(MOVED_BY_FORMULA, key=str), ids=str)
def test_a_schedule_that_moves_others_by_a_formula_is_printed_beside_the_recipe(cls, name):
    settings = {dp.SGD: {"momentum": 0.9, "dampening": 0.5}, dp.ESGD: {"v": 0.7}}.get(cls, {})
    optimizer = cls(parameters(), **settings, schedule={name: CHANGING})
    with pytest.raises(
        dp.ArgumentError, match=r"the schedule of .* cannot be part of a recipe, since .* is computed from it"
    ):
        optimizer.recipe  # noqa: B018
    assert f"schedule={{{name!r}: {CHANGING!r}}}" in repr(optimizer)


@each()
def test_resuming_gives_the_same_values(subject):
    straight = parameters()
    whole = scheduled(subject, straight, FALLING)
    run(whole, straight, 10)
    params = parameters()
    first = scheduled(subject, params, FALLING)
    run(first, params, 5)
    again = [p.detach().clone().requires_grad_() for p in params]
    second = scheduled(subject, again, FALLING)
    second.load_state_dict(first.state_dict())
    assert second.current_lr() == first.current_lr() == pytest.approx(FALLING.value(subject.lr, 5), rel=1e-15)
    run(second, again, range(5, 10))
    assert identical(again, straight)
    assert second.current_lr() == whole.current_lr()


@each(lambda subject: subject.momentum_key)
def test_momentum_cycles_as_in_one_cycle(subject):
    cycle = OneCycleMomentum(steps=8)
    params, others = parameters(), parameters()
    first, second = scheduled(subject, params, {"momentum": cycle}), subject.make(others, schedule=None)
    for step in range(4):
        hyperparams.write(second.param_groups[0], "momentum", cycle(step))
        run(first, params, [step])
        run(second, others, [step])
    assert identical(params, others)


@each()
def test_the_groups_keep_their_base_values(subject):
    params = parameters()
    optimizer = scheduled(subject, params, FALLING)
    run(optimizer, params, 5)
    assert optimizer.param_groups[0]["lr"] == subject.lr


@each()
def test_parameters_that_miss_steps_follow_the_steps_of_the_optimizer(subject):
    params = parameters()
    optimizer = scheduled(subject, params, FALLING)
    run(optimizer, params, 6, missing=lambda step, index: index == 0 and step < 5)
    assert optimizer.steps_done() == 6
    assert optimizer.current_lr() == pytest.approx(FALLING.value(subject.lr, 6), rel=1e-15)


@each()
@pytest.mark.parametrize("bad", [0.5, "cosine", max, {"lr": 0.5}, [Cosine(10)]], ids=str)
def test_something_that_is_no_schedule_is_refused(subject, bad):
    owner = "Recipe" if subject.recipe else subject.cls.__name__
    with pytest.raises(dp.ArgumentError, match=f"{owner}: schedule must be None, a Schedule or a mapping"):
        subject.make(parameters(), schedule=bad)


@each()
def test_a_schedule_of_an_unknown_setting_is_refused_at_once(subject):
    with pytest.raises(dp.ArgumentError, match=r"no (setting|hyperparameter) 'learning_rate'"):
        subject.make(parameters(), schedule={"learning_rate": Cosine(10)})


@pytest.mark.parametrize("name", ["betas", "nesterov", "amsgrad", "foreach"])
def test_a_setting_that_is_no_number_cannot_be_scheduled(name):
    cls = dp.SGD if name == "nesterov" else dp.Adam
    reasons = f"the scheduled {name} must be a number", f"{name} is a pair", f"no hyperparameter '{name}'"
    with pytest.raises(dp.ArgumentError, match="|".join(reasons)):
        cls(parameters(), schedule={name: CHANGING})


def test_one_setting_under_two_names_cannot_have_two_schedules():
    with pytest.raises(dp.ArgumentError, match=r"Adam: pole and betas\[0\] are the same setting"):
        dp.Adam(parameters(), schedule={"pole": CHANGING, "betas[0]": CHANGING})


@dataclass(frozen=True)
class Sinking(dp.Schedule):
    """1, 0, -1, ...: a user's schedule that leaves the range of every setting."""

    def _at(self, step):
        return float(1 - step)


@each()
def test_a_schedule_that_leaves_the_range_is_refused_before_anything_is_written(subject):
    for name in [n for n in scalar_settings(subject) if n.split("[")[0] in ARGUMENTS and n != "zero"]:
        params = parameters()
        optimizer = scheduled(subject, params, {name: Sinking()})
        needs_momentum = optimizer.defaults.get("nesterov") and name in ("momentum", "dampening")
        if hyperparams.read(optimizer.param_groups[0], name) <= 0 or needs_momentum:
            continue
        run(optimizer, params, 2)
        start = [p.detach().clone() for p in params]
        with pytest.raises(dp.ArgumentError, match=r"got .*-"):
            run(optimizer, params, [2])
        assert identical(params, start)
        assert optimizer.steps_done() == 2


@dataclass(frozen=True)
class Broken(dp.Schedule):
    """A user's schedule that fails at its third step."""

    def _at(self, step):
        return 1.0 if step < 2 else float("nan")


@each()
def test_a_factor_that_is_no_number_is_refused_before_anything_is_written(subject):
    params = parameters()
    optimizer = scheduled(subject, params, Broken())
    run(optimizer, params, 2)
    start = [p.detach().clone() for p in params]
    with pytest.raises(dp.ArgumentError, match=r"the factor on lr must be a number .*, got nan"):
        run(optimizer, params, [2])
    assert identical(params, start)
