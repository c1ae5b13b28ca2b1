"""Examples for training frameworks: they run as scripts, reach the expected accuracy, and resume exactly."""

import runpy
from pathlib import Path

import pytest
from loop_frameworks import LIGHTNING_WARNINGS, needs

FOLDER = Path(__file__).parents[2] / "examples"


pytestmark = pytest.mark.usefixtures("clean_frameworks")


def run(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def test_plain_pytorch(capsys):
    example = run("plain_pytorch")
    assert "after 96 steps; resumed run identical: True" in capsys.readouterr().out
    assert example["same"]
    assert example["accuracy"] > 0.85


@pytest.mark.slow  # the loop: test_other_loops_lightning.py
@needs("lightning")
def test_lightning_trainer(capsys):
    example = run("lightning_trainer")
    assert len(capsys.readouterr().out.splitlines()) == 2
    (accuracy, same), (second, products) = example["results"]["first"], example["results"]["second"]
    assert same
    assert min(accuracy, second) > 0.85
    assert products == 18


test_lightning_trainer = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)(test_lightning_trainer)


@pytest.mark.slow  # the loop: test_other_loops_accelerate.py
@needs("accelerate")
def test_accelerate_loop(capsys):
    example = run("accelerate_loop")
    assert "after 90 steps, final lr 0; resumed run identical: True" in capsys.readouterr().out
    assert example["same"]
    assert example["result"] > 0.85


@pytest.mark.slow
@needs("transformers", "accelerate")
def test_hf_trainer(capsys):
    example = run("hf_trainer")
    assert len(capsys.readouterr().out.splitlines()) == 3
    results = example["results"]
    assert set(results) == {"by_instance", "by_class", "by_subclass"}
    assert min(result[0] for result in results.values()) > 0.8  # chance level is 0.2
    assert results["by_instance"][1]
    assert results["by_class"][1:] == (160, [0.01, 0.0])
    assert results["by_subclass"][1:] == (16, "differences")
