"""Examples run as scripts with the documented results."""

import functools
import math
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import dashpot as dp
from dashpot import tasks

FOLDER = Path(__file__).parents[2] / "examples"


def run(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def test_every_example_has_a_test():
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        "autosgm_readme",
        "own_rule",
        "own_optimizer",
        "second_order",
        "swap_one_import",
        # These examples are tested in tests/training/test_examples_loops.py.
        "accelerate_loop",
        "hf_trainer",
        "lightning_trainer",
        "plain_pytorch",
        # This example is tested in tests/training/test_examples_lesson.py.
        "lesson",
        # These examples are tested in tests/tasks/test_examples_own_tasks.py.
        "csv_regression",
        "image_folder",
        # This example is tested in tests/watching/test_watch_report.py.
        "watch_a_run",
    }


def test_autosgm_readme(capsys):
    example = run("autosgm_readme")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10
    results = {**example["run_examples"](), "setups": example["setups"]()}
    assert {name.partition(",")[0] for name in results} == {*(f"opt{i}" for i in range(8)), "setups"}
    for losses in results.values():
        assert len(losses) == 3
        assert losses[2] < losses[0]


def test_autosgm_readme_configurations_are_the_methods_they_are_called():
    """Each tuple is equivalent to explicit stages, apart from the window."""
    example = run("autosgm_readme")
    recipes = []
    for lr_cfg, beta_cfg, rc_cfg, wd_cfg in example["EXAMPLES"].values():
        w = torch.zeros(1, requires_grad=True)
        opt = dp.AutoSGM([w], lr_cfg=lr_cfg, beta_cfg=beta_cfg, rc_cfg=rc_cfg, wd_cfg=wd_cfg, eps_cfg=(1e-8,))
        recipes.append([type(stage).__name__ for stage in opt.recipe.active()])
    ratio = ["Filter", "SecondMoment", "ChangeDecay"]
    assert recipes == [
        ["CoupledDecay", "Filter"],
        ["CoupledDecay", "Filter", "SecondMoment"],
        ["CoupledDecay", "Filter", "SecondMoment"],
        ratio,
        ratio,
        ratio,
        [*ratio, "Parcor"],
        [*ratio, "HuberParcor"],
        [*ratio, "MomentRate"],
    ]
    assert example["autosgm_zero"] == pytest.approx(0.5528, abs=5e-5)
    assert example["nesterov_zero"] == pytest.approx(0.9 / 1.9)


def test_autosgm_readme_tuples_are_those_of_the_readme():
    """The README gives opt1, RMSProp, the cosine window that it introduces with opt2."""
    examples = list(run("autosgm_readme")["EXAMPLES"].values())
    assert examples[0] == ((False, 1e-3, 0), (0.9999, 0.999, 0, 0.0, 0, True), None, (1e-4, 0))
    window = (1, 0, 0, 2, 1, 1, int(1e9), 1, 0)
    assert examples[1] == ((True, 1e-3, 0), (0.9999, 0.999, 0, 0.0, 0, True), window, (1e-4, 0))
    assert examples[2] == examples[1]


def test_swap_one_import(capsys):
    example = run("swap_one_import")
    assert "epoch 4: loss" in capsys.readouterr().out
    assert example["accuracy"] > 0.85
    source = (FOLDER / "swap_one_import.py").read_text()
    assert [line for line in source.splitlines() if "dp." in line] == [
        "    opt = dp.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)  # was torch.optim.AdamW"
    ]


@pytest.mark.parametrize("batch_size", [100, pytest.param(None, marks=pytest.mark.slow)])
def test_own_optimizer(capsys, monkeypatch, batch_size):
    """The fast test takes fewer steps, with larger batches than the example."""
    if batch_size:
        monkeypatch.setattr(tasks, "get", functools.partial(tasks.get, batch_size=batch_size))
    runs = run("own_optimizer")["runs"]
    assert [found.entry for found in runs] == [
        "adamw",
        "torch-RAdam",
        "own_optimizer.Lion",
        "own_optimizer.lion_and_adam",
    ]
    assert all(found.status == "done" and found.loss[-1] < found.loss[0] for found in runs)
    assert "weights" in runs[3].header["recipe"]
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_own_rule(capsys):
    example = run("own_rule")
    assert "resumed run identical: True" in capsys.readouterr().out
    assert example["same"]
    assert example["round_trips"]
    assert 0 < example["share"] < 1
    names = [name for name, _, _ in example["changes"].rows]
    assert names == ["Filter.slot", "SecondMoment.beta", "Cautious", "schedule of floor", "schedule of lr"]


def test_own_rule_is_the_published_mask():
    """Return v mask/mean(mask) with mask = [v g > 0], in Python floats; the mean has a lower bound."""
    Cautious = run("own_rule")["Cautious"]
    v, g = [1.0, -2.0, 3.0, -4.0], [0.5, -0.5, -0.5, 0.0]
    w = torch.zeros(4, requires_grad=True)

    @dataclass(frozen=True)
    class Given(dp.Stage):
        def apply(self, x, s, c, ctx):
            return x._replace(v=torch.tensor(v)), s

    opt = dp.SGM.from_recipe([w], dp.Recipe(Given(), Cautious(), lr=1.0))
    w.grad = torch.tensor(g)
    opt.step()
    assert w.tolist() == [-2.0, 4.0, 0.0, 0.0]
    assert opt.state[w]["agreeing_share"].item() == 0.5
    w.grad = -torch.tensor(v)
    opt.step()
    assert opt.state[w]["agreeing_share"].item() == 0
    assert all(math.isfinite(value) for value in w.tolist())


def test_second_order(capsys):
    results = run("second_order")["results"]
    assert len(capsys.readouterr().out.splitlines()) == 2
    (one, route, products), (other, other_route, others) = results.values()
    assert (route, other_route) == ("closure", "differences")
    assert products == others == 25  # 20 initial products, then products at steps 29, 39, ... of 72
    assert min(one, other) > 0.8
