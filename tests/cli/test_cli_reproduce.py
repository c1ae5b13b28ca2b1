"""`dashpot reproduce`: options of each table, files of final figures, and every workload at the smoke tier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import refused

from dashpot import tasks
from dashpot.comparison import zero_run
from dashpot.comparison.study_cost import StudyCost
from dashpot.comparison.zero_cells import read_grids
from dashpot.comparison.zero_grid import PLANS
from dashpot.errors import DataError
from dashpot.runs.workload_names import WORKLOADS

ROOT = Path(__file__).parents[2]
DIGITS = ("reproduce", "autosgm", "--workload", "digits", "--tier", "smoke", "--zeros", "0", "--threads", 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("fashion-mnist", "--tier", "cpu"),
            "the options of fashion-mnist are --rows, --seeds, --data-dir, --threads, got --tier.",
        ),
        (("nanogpt", "--rows", "best,best"), "reproduce: --rows must name each value once, got best twice."),
        (("fashion-mnist", "--rows", "A2,"), "reproduce: --rows must be comma-separated names, got 'A2,'."),
        (("autosgm", "--rows", "A2"), "the options of autosgm are --workload, --tier, "),
        (("autosgm", "--seeds", "0"), "reproduce: --seeds must be an integer in [1, inf), got 0."),
        (("autosgm", "--jobs", "0"), "reproduce: --jobs must be an integer in [1, inf), got 0."),
        (("autosgm", "--tier", "large"), "Unknown tier 'large'"),
        (("autosgm", "--workload", "mnist"), "Unknown workload 'mnist': did you mean 'fashion-mnist'?"),
        (("autosgm", "--zeros", "2"), "reproduce: --zeros must be a number in (-1, 1), got 2.0."),
        (("autosgm", "--numerators", "0,7"), "reproduce: --numerators must be an integer in [0, 4], got 7."),
        (("nanogpt", "--task-options", "checksum=false"), "the options of nanogpt are --rows, --tier, "),
        (("autosgm", "--task-options", "checksum"), "--task-options must be NAME=VALUE, such as shuffle=false, got"),
        (("autosgm", "--task-options", "data_dir=x"), "--task-options must not contain data_dir; use --data-dir."),
        (("autosgm", "--task-options", "tier=gpu"), "reproduce: --task-options must not contain tier; use --tier."),
        (
            ("autosgm", "--workload", "digits", "--task-options", "checksum=false"),
            "Unknown task option of digits 'checksum'. Known: batch_size, device, shuffle, validation_size.",
        ),
        (
            ("autosgm", "--workload", "digits", "--task-options", "batch_size=0"),
            "digits: batch_size must be an integer in [1, inf), got 0.",
        ),
        (
            ("autosgm", "--from", "r.jsonl", "--tier", "cpu"),
            "reproduce: --from starts no runs and allows only --out, got --tier.",
        ),
        (("autosgm", "--from", "gone.jsonl"), "Cannot read gone.jsonl: No such file or directory."),
    ],
)
def test_invalid_options_exit_with_2_and_write_nothing(dashpot, words, sentence):
    assert sentence in refused(dashpot("reproduce", *words))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_committed_figures_are_written_as_tables_and_page(dashpot, whole):
    lines = (ROOT / "docs" / "results" / "autosgm.jsonl").read_text().splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if json.loads(line)["kind"] == "workload"]
    Path("figures.jsonl").write_text("".join(lines if whole else lines[: starts[1]]))
    code, out, err = dashpot("reproduce", "autosgm", "--from", "figures.jsonl", "--out", "a")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "Page: a/autosgm.html"
    assert sorted(path.name for path in Path("a").iterdir()) == ["autosgm.html", "results.md"]


def test_too_little_memory_writes_nothing(dashpot, monkeypatch):
    large = StudyCost("digits at the tier smoke", 6, 1, 2**40, 2**30, 1.0)
    monkeypatch.setattr(zero_run, "study_cost", lambda *_, **__: large)
    code, _, err = dashpot(*DIGITS, "--out", "a")
    assert code == 2
    assert err.startswith("digits at the tier smoke needs about 1.02e+03 GiB of memory, and 1 GiB are available;")
    assert not Path("a").exists()


def test_foreign_study_in_the_output_folder_stops_before_any_run(dashpot):
    folder = Path("a/wikitext-cpu")
    (folder / "runs").mkdir(parents=True)
    (folder / "study.json").write_text("{}")
    (folder / "runs" / "sgd-seed0.jsonl").write_text("{}")
    code, _, err = dashpot(*DIGITS, "--out", "a")
    assert (code, err.count("a/wikitext-cpu")) == (2, 1)
    assert [path.name for path in Path("a").iterdir()] == ["wikitext-cpu"]


def test_gpu_tier_without_accelerator_requires_yes(dashpot, monkeypatch):
    monkeypatch.setattr(zero_run.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(zero_run, "study_cost", lambda *_, **__: StudyCost("digits", 6, 1, 2**20, 2**30, 7200.0))
    code, _, err = dashpot("reproduce", "autosgm", "--workload", "digits", "--tier", "gpu", "--out", "a")
    assert code == 2
    assert err.endswith(
        "torch finds none on this machine. Nothing was started; --yes starts it, for about 2 h 0 min.\n"
    )
    assert not Path("a").exists()


def test_workloads_without_data_are_omitted_unless_named(dashpot, monkeypatch):
    def missing(name, **_):
        raise DataError(f"{name} was not found.")

    monkeypatch.setattr(tasks, "get", missing)
    code, out, err = dashpot("reproduce", "autosgm", "--tier", "smoke", "--out", "a")
    assert (code, out.count("is left out")) == (2, len(WORKLOADS))
    assert err.endswith("was not found.\n")
    assert dashpot("reproduce", "autosgm", "--workload", "digits", "--out", "a")[0] == 2
    assert not Path("a").exists()


@pytest.mark.slow
def test_digits_smoke_tier_is_reproduced_resumed_and_rebuilt(dashpot):
    words = (*DIGITS, "--seeds", 2, "--task-options", "shuffle=false", "--out", "a")
    code, out, err = dashpot(*words)
    assert (code, err) == (0, "")
    assert "digits at the tier smoke: 10 runs, about " in out
    [grid] = read_grids(Path("a/results.jsonl"))
    assert [(cell.numerator, cell.zero, cell.status) for cell in grid.cells] == [
        (0, "0", ("done", "done")),
        (1, "0", ("done", "done")),
    ]
    assert all(cell.lr in grid.facts["rates"] for cell in grid.cells)
    assert grid.facts["task_options"] == {"shuffle": False}
    assert "shuffle=false" in Path("a/autosgm.html").read_text()
    kinds = [json.loads(line)["kind"] for line in Path("a/results.jsonl").read_text().splitlines()]
    assert kinds == ["workload", "cell", "cell"]
    table = Path("a/results.md").read_text()
    code, again, _ = dashpot(*words)
    assert (code, Path("a/results.md").read_text()) == (0, table)
    assert "digits at the tier smoke: all runs are finished." in again
    assert dashpot("reproduce", "autosgm", "--from", "a/results.jsonl", "--out", "b")[0] == 0
    assert Path("b/results.md").read_text() == table


@pytest.mark.slow
@pytest.mark.parametrize("workload", [name for name in WORKLOADS if name != "digits"])
def test_smoke_tier_of_every_workload_with_data_ends(dashpot, workload):
    """The code is that of the tiers cpu and gpu."""
    plan = PLANS[workload]["smoke"]
    try:
        tasks.get(plan.task, **plan.options)
    except DataError as error:
        pytest.skip(str(error))
    words = ("--workload", workload, "--tier", "smoke", "--zeros", "0", "--seeds", 1, "--threads", 1, "--out", "a")
    assert dashpot("reproduce", "autosgm", *words)[::2] == (0, "")
    [grid] = read_grids(Path("a/results.jsonl"))
    assert {status for cell in grid.cells for status in cell.status} == {"done"}
