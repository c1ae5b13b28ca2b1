"""Contract: schedules are pure functions of the step count, for any setting."""

from dataclasses import dataclass

import pytest
from contracts.trajectories import SMALL, distance, identical, parameters, run
from registry import each

import dashpot as dp
from dashpot.constraints import ARGUMENTS
from dashpot.schedules import Cosine, Exponential, OneCycleMomentum, hyperparams

FALLING = Cosine(20, floor=0.1)
CHANGING = Exponential(0.9)
all_or_each = pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["all", "each"])
"""Schedule all settings at once, or each of them in a separate run."""


def scalar_settings(subject):
    """Return the names of the numeric group settings that can be scheduled; each entry of a pair has its own name."""
    optimizer = subject.make(parameters(), schedule=None)
    names = []
    for name, value in optimizer.defaults.items():
        if isinstance(value, tuple) and len(value) == 2:
            names += [f"{name}[0]", f"{name}[1]"]
        elif isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
            names.append(name)
    whole = ("numerator", "uncentered_steps", "version", "probe_seed", "update_d_every", "d_warmup")
    return [name for name in names if name not in ("lr", "initial_accumulator_value", *whole)]


def runs_of(names, alone):
    """Return the lists of names to be scheduled together."""
    return [[name] for name in names] if alone else [names]


def scheduled(subject, params, schedule, **changes):
    return subject.make(params, schedule=schedule, **changes)


def lr_is_a_plain_factor(subject):
    """Exclude estimated numerators and decays scaled by the schedule, because editing lr is not equivalent for them."""
    estimated = any(hasattr(stage, "smoothing") for stage in subject.make(parameters()).recipe.stages)
    return subject.lr_moves_all and not estimated


@each(lr_is_a_plain_factor)
def test_lr_schedule_equals_setting_lr_before_every_step(subject):
    params, others = parameters(), parameters()
    first, second = scheduled(subject, params, FALLING), subject.make(others, schedule=None)
    for step in range(5):
        second.param_groups[0]["lr"] = FALLING.value(subject.lr, step)
        assert first.current_lr() == pytest.approx(second.current_lr(), rel=1e-15)
        run(first, params, [step])
        run(second, others, [step])
    assert distance(params, others) < 1e-14  # (lr factor) v and lr (factor v) differ by rounding errors


@all_or_each
@each()
def test_schedule_of_any_setting_equals_setting_it_before_every_step(subject, alone):
    for names in runs_of(scalar_settings(subject), alone):
        params, others = parameters(), parameters()
        first = scheduled(subject, params, dict.fromkeys(names, CHANGING))
        second = subject.make(others, schedule=None)
        base = {name: hyperparams.read(second.param_groups[0], name) for name in names}
        for step in range(4):
            for name in names:
                hyperparams.write(second.param_groups[0], name, CHANGING.value(base[name], step))
            run(first, params, [step])
            run(second, others, [step])
        assert identical(params, others)


@all_or_each
@each(lambda subject: not subject.flips_decay)
def test_recipe_contains_the_schedule_or_rejects_it(subject, alone):
    """If the recipe contains the schedules, an optimizer built from the recipe gives the same weights."""
    contained = []
    for name in scalar_settings(subject):
        optimizer = scheduled(subject, parameters(), {name: CHANGING})
        assert repr(CHANGING) in repr(optimizer) or without_effect(optimizer, name)
        formula = (subject.cls, name) in MOVED_BY_FORMULA or moves_the_gain(subject, name)
        if formula and not without_effect(optimizer, name):
            with pytest.raises(dp.ArgumentError, match=r"the schedule of .* cannot be part of a recipe"):
                optimizer.recipe  # noqa: B018
        else:
            contained.append(name)
    for names in runs_of(contained, alone):
        if len(names) > 1:  # with a scheduled momentum, the gain is computed from the dampening
            names = [name for name in names if name != "dampening"]
        params, others = parameters(), parameters()
        optimizer = scheduled(subject, params, dict.fromkeys(names, CHANGING))
        run(optimizer, params, 4)
        run(dp.SGM.from_recipe(others, optimizer.recipe, **subject.probing), others, 4)
        assert distance(others, params) < 1e-15  # both run the same arithmetic


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
    """Return True for settings from which AutoSGM's decay or gain, or Nesterov's zero, is computed."""
    options = subject.options
    by_decay = options.get("decay") == "change" and name in ("momentum", "zero")
    plain = options.get("debias", True) is False
    by_gain = plain and (name == "gain" or (name == "zero" and "gain" in options))
    return (options.get("nesterov") and name == "momentum") or by_decay or by_gain


