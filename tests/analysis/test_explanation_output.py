"""Explanations of schedules and of recipes outside the theory; figures, pages and notebooks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_explanation import check_grammar

import dashpot as dp
from dashpot import schedules
from dashpot.analysis import reach, robbins_monro
from dashpot.errors import ArgumentError
from dashpot.figures import new_figure

OUTSIDE = "has no closed form; the notes state the reason."


@dataclass(frozen=True)
class Unknown(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x, s


@pytest.mark.parametrize("name", schedules.NAMES)
def test_sentences_of_every_schedule_are_well_formed(name):
    spec = f"{name}:shape=logistic" if name == "window" else name
    found = dp.explain(spec, steps=100, lr=0.1)
    check_grammar(found.summary())
    assert found.summary().startswith(f"The schedule {name} ")
    assert json.loads(json.dumps(found.to_dict()))["title"] == name


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (schedules.Constant(), "Constant stays at 0.5."),
        (schedules.Cosine(100, floor=0.1), "Cosine falls from 0.5 to 0.0501 over 100 steps."),
        (schedules.LinearWarmup(10, start=0.2), "LinearWarmup rises from 0.1 to 0.46 over 10 steps."),
        (
            schedules.OneCycle(10),
            "OneCycle starts at 0.02, is highest, 0.5, after 2 steps, and ends at 2e-6 over 10 steps.",
        ),
        (schedules.Cyclic(2, floor=0.5), "Cyclic varies between 0.25 and 0.5 over 7 steps."),
        (schedules.LinearWarmup(10) * schedules.Exponential(0.9), "The schedule starts at 0.005, is highest, 0.175,"),
        (
            schedules.OneCycleMomentum(10),
            "OneCycleMomentum starts at 0.95, is lowest, 0.85, after 2 steps, and ends at 0.95",
        ),
    ],
)
def test_course_of_a_schedule(schedule, sentence):
    assert sentence in dp.explain(schedule, lr=0.5).summary()


def test_schedule_numbers_are_those_of_reach_and_robbins_monro():
    schedule = schedules.InverseTime(0.1)
    found = dp.explain(schedule, steps=1000, lr=0.5)
    values = {item.name: item.value for item in found.quantities()}
    assert values["total"] == reach(schedule, 1000, 0.5).total
    assert values["verdict"] == robbins_monro(schedule, 0.5).verdict == "satisfied"
    assert (values["first"], values["last"]) == (0.5, 0.5 / (1 + 99.9))


def test_torch_scheduler_is_explained_and_unchanged():
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 10)
    found = dp.explain(scheduler, steps=20)
    assert found.summary().startswith("StepLR falls from 0.5 to 0.05 over 20 steps.")
    assert (scheduler.last_epoch, opt.param_groups[0]["lr"]) == (0, 0.5)


@pytest.mark.parametrize(
    ("stages", "sentences"),
    [
        ((Unknown(),), [f"The method {OUTSIDE}"]),
        ((dp.SecondMoment(), Unknown()), ["The method divides by the root mean square", f"The rest of it {OUTSIDE}"]),
        ((dp.Filter(0.9), dp.CoupledDecay(0.1)), [OUTSIDE, "Coupled weight decay adds 0.1 to the curvature."]),
        (
            (dp.Filter(0.9, gain=0.0, normalise="none"),),
            ["The filter of the method has a gain of 0, so that gradients"],
        ),
        ((dp.DecoupledDecay(1.5, scale="constant"),), ["subtracts 150 % of the weights per step: it overshoots zero."]),
        ((dp.DecoupledDecay(1.0, scale="constant"),), ["per step: it removes the earlier weights."]),
        ((dp.CoupledDecay(1e3),), ["At lr 0.1, it is unstable at every curvature."]),
    ],
)
def test_recipe_outside_the_theory_states_the_reason_and_no_number(stages, sentences):
    found = dp.explain(dp.Recipe(*stages, lr=0.1), curvature=1.0, noise=1.0)
    assert all(sentence in found.summary() for sentence in sentences)
    for text in [found.summary(), *found.notes]:
        check_grammar(text)
    values = found.parts[0].to_dict()
    if OUTSIDE in found.summary():
        assert not {"largest_curvature", "variance", "time_constant"} & values.keys()
        assert found.notes


def test_figure_of_a_recipe_outside_the_theory_states_the_reason():
    [axes] = dp.explain(dp.Recipe(Unknown(), lr=0.1)).plot().axes
    assert [text.get_text() for text in axes.texts] == ["No figure: no closed form"]


def test_many_settings_are_shortened():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1 + k} for k in range(12)]
    found = dp.explain(dp.SGD(groups))
    assert found.summary().splitlines()[-1] == "4 more settings are in `parts`."
    assert len(found.parts) == 12
    assert str(found).count("largest_curvature") == 8


def test_figure_on_given_axes():
    found = dp.explain("sgd", lr=0.1)
    figure, axes = new_figure("test", rows=1, columns=5)
    assert found.plot(axes) is figure
    assert all(ax.has_data() for ax in axes)
    with pytest.raises(ArgumentError, match=r"Explanation.plot: ax must be a sequence of 5 matplotlib axes"):
        found.plot(axes[0])


def test_file_with_another_suffix_raises(tmp_path):
    found = dp.explain("cosine", steps=10)
    with pytest.raises(ArgumentError, match=r"must end with one of \.png, \.pdf, \.svg"):
        found.save(tmp_path / "figure.gif")
    assert not list(tmp_path.iterdir())


def test_notebook_shows_sentences_numbers_and_a_figure_with_colors_of_the_page():
    text = dp.explain("cosine", steps=50)._repr_html_()
    assert "The schedule cosine falls from 1 to" in text
    assert "<details><summary>Numbers</summary>" in text
    assert "--ink:currentColor" in text
    assert 'class="dashpot-figure"' in text


def test_notebook_without_matplotlib_has_no_figure(monkeypatch):
    monkeypatch.setattr("dashpot.analysis.page_result.find_spec", lambda name: None)
    text = dp.explain("cosine", steps=50)._repr_html_()
    assert "The schedule cosine falls from 1 to" in text
    assert "<svg" not in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["groups", "schedule", "all"])
def test_page_is_smaller_than_300_kb(tmp_path, kind):
    if kind == "groups":
        weights = [torch.zeros(1, requires_grad=True) for _ in range(12)]
        found = dp.explain(dp.AdamW([{"params": [w], "lr": 1e-3 * (k + 1)} for k, w in enumerate(weights)]))
    elif kind == "schedule":
        found = dp.explain("warmup-cosine", steps=100_000)
    else:
        found = dp.explain("nag", lr=0.1, curvature=1.0, noise=1.0, batch_size=32)
    page = found.save(tmp_path / "page.html", command="dashpot explain").read_bytes()
    assert len(page) < 300_000
    assert b"dashpot explain" in page
    assert Path(tmp_path, "page.html").exists()


def test_batch_size_alone_gives_the_memory_in_examples():
    text = str(dp.explain("adamw", batch_size=64))
    assert re.search(r"memory_examples +640 +length of the memory in examples", text)
