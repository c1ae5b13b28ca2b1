"""dp.explain: sentences, tables and plain data of methods, optimizers and recipes."""

from __future__ import annotations

import json
import re

import pytest
import torch

import dashpot as dp
from dashpot.analysis import response, stability
from dashpot.analysis.linear_form import _READERS, linear_form
from dashpot.analysis.method_words import _DENOMINATORS
from dashpot.errors import ArgumentError
from dashpot.names import METHODS, known_methods
from dashpot.schedules import Constant, Cosine, LinearWarmup, OneCycleMomentum, Sequence


def weights(count=1):
    return [torch.zeros(3, requires_grad=True) for _ in range(count)]


def check_grammar(text):
    """Check properties of well-formed sentences, which every summary and note has."""
    for sentence in re.split(r"(?<=[a-z)\d])\. (?=[A-Z])", text):
        assert re.match(r"[A-Z1d]", sentence), sentence  # a sentence may begin with 1cycle or d
        assert not re.search(r"  | ,|\(\s|\s\)|\.\.|\bNone\b|\bnan\b|\binf\b|e-0|\d{7}", sentence), sentence
        assert not re.search(r"(?<![\d .])\b1 (?:steps|gradients|products|quotients)\b", sentence), sentence
        assert not re.search(r"(?<!\d )(?<![\d.])\b(?:[02-9]|\d{2,}) (?:step|gradient|product|quotient)\b", sentence)
        assert sentence.count("(") == sentence.count(")")
    assert text.endswith(".")


@pytest.mark.parametrize("curvature", [None, 0.3, 1e9])
@pytest.mark.parametrize("name", known_methods())
def test_sentences_of_every_method_are_well_formed(name, curvature):
    found = dp.explain(name, curvature=curvature, noise=None if curvature is None else 2.0)
    for text in [*found.summary().split("\n"), *found.notes]:
        check_grammar(text)
    assert "e+" not in found.summary()
    assert found.summary().startswith(f"{found.title} ")
    assert ("divide" in found.summary()) == ("The denominator d is treated as constant." in found.notes)
    assert json.loads(json.dumps(found.to_dict()))["summary"] == found.summary()
    assert all(note in " ".join(str(found).split()) for note in found.notes)


def test_every_denominator_has_a_phrase():
    adaptive = {stage for stage in _READERS if linear_form(dp.Recipe(stage())).adaptive}
    assert adaptive == set(_DENOMINATORS)


