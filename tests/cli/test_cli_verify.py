"""`dashpot verify`: output, exit codes and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_support import refused

from dashpot.optimizers.registry import METHODS
from dashpot.verification.counterparts import TORCH_COUNTERPARTS, reference_factory

QUICK = ("--steps", 4, "--timed-steps", 0)


@pytest.mark.parametrize("method", TORCH_COUNTERPARTS)
def test_method_agrees_with_torch_counterpart(dashpot, my_task, method):
    code, out, err = dashpot("verify", my_task, "--optimizer", method, "--lr", 0.1, *QUICK)
    assert (code, err) == (0, ""), out
    assert f"agrees with torch.optim.{TORCH_COUNTERPARTS[method].factory.__name__} within " in out
    assert not Path("runs").exists()


def test_report_fits_one_screen(dashpot, my_task):
    code, out, _ = dashpot("verify", "--task", my_task, "--optimizer", "adamw", "--against", "torch", "--threads", 1)
    assert code == 0
    assert len(out.splitlines()) < 24
    assert max(map(len, out.splitlines())) <= 80
    assert "step 100" in out
    assert out.splitlines()[1].startswith("dashpot.AdamW agrees with torch.optim.AdamW")


def test_disagreement_exits_with_code_5(dashpot, my_task):
    code, out, err = dashpot("verify", my_task, "--optimizer", "adamw", "--against", "torch.optim.Adam", *QUICK)
    assert (code, err) == (5, "")
    assert "dashpot.AdamW disagrees with torch.optim.Adam" in " ".join(out.split())
    assert "weight_decay 0.01 and 0" in " ".join(out.split())
    loose = dashpot("verify", my_task, "--optimizer", "adamw", "--against", "adam", "--tolerance", 1e12, *QUICK)
    assert loose[0] == 0


def test_settings_apply_to_both_and_engine_to_optimizer(dashpot, my_task):
    words = ("verify", my_task, "--optimizer", "adam", "--set", "betas=0.8,0.9", "weight_decay=0.5", "engine=eager")
    assert dashpot(*words, *QUICK)[0] == 0
    assert dashpot(*words, "--against", "eager", *QUICK)[0] == 0


def test_json_output(dashpot, my_task):
    code, out, _ = dashpot("verify", my_task, "--optimizer", "sgd", "--dtype", "float64", "--json", *QUICK)
    found = json.loads(out)
    assert (code, found["agrees"], found["dtype"], found["compared"]) == (0, True, "float64", 4)


SOURCE = """
import torch
WRONG = 3
def Loose(params, **settings):
    return torch.optim.SGD(params)
class Mine(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(1.001)
"""


def test_against_class_in_file(dashpot, my_task):
    Path("optimizers.py").write_text(SOURCE)
    code, out, _ = dashpot("verify", my_task, "--optimizer", "sgd", "--against", "optimizers.py:Mine", *QUICK)
    assert code == 5
    assert "weight differs by" in " ".join(out.split())


def test_optimizer_class_in_file(dashpot, my_task):
    Path("optimizers.py").write_text(SOURCE)
    words = ("verify", my_task, "--optimizer", "optimizers.py:Mine", *QUICK, "--lr", 0.1)
    code, out, _ = dashpot(*words, "--against", "torch.optim.SGD")
    assert code == 5
    assert "optimizers.py:Mine disagrees with torch.optim.SGD" in " ".join(out.split())
    assert dashpot(*words, "--against", "optimizers.py:Mine", "--set", "momentum=0.5")[0] == 0
    assert "torch.optim has no counterpart of optimizers.py:Mine" in refused(dashpot(*words))
    assert "must be a method of dashpot for --against eager, got optimizers.py:Mine" in refused(
        dashpot(*words, "--against", "eager")
    )
    assert "--optimizer optimizers.py:Mine cannot be created (" in refused(
        dashpot(*words, "--set", "speed=3", "--against", "optimizers.py:Loose")
    )


def test_divergence_of_both_is_reported(dashpot, my_task):
    code, out, _ = dashpot("verify", my_task, "--optimizer", "sgd", "--lr", 1e20, "--timed-steps", 0)
    assert code == 0
    assert "are no longer finite" in " ".join(out.split())


@pytest.mark.parametrize("method", [*sorted(set(METHODS) - set(TORCH_COUNTERPARTS)), "autosgm-2"])
def test_method_without_counterpart_raises_one_line_message(dashpot, my_task, method):
    message = refused(dashpot("verify", my_task, "--optimizer", method))
    assert message.startswith(f"verify: torch.optim has no counterpart of {method}; --against eager compares it")


def test_method_without_counterpart_against_eager_engine(dashpot, my_task):
    code, out, _ = dashpot("verify", my_task, "--optimizer", "autosgm-2", "--against", "eager", *QUICK)
    assert code == 0
    assert "agrees with dashpot.AutoSGM" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "optimizer is missing; give one, such as --optimizer adamw"),
        (("--optimizer", "adamm"), "Unknown method 'adamm': did you mean 'adam'?"),
        (("--against", "torhc"), "Unknown reference 'torhc': did you mean 'torch'?"),
        (("--against", "torch.optim.AdamQ"), "Unknown class of torch.optim 'AdamQ': did you mean 'Adam'?"),
        (("--against", "no_such_module.Adam"), "--against no_such_module.Adam cannot be imported"),
        (("--against", "optimizers.py:Missing"), "The file optimizers.py has no `Missing`."),
        (("--against", "optimizers.py:WRONG"), "must be an optimizer class or a function, got 3"),
        (("--against", "optimizers.py"), "--against must name a class in the file, as in optimizers.py:Class."),
        (("--against", "torch.nn.Linear"), "--against torch.nn.Linear cannot be created ("),
        (("--against", "gone.py:Mine"), "gone.py cannot be read"),
        (("--set", "max_norm=1"), "--against torch does not support max_norm, so results would differ."),
        (("--set", "weight_deacy=1"), "Unknown setting of adamw 'weight_deacy': did you mean 'weight_decay'?"),
        (("--set", "lr"), "--set must be NAME=VALUE"),
        (("--steps", 1), "steps must be an integer in [2, inf), got 1."),
        (("--steps", "few"), "must be an integer, got 'few'."),
        (("--tolerance", -1), "tolerance must be None or a number in [0, inf), got -1.0."),
        (("--lr", "nan"), "lr must be a number in [0, inf), got nan."),
        (("--lr", 0), "at least one weight must move, got no change in 20 steps"),
        (("--dtype", "int8"), "dtype must be one of None, 'float64', 'float32', 'bfloat16', 'float16', got 'int8'."),
        (("--task", "digits"), "Give one task"),
    ],
)
def test_invalid_input_exits_with_code_2_and_one_line_message(dashpot, my_task, words, message):
    Path("optimizers.py").write_text(SOURCE)
    optimizer = () if "--optimizer" in words or not words else ("--optimizer", "adamw")
    zero_decay = ("--set", "weight_decay=0") if words == ("--lr", 0) else ()
    assert message in refused(dashpot("verify", my_task, *optimizer, *words, *zero_decay))


def test_counterpart_settings_are_renamed():
    make = reference_factory("torch", "heavy-ball", 0.1, {"pole": 0.5, "weight_decay": 0.1, "engine": "eager"})
    [group] = make([torch.zeros(1)]).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.5, 0.1, False)


def test_help_lists_exit_code(dashpot):
    assert "5 deviation beyond the tolerance" in dashpot("verify", "--help")[1]
    assert "5 verify found a deviation" in " ".join(dashpot("--help")[1].split())