def without_effect(optimizer, name):
    """Return True for a setting of a disabled part; such a setting is not in the recipe."""
    group = optimizer.param_groups[0]
    unused = {
        "dampening": group.get("momentum") == 0 or group.get("nesterov"),
        "gain": bool(group.get("debias")),
        "beta_n": group.get("numerator") == 0 or not group.get("adaptive"),
        "beta_a": not group.get("adaptive"),
        "eps": not group.get("adaptive"),
        "betas[1]": group.get("version") == 0,
    }
    return unused.get(name, False)


CARRIED = {
    dp.Adam: {"betas[0]": "pole", "betas[1]": "beta", "pole": "pole", "eps": "eps", "weight_decay": "weight_decay"},
    dp.NAdam: {"betas[0]": "beta", "betas[1]": "beta_2"},
    dp.RMSprop: {"alpha": "beta", "momentum": "pole"},
    dp.Adagrad: {"lr_decay": "lr_decay", "eps": "eps"},
    dp.HeavyBall: {"pole": "pole", "momentum": "pole"},
    dp.QHAdam: {"nus[1]": "nu"},
    dp.AutoSGM: {"beta_a": "beta", "zero": "zero", "momentum": "pole"},
}
PAIRS = [(cls, name, field) for cls, names in CARRIED.items() for name, field in names.items()]


@pytest.mark.parametrize(("cls", "name", "field"), PAIRS, ids=[f"{c.__name__}-{n}" for c, n, _ in PAIRS])
def test_recipe_schedule_uses_the_stages_setting_name(cls, name, field):
    assert dict(cls(parameters(), schedule={name: CHANGING}).recipe.schedule) == {field: CHANGING}


@pytest.mark.parametrize(("cls", "name"), sorted(MOVED_BY_FORMULA, key=str), ids=str)
def test_repr_shows_a_schedule_that_the_recipe_cannot_contain(cls, name):
    settings = {dp.SGD: {"momentum": 0.9, "dampening": 0.5}, dp.ESGD: {"v": 0.7}}.get(cls, {})
    optimizer = cls(parameters(), **settings, schedule={name: CHANGING})
    with pytest.raises(
        dp.ArgumentError, match=r"the schedule of .* cannot be part of a recipe, since .* is computed from it"
    ):
        optimizer.recipe  # noqa: B018
    assert f"schedule={{{name!r}: {CHANGING!r}}}" in repr(optimizer)


@each()
def test_resume_continues_the_schedule(subject):
    straight = parameters()
    whole = scheduled(subject, straight, FALLING)
    run(whole, straight, 6)
    params = parameters()
    first = scheduled(subject, params, FALLING)
    run(first, params, 3)
    again = [p.detach().clone().requires_grad_() for p in params]
    second = scheduled(subject, again, FALLING)
    second.load_state_dict(first.state_dict())
    assert second.current_lr() == first.current_lr() == pytest.approx(FALLING.value(subject.lr, 3), rel=1e-15)
    run(second, again, range(3, 6))
    assert identical(again, straight)
    assert second.current_lr() == whole.current_lr()


