"""Studies: pairing, what may not be mixed in one folder, and refusals before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparison_support import build, finished, numbers, study, toy

import dashpot
from dashpot.comparison import Entry, Study, StudyFolder, entry, run_study
from dashpot.constraints import ARGUMENTS
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.diff import diff_data
from dashpot.runs.study import COUNT, SEED
from dashpot.tasks import Problem


def test_methods_of_one_seed_start_at_the_same_weights_and_seeds_differ(tmp_path):
    runs = finished(tmp_path / "out", "sgd", "adam", "autosgm-3", seeds=(0, 1))
    starts = {(run.entry, run.seed): run.header["task"]["init"] for run in runs}
    for seed in (0, 1):
        assert len({starts[name, seed] for name in ("sgd", "adam", "autosgm-3")}) == 1
    assert starts["sgd", 0] != starts["sgd", 1]


def test_methods_of_one_seed_see_the_same_batches_and_the_same_dropout(tmp_path):
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}
    runs = iter(range(100))

    def watched(seed: int) -> Problem:
        problem = build(seed)
        batches = seen.setdefault((seed, next(runs)), [])
        problem.model[3].register_forward_hook(lambda _, x, y: batches.append((x[0] != 0) & (y != 0)))
        problem.model.register_forward_pre_hook(lambda _, x: batches.append(x[0]))
        return problem

    # A rate of zero keeps the weights still, so that equal inputs and equal dropout give equal activations.
    entries = (Entry("a", torch.optim.SGD, 0.0), Entry("b", torch.optim.Adam, 0.0))
    run_study(Study(toy(build=watched), entries, (0, 1), 2), tmp_path / "out")
    recorded = [(seed, batches) for (seed, _), batches in seen.items() if batches]
    assert [seed for seed, _ in recorded] == [0, 0, 1, 1]
    for (_, one), (_, two) in (recorded[:2], recorded[2:]):
        assert len(one) == len(two) > 0
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    assert not torch.equal(recorded[0][1][0], recorded[2][1][0])


def test_pairing_does_not_depend_on_which_methods_take_part(tmp_path):
    together = finished(tmp_path / "a", "sgd", "adam", seeds=(0, 1))
    alone = finished(tmp_path / "b", "adam", seeds=(1,))
    assert numbers([run for run in together if run.entry == "adam" and run.seed == 1]) == numbers(alone)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: study("adam", epochs=4), "epochs: saved 3, current 4"),
        (lambda: study("adam", seeds=(0, 1)), r"seeds: saved \[0\], current \[0, 1\]"),
        (lambda: study("adam", "sgd"), "methods.sgd: saved nothing, current"),
        (lambda: study("sgd"), "methods.adam: saved .*, current nothing"),
        (lambda: study("adam", schedule="cosine"), "methods.adam: saved .*schedule=Cosine"),
        (
            lambda: Study(toy(config={"batch_size": 7}), study().entries, (0,), 3),
            "config.batch_size: saved 6, current 7",
        ),
        (lambda: Study(toy(), (entry("adam", "toy", lr=0.5),), (0,), 3), r"saved .*lr=0\.05\).*, current .*lr=0\.5\)"),
        (lambda: Study(toy(), study().entries, (0,), 3, threads=1), "threads: saved null, current 1"),
        (lambda: Study(toy(name="other"), study().entries, (0,), 3), 'task: saved "toy", current "other"'),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_and_named(tmp_path, other, named):
    finished(tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=f"other settings: .*{named}.*Nothing was changed"):
        run_study(other(), tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_change_of_the_method_is_named_once_and_a_changed_meaning_by_its_recipe(tmp_path):
    finished(tmp_path / "out")
    with pytest.raises(RunError) as refused:
        run_study(Study(toy(), (entry("adam", "toy", lr=0.5),), (0,), 3), tmp_path / "out")
    assert "recipes." not in str(refused.value)
    path = tmp_path / "out" / "study.json"
    stored = json.loads(path.read_text())
    stored["settings"]["recipes"]["adam"] = "Recipe(of an older version)"
    path.write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"recipes\.adam: saved .*older version"):
        finished(tmp_path / "out")


def test_many_differences_are_cut_short():
    there, here = ({f"key{i}": value for i in range(9)} for value in (0, 1))
    assert len(diff_data(there, here)) == 9


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"is not empty and holds no study\.json"):
        finished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_a_damaged_study_file_is_named(tmp_path, content):
    finished(tmp_path / "out")
    (tmp_path / "out" / "study.json").write_text(content)
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        finished(tmp_path / "out")


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    pytest.importorskip("fcntl", reason="file locks need a Unix system")
    finished(tmp_path)
    code = "import sys, fcntl, os; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(RunError, match="Another process is running"):
                finished(tmp_path)
        finally:
            holder.communicate("\n")
    finished(tmp_path)


@pytest.mark.parametrize("lr", [value for value in ARGUMENTS["lr"].refused() if not isinstance(value, str)])
def test_a_bad_rate_is_refused_with_its_method(lr):
    if lr is None:
        assert entry("adam", "toy", lr=None).lr == 1e-3
    else:
        with pytest.raises(ArgumentError, match=r"^adam: lr must be a number in"):
            entry("adam", "toy", lr=lr)


def test_settings_an_optimizer_refuses_are_found_before_anything_is_written(tmp_path):
    bad = Study(toy(), (*study("sgd").entries, Entry("adam", dashpot.Adam, 0.1, {"betas": (1.0, 0.9)})), (0,), 1)
    with pytest.raises(ArgumentError, match="Adam: betas"):
        run_study(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", COUNT.refused())
@pytest.mark.parametrize("name", ["epochs", "threads"])
def test_bad_counts_are_refused(name, value):
    settings = {"epochs": 1, "threads": 1, name: value}
    if (name, value) == ("threads", None):
        assert Study(toy(), study().entries, (0,), **settings).threads is None
        return
    with pytest.raises(ArgumentError, match=f"Study: {name} must be"):
        Study(toy(), study().entries, (0,), **settings)


@pytest.mark.parametrize("value", SEED.refused())
def test_bad_seeds_are_refused(value):
    with pytest.raises(ArgumentError, match="Study: seeds must be"):
        Study(toy(), study().entries, (value,), 1)


def test_empty_and_repeated_seeds_and_entries_are_refused():
    adam = study().entries
    for entries, seeds in ((adam, ()), (adam, (1, 1)), ((), (0,)), (adam * 2, (0,))):
        with pytest.raises(ArgumentError, match=r"Study: (seeds|entries) must be at least one"):
            Study(toy(), entries, seeds, 1)


def test_threads_are_set_for_the_study_only(tmp_path):
    before = torch.get_num_threads()
    used = []

    def watched(seed: int) -> Problem:
        used.append(torch.get_num_threads())
        return build(seed)

    run_study(Study(toy(build=watched), study().entries, (0,), 1, threads=before + 1), tmp_path / "out")
    assert used[-1] == before + 1
    assert torch.get_num_threads() == before


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        finished(tmp_path / "file" / "out")


def test_paths_stay_inside_the_folder(tmp_path):
    folder = StudyFolder(tmp_path)
    assert folder.record("adam", 1) == Path(tmp_path, "runs", "adam-seed1.jsonl")
    for name in ("", "a/b", "..", ".hidden", "a b", "a\0"):
        with pytest.raises(ArgumentError, match="Entry: name must be"):
            Entry(name, torch.optim.SGD, 0.1)