def test_adamw_numbers_are_those_of_the_closed_forms():
    recipe = dp.AdamW.recipe_for(lr=1e-3, betas=(0.9, 0.999))
    found = dp.explain("adamw", lr=1e-3, betas=(0.9, 0.999))
    values = {item.name: item.value for item in found.quantities()}
    assert values["largest_curvature"] == stability(recipe).largest_curvature
    assert values["noise_gain"] == response(recipe).noise_gain
    assert values["shrink"] == 1e-5
    assert round(values["decay_half_life"]) == 69314  # ln 2/1e-5
    assert repr(found) == str(found)
    assert found.summary() == (
        "AdamW remembers about 10 gradients (the newest has 10 % of the weight) and divides by the root mean square of "
        "about 1000 gradients. At lr 0.001, it is stable for curvatures below 38 000 in preconditioned units (h/d). "
        "Decoupled weight decay shrinks the weights by a fraction of 1e-5 per step, by half in 69 000 steps."
    )


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("sgd", {}, "SGD uses the latest gradient alone."),
        ("sgd", {"momentum": 0.9, "lr": 0.1}, "The weights add up to 10, so the effective learning rate is 1."),
        ("sgd", {"weight_decay": 5e-4}, "Coupled weight decay adds 0.0005 to the curvature."),
        ("sgd", {"lr": 0.0}, "At lr 0, gradients do not move the weights."),
        ("sgd", {"lr": 1.0, "curvature": 1.0}, "At curvature 1, an error vanishes after 1 step (deadbeat)."),
        ("sgd", {"lr": 1.0, "curvature": 2.0}, "it is marginal: an error neither decays nor grows"),
        ("sgd", {"lr": 1.0, "curvature": 1.5}, "an error is halved every step (alternates in sign)."),
        ("sgd", {"lr": 1.0, "curvature": 4.0}, "growing 3-fold per step; learning rates below 0.5 are stable there."),
        (
            "sgd",
            {"lr": 0.1, "curvature": 1.0, "noise": 2.0, "batch_size": 8},
            "variance of 2 per example and batch size 8",
        ),
        (
            "adam",
            {"weight_decay": 0.1},
            "Coupled weight decay of 0.1 is divided by the denominator as the gradient is.",
        ),
        ("adamw", {"lr": 0.0}, "At a learning rate of 0, the weight decay has no effect."),
        ("adamw", {"lr": 1.0, "weight_decay": 0.5}, "shrinks the weights by 50 % per step, by half in 1 step."),
        ("adamw", {"lr": 0.1, "decay_scale": "constant"}, "shrinks the weights by 1 % per step, by half in 69 steps."),
        ("adamw", {"betas": (0.0, 0.0)}, "AdamW uses the latest gradient alone, divided by its magnitude."),
        ("adam", {"amsgrad": True}, "divides by the largest root mean square so far, each of about 1000 gradients."),
        ("rmsprop", {"momentum": 0.5}, "divides each gradient by the root mean square of about 100 gradients, and"),
        ("rmsprop", {"momentum": 0.5}, "remembers about 2 quotients (the newest has 50 % of the weight)."),
        ("rmsprop", {"centered": True}, "divided by the standard deviation of about 100 gradients."),
        ("adagrad", {}, "divided by the root of the sum of squares of all gradients so far."),
        ("qhadam", {"nus": (0.7, 0.8)}, "in which the newest has a weight of at least 20 %."),
        ("esgd", {"version": 2}, "the largest row norms of the Hessian in about 1000 Hessian-vector products."),
        ("autosgm-1", {}, "It is stable while the learning rate times the curvature is below 38 in preconditioned"),
        ("autosgm", {"zero": -0.3, "lr": 1.0, "adaptive": False}, "it is stable for curvatures below 4.33."),
    ],
)
def test_sentence(name, settings, sentence):
    assert sentence in dp.explain(name, **settings).summary()


def test_negative_weights_are_stated():
    with pytest.warns(UserWarning, match="above pole"):
        found = dp.explain("autosgm", zero=0.95)
    assert "(the older ones with negative weights)" in found.summary()


def test_equal_pole_and_zero_have_no_memory():
    found = dp.explain(dp.Recipe(dp.Filter(0.9, zero=0.9), lr=0.1))
    assert (
        found.summary() == "The method uses the latest gradient alone. At lr 0.1, it is stable for curvatures below 20."
    )


def test_optimizer_is_explained_at_its_present_step_with_equal_groups_merged():
    a, b, c = weights(3)
    groups = [{"params": [a]}, {"params": [b], "weight_decay": 0.0}, {"params": [c]}]
    opt = dp.AdamW(groups, lr=0.1, schedule=LinearWarmup(10, start=0.5), max_norm=1.0)
    found = dp.explain(opt)
    assert [part.label for part in found.parts] == ["groups 0, 2", "group 1"]
    assert [part.to_dict()["lr"] for part in found.parts] == [0.05, 0.05]
    assert found.summary().startswith("AdamW has groups with 2 different settings.\nGroups 0, 2: AdamW remembers")
    assert "Values after 0 steps; the schedule changes lr." in found.notes
    assert "max_norm=1 clips gradients; the results hold while no gradient is clipped." in found.notes
    for p in (a, b, c):
        p.grad = torch.ones(3)
    opt.step()
    assert dp.explain(opt).parts[0].to_dict()["lr"] == pytest.approx(0.055, rel=1e-12)  # rounding of 0.1 * 0.55
    assert dp.explain(opt, step=10).parts[0].to_dict()["lr"] == 0.1
    assert {item.name for item in found.quantities()} >= {"groups 0, 2: lr", "group 1: lr"}


