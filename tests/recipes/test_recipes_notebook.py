"""HTML of recipes, differences, schedules and optimizers in notebooks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest
import torch

import dashpot as dp
from dashpot import schedules
from dashpot.optimizers.registry import METHODS
from dashpot.schedules.notebook import span


@dataclass(frozen=True)
class Marked(dp.Stage):
    note: str = "<b>&"

    def apply(self, x, s, c, ctx):
        return x, s


@dataclass(frozen=True)
class Failing(schedules.Schedule):
    def _at(self, step):
        return 1 / (step - 3)


def parsed(value):
    """Parse the HTML of a value, which must be well-formed and contain no colour that is fixed for one theme."""
    text = value._repr_html_()
    assert set(re.findall(r"rgba?\([^)]*\)|#[0-9a-f]{3,6}\b", text)) <= {"rgba(128,128,128,.4)"}
    for entity, character in {"&rarr;": "→", "&times;": "×"}.items():
        text = text.replace(entity, character)
    return ElementTree.fromstring(f"<body>{text}</body>")


def words(value):
    return " ".join("".join(parsed(value).itertext()).split())


def weights(count=2):
    return [torch.zeros(3, requires_grad=True) for _ in range(count)]


@pytest.mark.parametrize("name", METHODS)
def test_html_of_every_method_names_its_active_stages(name):
    recipe = METHODS[name].cls.recipe_for(lr=0.25)
    text = words(recipe)
    assert all(type(stage).__name__ in text for stage in recipe.stages)
    assert "× lr0.25" in text
    assert words(METHODS[name].cls(weights(), lr=0.25)).startswith(METHODS[name].cls.__name__)


def test_recipe_html_separates_stages_without_effect_and_shows_schedules():
    text = words(dp.Recipe(dp.CoupledDecay(0.0), dp.Filter(0.5), lr=0.1, schedule={"pole": schedules.Constant(0.5)}))
    assert "Without effect: CoupledDecay." in text
    assert text.endswith("Constant(factor=0.5)")


def test_text_of_user_stages_is_escaped():
    assert "note <b>&" in words(dp.Recipe(Marked("<b>&"), lr=0.1))


def test_diff_html_has_one_row_for_each_difference():
    found = parsed(dp.diff(dp.Adam.recipe_for(weight_decay=0.1), dp.AdamW.recipe_for()))
    assert len(found.findall(".//tr")) == 3
    assert words(dp.diff(dp.Adam.recipe_for(), dp.Adam.recipe_for())) == "no difference"


@pytest.mark.parametrize("name", schedules.NAMES)
def test_schedule_html_contains_a_curve_within_its_frame(name):
    schedule = schedules.from_name(name, 1000, **({"shape": "logistic"} if name == "window" else {}))
    found = parsed(schedule)
    [line] = found.findall(".//polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert all(0 <= x <= 160 and 0 <= y <= 36 for x, y in points)
    assert 100 < len(points) <= 160
    assert words(schedule).endswith(repr(schedule))


@dataclass(frozen=True)
class OwnFields(schedules.Schedule):
    parts: tuple[str, ...] = ("a", "b")
    milestones: tuple[str, ...] = ("x",)
    steps: str = "many"

    def _at(self, step):
        return 1.0


def test_schedule_html_of_a_user_defined_schedule_with_other_fields():
    assert words(OwnFields()).endswith(repr(OwnFields()))
    assert span(OwnFields()) == 100


def test_schedule_html_without_values_is_the_repr():
    assert words(Failing()) == "Failing()"
    assert words(schedules.Exponential(1e200)).endswith("Exponential(factor=1e+200)")


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (schedules.StepDecay(0.1, every=30), 120),
        (schedules.MultiStep((40, 80)), 100),
        (schedules.InverseTime(0.1), 90),
        (schedules.ExponentialWarmup(0.9), 50),
        (schedules.CosineRestarts(10, mult=2), 29),
        (schedules.Window("flat", 50), 99),
        (schedules.LinearWarmup(20) * schedules.Cosine(100), 100),
    ],
)
def test_span_shows_the_shape(schedule, steps):
    assert span(schedule) == steps


def test_optimizer_html_merges_equal_groups_and_shows_varying_settings():
    groups = [{"params": [w], "weight_decay": 0.0 if i == 2 else 0.1} for i, w in enumerate(weights(5))]
    rows = [[cell.text for cell in row] for row in parsed(dp.AdamW(groups, lr=0.5, max_norm=1.0)).findall(".//tr")]
    assert rows == [
        ["group", "tensors", "elements", "current lr", "weight_decay"],
        ["0-1, 3-4", "4", "12", "0.5", "0.1"],
        ["2", "1", "3", "0.5", "0.0"],
    ]


def test_optimizer_html_is_short_for_many_groups_and_counts_steps():
    opt = dp.SGD([{"params": [w], "lr": 0.1 + i} for i, w in enumerate(weights(40))])
    assert len(parsed(opt).findall(".//tr")) == 13
    assert "28 more rows" in words(opt)
    opt.param_groups[0]["params"][0].grad = torch.ones(3)
    opt.step()
    assert ", 1 step done" in words(opt)


def test_optimizer_html_with_a_schedule_that_no_recipe_represents():
    opt = dp.NAG(weights(), schedule={"momentum": schedules.OneCycleMomentum(10)})
    assert "momentum" in words(opt)
    assert "OneCycleMomentum(steps=10" in words(opt)