@each(lambda subject: subject.momentum_key)
def test_momentum_schedule_cycles_momentum(subject):
    cycle = OneCycleMomentum(steps=8)
    params, others = parameters(), parameters()
    first, second = scheduled(subject, params, {"momentum": cycle}), subject.make(others, schedule=None)
    for step in range(4):
        hyperparams.write(second.param_groups[0], "momentum", cycle(step))
        run(first, params, [step])
        run(second, others, [step])
    assert identical(params, others)


@each()
def test_schedule_leaves_group_values_unchanged(subject):
    params = parameters()
    optimizer = scheduled(subject, params, FALLING)
    run(optimizer, params, 3)
    assert optimizer.param_groups[0]["lr"] == subject.lr


@each()
def test_schedule_counts_optimizer_steps(subject):
    params = parameters()
    optimizer = scheduled(subject, params, FALLING)
    run(optimizer, params, 4, missing=lambda step, index: index == 0 and step < 3)
    assert optimizer.steps_done() == 4
    assert optimizer.current_lr() == pytest.approx(FALLING.value(subject.lr, 4), rel=1e-15)


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("bad", [0.5, "cosine", max, {"lr": 0.5}, [Cosine(10)]], ids=str)
def test_invalid_schedule_is_rejected(subject, bad):
    owner = "Recipe" if subject.recipe else subject.cls.__name__
    with pytest.raises(dp.ArgumentError, match=f"{owner}: schedule must be None, a Schedule or a mapping"):
        subject.make(parameters(), schedule=bad)


@each()
def test_schedule_of_an_unknown_setting_is_rejected(subject):
    with pytest.raises(dp.ArgumentError, match=r"no (setting|hyperparameter) 'learning_rate'"):
        subject.make(parameters(), schedule={"learning_rate": Cosine(10)})


@pytest.mark.parametrize("name", ["betas", "nesterov", "amsgrad", "foreach"])
def test_schedule_of_a_non_numeric_setting_is_rejected(name):
    cls = dp.SGD if name == "nesterov" else dp.Adam
    reasons = f"the scheduled {name} must be a number", f"{name} is a pair", f"no hyperparameter '{name}'"
    with pytest.raises(dp.ArgumentError, match="|".join(reasons)):
        cls(parameters(), schedule={name: CHANGING})


def test_two_schedules_of_one_setting_are_rejected():
    with pytest.raises(dp.ArgumentError, match=r"Adam: pole and betas\[0\] are the same setting"):
        dp.Adam(parameters(), schedule={"pole": CHANGING, "betas[0]": CHANGING})


def test_schedule_counts_steps_of_all_parameters():
    a, b = parameters(shapes=((2,), (2,)))
    optimizer = dp.SGD([a, b], lr=1.0, schedule=dp.schedules.Linear(steps=20, start=1.0, end=0.0))
    run(optimizer, [a, b], 15, missing=lambda step, index: (step < 10) == (index == 1))
    assert optimizer.steps_done() == 15
    assert optimizer.current_lr() == pytest.approx(0.25)
    resumed = dp.SGD([a, b], lr=1.0, schedule=optimizer.schedule)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.current_lr() == optimizer.current_lr()


@dataclass(frozen=True)
class Sinking(dp.Schedule):
    """A custom schedule 1, 0, -1, ..., which eventually is outside the range of every setting."""

    def _at(self, step):
        return float(1 - step)


@each()
def test_out_of_range_schedule_is_rejected_before_any_write(subject):
    for name in [n for n in scalar_settings(subject) if n.split("[")[0] in ARGUMENTS and n != "zero"]:
        params = parameters(shapes=SMALL)
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
    """A custom schedule that is nan from the third step onwards."""

    def _at(self, step):
        return 1.0 if step < 2 else float("nan")


@each()
def test_nan_lr_factor_is_rejected_before_any_write(subject):
    params = parameters()
    optimizer = scheduled(subject, params, Broken())
    run(optimizer, params, 2)
    start = [p.detach().clone() for p in params]
    with pytest.raises(dp.ArgumentError, match=r"the factor on lr must be a number .*, got nan"):
        run(optimizer, params, [2])
    assert identical(params, start)
