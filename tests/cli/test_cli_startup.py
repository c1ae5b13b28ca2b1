"""Start-up of the command: no torch before the first line, OpenMP wait policy, and Ctrl-C during imports."""

from __future__ import annotations

import builtins
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import LIMIT

from dashpot import __main__, names, schedules, tasks
from dashpot.cli.main import app
from dashpot.comparison import known_entries
from dashpot.optimizers import registry
from dashpot.utils.format import typed
from dashpot_command import main

WITHOUT_TORCH = """
import contextlib, io, json, sys

class Loaded(BaseException):
    pass

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy"}:
            raise Loaded

sys.meta_path.insert(0, Refuse())
import dashpot
from dashpot.__main__ import main

results = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["dashpot", *words]
    out, err, code = io.StringIO(), io.StringIO(), "loads torch"
    with contextlib.suppress(Loaded), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main()
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""

COMMANDS = sorted(name for name in app if not name.startswith("-"))
FIRST_LINES = {
    "compare": (["digits", "--methods", "sgd,adam"], "Comparing sgd,adam on digits."),
    "demo": ([], "Looking for Fashion-MNIST (downloads 30 MB if it is not on this machine) ..."),
    "evaluate": (["some/folder"], "Evaluating the best checkpoint of some/folder."),
    "experiment": (["averages"], "Running the experiment averages with seeds 0 to 4."),
    "explain": (["adamw", "--lr", "0.1"], "Explaining adamw."),
    "lr-find": (["digits", "--optimizer", "sgd"], "Running a learning-rate range test of sgd on digits."),
    "power": (["--difference", "1", "--sd", "1"], "Computing the power."),
    "predict": (
        ["some/folder", "--out", "p.csv", "--which", "last"],
        "Predicting with the last checkpoint of some/folder.",
    ),
    "report": (["some/folder"], "Reading some/folder."),
    "reproduce": (["fashion-mnist"], "Reproducing the table fashion-mnist."),
    "train": (["digits", "--optimizer", "sgd"], "Training sgd on digits."),
    "tune": (["digits", "--method", "sgd"], "Tuning sgd on digits."),
    "verify": (["digits", "--optimizer", "sgd"], "Comparing sgd with torch on digits."),
    "watch": (["some/folder"], "Reading some/folder."),
    "worker": (["some/folder"], "Working on the study in some/folder."),
}
"""Arguments with which a command loads torch, and the line that it prints before."""
LISTINGS = {"methods", "schedules", "tasks"}


def run_without_torch(commands: Sequence[Sequence[str]]) -> list[tuple[int | str, str, str]]:
    """Run commands in a process without torch; return (exit code or "loads torch", stdout, stderr) of each."""
    source = str(Path(__file__).parents[2] / "src")
    script = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)]
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT, env=environment)
    return [tuple(result) for result in json.loads(done.stdout)]


LISTED = [
    *(["--help"], ["--version"], []),
    *([name, "--help"] for name in COMMANDS),
    *([name] for name in sorted(LISTINGS)),
    ["experiment", "--list"],
]
STARTED = [name for name in COMMANDS if name not in LISTINGS]


@pytest.fixture(scope="module")
def without_torch():
    """Return the results of help, listings, started commands and option errors, all in one process."""
    groups = {"listed": LISTED, "started": [[name, *FIRST_LINES[name][0]] for name in STARTED], "errors": ERRORS}
    results = iter(run_without_torch([words for group in groups.values() for words in group]))
    return {name: [next(results) for _ in group] for name, group in groups.items()}


def test_help_and_listings_do_not_load_torch(without_torch):
    for words, (code, out, err) in zip(LISTED, without_torch["listed"], strict=True):
        assert (words, code, err) == (words, 0, "")
        assert out.strip()


def test_commands_print_the_first_line_before_they_load_torch(without_torch):
    for name, result in zip(STARTED, without_torch["started"], strict=True):
        assert (name, *result) == (name, "loads torch", FIRST_LINES[name][1] + "\n", "")


ERRORS = [
    ["train", "digits", "--optimizer", "sgd", "--lr", "-1"],
    ["compare"],
    ["trian"],
    ["experiment", "averges"],
    ["experiment", "averages", "--seeds", "1"],
    ["compare", "digits", "--jobs", "0"],
    ["compare", "digits", "--budget", "-1"],
    ["compare", "digits", "--budget", "2", "--tune", "lr,momentm"],
    ["compare", "digits", "--tune", "lr"],
    ["compare", "digits", "--budget", "2", "--sampler", "random"],
    ["compare", "digits", "--pruner", "hyperband"],
    ["compare", "digits", "--looks", "5,3"],
    ["compare", "digits", "--looks", "5,10", "--seeds", "7"],
    ["compare", "digits", "--sensitivity", "4"],
    ["compare", "digits", "--margin", "0"],
    ["tune", "digits", "--method", "adamw", "--budget", "0"],
]
SENTENCES = [
    "lr must be None or a number in [0, inf), got -1.0.",
    "Give one task",
    "Unknown command",
    "Unknown experiment 'averges': did you mean 'averages'?",
    "experiment: seeds must be an integer in [2, inf), got 1.",
    "compare: --jobs must be an integer in [1, inf), got 0.",
    "compare: --budget must be an integer in [0, 10000], got -1.",
    "Unknown setting to tune 'momentm': did you mean 'momentum'?",
    "compare: --tune requires --budget, the number of trials per method.",
    "compare: --sampler must be one of 'qmc', 'tpe', 'grid', got 'random'.",
    "compare: --pruner must be one of 'none', 'median', got 'hyperband'.",
    "compare: --looks must be increasing numbers of seeds from 2, such as 5,10,20, got '5,3'.",
    "compare: --seeds must be the last of --looks, 10, got 7.",
    "compare: --sensitivity must be an integer in [0, 3], got 4.",
    "compare: --margin must be a number in (0, inf), got 0.0.",
    "tune: --budget must be an integer in [1, 10000], got 0.",
]


def test_option_errors_do_not_load_torch(without_torch):
    for sentence, (code, out, err) in zip(SENTENCES, without_torch["errors"], strict=True):
        assert (code, out) == (2, "")
        assert sentence in err


def test_only_the_first_process_prints_the_first_line(dashpot, monkeypatch):
    for variable, value, expected in [
        ("RANK", "1", ""),
        ("RANK", "0", "Reading gone.\n"),
        ("DASHPOT_SUPERVISOR", "1", ""),
    ]:
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert dashpot("report", "gone")[1] == expected


def test_names_equal_the_registries():
    assert {name: method.summary for name, method in names.METHODS.items()} == {
        name: (method.cls.__doc__ or "").strip().splitlines()[0] for name, method in registry.METHODS.items()
    }
    assert list(names.TASKS) == list(tasks.names())
    assert names.known_methods() == known_entries()
    assert list(names.SCHEDULES) == list(schedules.NAMES)


@pytest.mark.parametrize("name", schedules.NAMES)
def test_listed_schedule_options_equal_the_parameters(name):
    """A listed default, such as `floor=0`, is the default of the parameter; options without default are optional."""
    parameters = [item for item in inspect.signature(schedules.NAMES[name]).parameters.values() if item.name != "steps"]
    _, _, text = names.SCHEDULES[name].partition("; ")
    listed = [item.partition(" ")[0] for item in re.sub(r" \(.*?\)", "", text).split(", ") if item]
    assert sorted(item.partition("=")[0] for item in listed) == sorted(item.name for item in parameters)
    defaults = {item.name: item.default for item in parameters}
    for item in listed:
        option, equals, value = item.partition("=")
        if equals:
            assert typed(value) == defaults[option]
        else:
            assert defaults[option] in (None, inspect.Parameter.empty)


@pytest.mark.needs_linux
@pytest.mark.parametrize(
    "words", [["train", "digits"], ["--debug", "compare", "digits"], ["demo"], ["experiment", "lesson"]]
)
def test_training_command_sets_passive_waiting_before_torch_is_loaded(monkeypatch, words):
    found = []
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    monkeypatch.setattr("dashpot.cli.main.run", lambda _: found.append(os.environ["OMP_WAIT_POLICY"]) or 5)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # monkeypatch restores the variable that main sets
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main() == 5
    assert found == ["PASSIVE"]


@pytest.mark.parametrize(("words", "setting"), [(["methods"], None), (["demo", "--help"], "OMP_WAIT_POLICY")])
def test_other_commands_and_configured_policies_are_unchanged(monkeypatch, capsys, words, setting):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv(setting, "ACTIVE")
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    assert main() == 0
    assert capsys.readouterr().out
    assert os.environ.get("OMP_WAIT_POLICY") == ("ACTIVE" if setting else None)


@pytest.mark.parametrize("module", ["cyclopts", "dashpot.cli.main"])
def test_ctrl_c_during_imports_prints_no_traceback(monkeypatch, capsys, module):
    real = builtins.__import__

    def interrupted(name, *more):
        if name == module:
            raise KeyboardInterrupt
        return real(name, *more)

    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert __main__.main() == 130
    assert capsys.readouterr().err == "\nStopped.\n"