def test_explaining_an_optimizer_changes_nothing():
    [w] = weights()
    opt = dp.AdamW([w], lr=0.1, schedule={"lr": Cosine(10), "betas[1]": Constant(0.5)})
    w.grad = torch.ones(3)
    opt.step()
    before = repr(opt.state_dict())
    dp.explain(opt)
    assert repr(opt.state_dict()) == before


def test_decay_scaled_by_the_schedule_is_that_of_the_step():
    opt = dp.AdamW(weights(), lr=0.1, weight_decay=0.01, decay_scale="schedule", schedule=Cosine(100))
    recipe = opt.recipe
    for found in (dp.explain(opt, step=50), dp.explain(recipe, step=50)):
        values = {item.name: item.value for item in found.quantities()}
        assert values["lr"] == pytest.approx(0.05, rel=1e-12)  # rounding of cos(pi/2)
        assert values["shrink"] == pytest.approx(0.005, rel=1e-12)


def test_recipe_with_schedule_is_explained_at_the_highest_learning_rate():
    schedule = Sequence((LinearWarmup(100), Cosine(900)), milestones=(100,))
    for found in (
        dp.explain(dp.AdamW.recipe_for(lr=0.1).with_settings(schedule=schedule)),
        dp.explain("adamw", lr=0.1, schedule=schedule),
    ):
        assert "Values after 100 steps, where the learning rate is highest; the schedule changes lr." in found.notes
        course = "The factor of lr starts at 0.01, is highest, 1, after 100 steps, and ends at 3.05e-6 over 1000 steps."
        assert course in found.notes
        assert found.parts[0].to_dict()["lr"] == 0.1


def test_schedule_that_no_recipe_represents_is_applied():
    found = dp.explain(dp.NAG(weights(), schedule={"momentum": OneCycleMomentum(100)}), step=29)
    assert found.parts[0].to_dict()["poles"] == [0.85]


def test_lr_as_tensor():
    found = dp.explain(dp.SGD(weights(), lr=torch.tensor(0.25)))
    assert found.parts[0].to_dict()["lr"] == 0.25


@pytest.mark.parametrize(
    "name", [name for name, row in METHODS.items() if hasattr(torch.optim, row.path.partition(":")[2])]
)
def test_torch_optimizer_is_explained_as_its_counterpart(name):
    cls = METHODS[name].path.partition(":")[2]
    theirs = getattr(torch.optim, cls)(weights(), lr=0.01, weight_decay=0.1)
    ours = dp.explain(name, lr=0.01, weight_decay=0.1)
    assert dp.explain(theirs).to_dict() == ours.to_dict()
    for owner in (dp, torch.optim):
        assert dp.explain(getattr(owner, cls), lr=0.01, weight_decay=0.1).to_dict() == ours.to_dict()


