"""Reproduction of nanoGPT's character model: settings, equality of the two AdamW, files and table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dashpot.comparison.nanogpt import ROWS, nanogpt_study, reproduce_nanogpt
from dashpot.comparison.nanogpt_results import figures, read_figures, summary_table
from dashpot.comparison.runner import run_study
from dashpot.data import shakespeare
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.records import read_run

LETTERS = "abcdefgh \n"


@pytest.fixture(autouse=True)
def text(monkeypatch) -> str:
    """Replace Shakespeare's plays by 4000 random characters, so that the tests need no data."""
    drawn = torch.randint(len(LETTERS), (4000,), generator=torch.Generator().manual_seed(0))
    made = "".join(LETTERS[index] for index in drawn)
    monkeypatch.setattr(shakespeare, "load", lambda data_dir=None: made)
    return made


def published_lr(step: int) -> float:
    """Return the published learning rate: linear warm-up for 100 steps, then cosine from 1e-3 to 1e-4 at step 2000."""
    if step < 100:
        return 1e-3 * (step + 1) / 101
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4


def test_learning_rates_are_those_published():
    schedule = nanogpt_study("published", 1, tier="smoke").entry("adamw-lr-0.001-betas-0.9-0.99-weight_decay-0.1")
    assert schedule.schedule is not None
    factors = schedule.schedule(2000).table(2000)
    ours, published = [1e-3 * factor for factor in factors], [published_lr(step) for step in range(2000)]
    # Warm-up starts at 1/100 in place of 1/101 of the rate, and ends one step later.
    assert max(abs(a - b) for a, b in zip(ours, published, strict=True)) < 1e-5


def test_only_matrices_decay():
    study = nanogpt_study("published", 1, tier="smoke")
    model = study.task.build(0).model
    for entry in study.entries:
        decayed, others = entry.optimizer_of(model, 30).param_groups
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
        assert {p.ndim for p in decayed["params"]} == {2}
        assert {p.ndim for p in others["params"]} == {1}
        assert sum(len(group["params"]) for group in (decayed, others)) == len(list(model.parameters()))


def test_both_adamw_and_a_plain_loop_have_equal_losses(tmp_path):
    """The runs of 30 steps equal a loop of torch with the published decay, clipping and rounding of float32."""
    study = nanogpt_study("published", 1, tier="smoke", threads=1)
    problem = study.task.build(0)
    params = list(problem.model.parameters())
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    schedule = study.entries[1].schedule
    assert schedule is not None
    losses = []
    for step, (x, y) in enumerate(batch for epoch in range(3) for batch in problem.train.epoch(epoch)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * schedule(30)(step)
        optimizer.zero_grad()
        loss = problem.loss(problem.model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        losses.append(loss.item())
    for run in run_study(study, tmp_path / "out"):
        # The losses are near 2.3; rounding errors of 30 steps in float32 are below 1e-5.
        assert run.loss == pytest.approx(losses, abs=1e-5), run.entry


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_reproduction_writes_final_figures_and_resumes(tmp_path, seeds):
    said: list[str] = []
    path = reproduce_nanogpt(tmp_path / "out", ("best",), seeds, tier="smoke", threads=1, log=said.append)
    lines = read_figures(tmp_path / "out/results.jsonl")
    assert [(line["seed"], line["status"], line["steps"]) for line in lines] == [(n, "done", 30) for n in range(seeds)]
    assert all(1.5 < line["loss"] < 3.3 and line["tier"] == "smoke" for line in lines)
    document = path.read_text()
    assert "validation_size=0" in document
    assert "The settings of the row best were selected on validation data" in document
    assert said[-1] in document
    run = read_run(next(Path(tmp_path / "out/best/runs").iterdir()))
    assert figures([run])[0]["loss"] == run.epochs[-1]["eval"]["loss"]
    run.end = None
    assert figures([run])[0]["loss"] is None
    records = {file: file.stat().st_mtime_ns for file in Path(tmp_path / "out/best/runs").iterdir()}
    assert reproduce_nanogpt(tmp_path / "out", ("best",), seeds, tier="smoke", threads=1, log=said.append) == path
    assert {file: file.stat().st_mtime_ns for file in records} == records


def line(method: str, seed: int, loss: float | None) -> dict:
    return {"method": method, "seed": seed, "loss": loss, "train_loss": 1.5, "cpu_s": 120.0}


def test_table_compares_methods_seed_by_seed():
    lines = [line("adamw", 0, 1.9), line("adamw", 1, 1.8), line("nadam", 0, 1.7), line("nadam", 1, 1.61)]
    rows = summary_table([*lines, line("nadam", 2, None)]).splitlines()[2:]
    assert rows[0] == "| adamw | 2 | 1.850 ± 0.071 | 1.88 | - | - | 1.500 ± 0.000 | 2.0 |"
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    assert cells[:5] == ["nadam", "2", "1.655 ± 0.064", "-", "-0.1950"]
    low, high = (float(limit) for limit in cells[5].split(" to "))
    assert low < -0.195 < high < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ("bset",)}, "Unknown row 'bset': did you mean 'best'"),
        ({"seeds": 0}, "^reproduce: seeds must be an integer in"),
        ({"jobs": 0}, "^reproduce: jobs must be an integer in"),
        ({"tier": "gpu"}, "^reproduce: tier must be one of 'smoke', 'cpu', got 'gpu'"),
    ],
)
def test_invalid_arguments_raise_and_write_nothing(tmp_path, change, message):
    with pytest.raises(ArgumentError, match=message):
        reproduce_nanogpt(tmp_path / "out", **{"rows": tuple(ROWS), "tier": "smoke", **change})
    assert not (tmp_path / "out").exists()


def test_page_of_results_contains_the_table_of_the_committed_figures():
    docs = Path(__file__).parents[2] / "docs"
    lines = read_figures(docs / "results/nanogpt.jsonl")
    assert {(item["table"], item["tier"], item["steps"]) for item in lines} == {("nanogpt", "cpu", 2000)}
    assert summary_table(lines) in (docs / "results.md").read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("nanogpt", "other"), "line 1: table must be"),
        (('"seed"', '"sed"'), "line 1"),
        (("}\n", "}"), "it is truncated"),
    ],
)
def test_damaged_figures_raise(tmp_path, change, reason):
    text = (Path(__file__).parents[2] / "docs/results/nanogpt.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "r.jsonl").write_text(text.replace(*change))
    with pytest.raises(RunError, match=f"is not a file of final figures: {reason}"):
        read_figures(tmp_path / "r.jsonl")
