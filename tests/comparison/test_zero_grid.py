"""Plans and studies of the grids of zeros."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashpot.comparison.zero_grid import PLANS, ZEROS, entry_name, grid_names, method
from dashpot.comparison.zero_run import GridRequest
from dashpot.errors import ArgumentError
from dashpot.names import TASKS
from dashpot.runs import workload_names
from dashpot.runs.method_specs import parse_methods
from dashpot.runs.study_names import StudyNames
from dashpot.runs.workload_names import TIERS, WORKLOADS, parse_numerators, parse_workloads, parse_zeros
from dashpot.tasks import option_checks


def test_every_workload_has_a_plan_of_every_tier():
    assert tuple(PLANS) == WORKLOADS
    assert {tuple(plans) for plans in PLANS.values()} == {TIERS}
    assert option_checks.TIERS == TIERS


@pytest.mark.parametrize("workload", WORKLOADS)
def test_plans_are_valid(workload):
    for tier, plan in PLANS[workload].items():
        assert plan.task in {*TASKS, "cifar10", "wikitext"}
        assert 0 < plan.rates[0] < plan.rates[1]
        assert set(plan.zeros) <= set(ZEROS)
        assert plan.options.get("tier", tier) == tier


def test_study_of_characters_at_the_cpu_tier_has_the_settings_of_its_published_results():
    """Folders of this study remain resumable."""
    plan = PLANS["shakespeare-char"]["cpu"]
    names = grid_names(plan, plan.zeros, data_dir=Path("data"), threads=1).plain()
    space = {"lr": {"low": 0.003, "high": 0.03, "log": True}}
    zeros = ("0", "0.31", "0.47", "0.55", "0.64", "0.85", "0.9")
    expected = {
        "task": "shakespeare-char",
        "task_options": {"tier": "cpu"},
        "data_dir": "data",
        "methods": ",".join(f"autosgm-0:zero={zero},autosgm-1:zero={zero}" for zero in zeros)
        + ",autosgm-0:pole=0,autosgm-1:pole=0",
        "rates": {},
        "options": {"max_norm": 1.0},
        "schedule": "warmup-cosine:warmup=0.05,floor=0.1",
        "seeds": 3,
        "epochs": None,
        "target": None,
        "design": {
            "budget": 3,
            "sampler": "grid",
            "tune": ["lr"],
            "spaces": {
                **{f"autosgm-{numerator}-zero-{zero}": space for zero in zeros for numerator in (0, 1)},
                **{f"autosgm-{numerator}-pole-0": space for numerator in (0, 1)},
            },
            "rate_seeds": 0,
            "evaluate_every": 500,
            "threads": 1,
        },
    }
    assert {key: names[key] for key in expected} == expected


@pytest.mark.parametrize("zero", [*ZEROS, "-0.5", "1e-05"])
def test_entry_names_are_those_of_parsed_methods(zero):
    [spec] = parse_methods(method(1, zero))
    assert spec.name == entry_name(1, zero)


def test_device_is_an_option_of_the_task():
    names = grid_names(PLANS["digits"]["gpu"], ("0",), device="cuda")
    assert names.task_options == {"device": "cuda"}
    assert grid_names(PLANS["digits"]["cpu"], ("0",)).task_options == {}


def test_task_options_apply_to_the_workloads_whose_task_has_them(monkeypatch):
    monkeypatch.setattr(StudyNames, "study", StudyNames.plain)
    request = GridRequest(("digits", "cifar10-vit"), task_options={"checksum": False, "batch_size": 7})
    given = {workload: request.study(workload)["task_options"] for workload in request.names}
    expected = {"network": "vit", "tier": "cpu", "checksum": False, "batch_size": 7}
    assert given == {"digits": {"batch_size": 7}, "cifar10-vit": expected}


@pytest.mark.parametrize("option", ["tier", "network", "data_dir"])
def test_task_options_of_other_command_line_options_are_rejected(option):
    with pytest.raises(ArgumentError, match=f"--task-options must not contain {option}; use --"):
        GridRequest(("cifar10-vit",), task_options={option: "x"})


@pytest.mark.parametrize(
    ("parse", "text", "sentence"),
    [
        (parse_workloads, "digit", "Unknown workload 'digit': did you mean 'digits'?"),
        (parse_workloads, "digits,", "reproduce: --workload must be comma-separated names, got 'digits,'."),
        (parse_workloads, "digits,digits", "reproduce: --workload must name each value once, got digits twice."),
        (parse_zeros, "0,x", "reproduce: --zeros must be numbers in (-1, 1) or none, got 'x'."),
        (parse_zeros, "1", "reproduce: --zeros must be a number in (-1, 1), got 1.0."),
        (parse_zeros, "nan", "reproduce: --zeros must be a number in (-1, 1), got nan."),
        (parse_zeros, "0,.0", "reproduce: --zeros must name each value once, got 0 twice."),
        (parse_zeros, "0,-0", "reproduce: --zeros must name each value once, got 0 twice."),
        (parse_numerators, "1,01", "reproduce: --numerators must name each value once, got 1 twice."),
        (parse_numerators, "5", "reproduce: --numerators must be an integer in [0, 4], got 5."),
        (parse_numerators, "one", "reproduce: --numerators must be integers in [0, 4], got 'one'."),
        (workload_names.check_tier, "huge", "Unknown tier 'huge'"),
    ],
)
def test_invalid_names_raise_one_sentence(parse, text, sentence):
    with pytest.raises(ArgumentError) as caught:
        parse(text)
    assert str(caught.value).startswith(sentence)