class OwnSGD(torch.optim.SGD):
    """Subclass, which may differ in its step."""


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (
            3,
            {},
            "an optimizer or its class, a Schedule, or the name of a method or schedule, got 3.",
        ),
        ("adamx", {}, "Unknown method or schedule 'adamx': did you mean 'adam'?"),
        ("adamw", {"momentum": 0.9}, "AdamW: unknown argument 'momentum'"),
        ("adamw", {"lr": -1.0}, "AdamW: lr must be a number in [0, inf), got -1.0."),
        ("adamw", {"curvature": 0.0}, "explain: curvature must be None or a number in (0, inf), got 0.0."),
        ("adamw", {"noise": 1.0}, "explain: curvature must be given with noise, got None."),
        ("adamw", {"batch_size": 0}, "explain: batch_size must be None or an integer in [1, inf), got 0."),
        ("adamw", {"to_batch": 2}, "explain: batch_size must be given with to_batch, got None."),
        ("adamw", {"batch_size": 2, "to_batch": 2}, "explain: to_batch must differ from batch_size, got 2 for both."),
        ("adamw", {"step": -1}, "explain: step must be None or an integer in [0, inf), got -1."),
        ("adamw", {"steps": 10}, "explain: steps must be None unless x is a schedule."),
        (dp.Recipe(), {"lr": 0.1}, "explain: settings are accepted only with a name or class of a method, got lr."),
        (torch.optim.SGD, {"lr": -1.0}, "Invalid learning rate: -1.0"),
        (torch.optim.SGD, {"beta": 0.5}, "unexpected keyword argument 'beta'"),
        (OwnSGD, {"lr": 0.1}, "got test_explanation.OwnSGD."),
        (int, {}, "explain: x must be a Recipe, an optimizer or its class"),
        (OwnSGD(weights(), lr=0.1), {}, "got test_explanation.OwnSGD."),
        (
            torch.optim.Adadelta(weights()),
            {},
            "explain: optimizer must be of dashpot or one of torch.optim's SGD, RMSprop",
        ),
    ],
)
def test_bad_input_raises_one_sentence(x, settings, message):
    with pytest.raises(ArgumentError) as caught:
        dp.explain(x, **settings)
    assert message in str(caught.value)


def test_batch_size_scales_the_settings_with_reasons():
    found = dp.explain("adamw", batch_size=64, to_batch=1024)
    [part] = found.parts
    scaled = part.to_dict()["batch_size"]
    assert 0 < scaled.pop("largest_curvature") < stability(dp.AdamW.recipe_for()).largest_curvature
    assert scaled == {
        "lr": 0.004,
        "betas[0]": 0.0,
        "betas[1]": 0.984,
        "eps": 2.5e-9,
        "weight_decay": 0.04,
    }
    assert part.sentences[-1] == (
        "From batch size 64 to 1024, the square-root rule sets lr to 0.004, betas[0] to 0, betas[1] to 0.984, eps to "
        "2.5e-9 and weight_decay to 0.04."
    )
    assert any("sigma^2/E[g]^2" in note for note in found.notes)


def test_method_without_a_batch_rule_states_the_reason():
    found = dp.explain("sophia", batch_size=64, to_batch=1024)
    assert "batch_size" not in found.parts[0].to_dict()
    assert any(note.startswith("The settings are not scaled to batch size 1024: ") for note in found.notes)


@pytest.mark.parametrize("name", ["sgd", "nag", "adam", "adagrad", "qhadam"])
def test_sentences_on_the_batch_size_are_well_formed(name):
    for found in (dp.explain(name, batch_size=64, to_batch=16), dp.explain(name, batch_size=1, to_batch=100_000)):
        for text in [found.summary(), *found.notes]:
            check_grammar(text)


def test_schedule_is_shortened_with_the_batch():
    found = dp.explain("sgd", lr=0.1, schedule=Cosine(640), batch_size=64, to_batch=256)
    assert found.parts[0].sentences[-1] == (
        "From batch size 64 to 256, the linear rule sets lr to 0.4; for the schedule of lr, it divides the steps by 4."
    )
    assert "Cosine(steps=160, floor=0.0, after='hold')" in str(found)
    longer = dp.explain("sgd", lr=0.1, schedule=Cosine(640), batch_size=64, to_batch=16)
    assert longer.parts[0].sentences[-1].endswith("it multiplies the steps by 4.")


@pytest.mark.parametrize("lr", [5e-324, 1e-300, 1e300])
@pytest.mark.parametrize("name", ["sgd", "adam", "qhm"])
def test_extreme_learning_rates(name, lr):
    found = dp.explain(name, lr=lr, curvature=1.0, noise=1.0, batch_size=1, to_batch=4)
    assert found.summary().startswith(found.title)
    assert found.parts[0].to_dict().get("variance") != 0
