"""`dashpot train` where something is missing, unreadable, edited or oddly named: told in one sentence, nothing lost."""

from __future__ import annotations

import builtins
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_support import WORDS, contents, refused, same, stop_at

from dashpot import __main__
from dashpot.comparison import read_run
from dashpot.errors import ArgumentError, RunError
from dashpot.training import Engine
from dashpot.training.distributed import launcher
from dashpot.training.run.folder import RunFolder, default_folder_name
from dashpot.training.run.settings import Settings, read_settings
from dashpot.training.state import checkpoint_file


@pytest.fixture(autouse=True)
def one_thread():
    """Exact continuation is promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begun(dashpot, my_task, *more: object, out: str = "a") -> Path:
    """A finished run of one epoch."""
    assert dashpot("train", my_task, *WORDS, "--epochs", 1, *more, "--out", out)[0] == 0
    return Path(out)


def cut(dashpot, my_task, monkeypatch, step: int, *more: object, out: str = "a") -> Path:
    """A run of three epochs of three steps that Ctrl-C stopped in that step."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert dashpot("train", my_task, *WORDS, "--epochs", 3, *more, "--out", out)[0] == 130
    return Path(out)


# ---- checkpoints that are gone ---------------------------------------------------------------------------------------


def no_folder(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)


def empty(checkpoints: Path) -> None:
    for path in checkpoints.iterdir():
        path.unlink()


@pytest.mark.parametrize("take_away", [no_folder, empty])
@pytest.mark.parametrize("more", [("--epochs", 5, "--override"), ("--keep", 1, "--override")])
def test_a_finished_run_without_its_checkpoints_is_never_started_over(dashpot, my_task, take_away, more):
    folder = begun(dashpot, my_task, "--log", "csv")
    take_away(folder / "checkpoints")
    before = contents(folder)
    sentence = refused(dashpot("train", "--resume", "a", *more))
    assert sentence == (
        "The checkpoints of a are missing, although its record run.jsonl shows that some were written; dashpot "
        "train --config a/run.toml starts a new run."
    )
    assert contents(folder) == before


@pytest.mark.parametrize("take_away", [no_folder, empty])
def test_a_run_of_two_epochs_without_its_checkpoints_is_never_started_over(dashpot, my_task, monkeypatch, take_away):
    folder = cut(dashpot, my_task, monkeypatch, 7, "--log", "csv")
    take_away(folder / "checkpoints")
    before = contents(folder)
    assert "The checkpoints of a are missing" in refused(dashpot("train", "--resume", "a"))
    assert contents(folder) == before


@pytest.mark.parametrize("take_away", [no_folder, empty])
def test_a_run_that_went_on_within_its_first_epoch_is_never_started_over(dashpot, my_task, monkeypatch, take_away):
    folder = cut(dashpot, my_task, monkeypatch, 1)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert dashpot("train", "--resume", "a")[0] == 130
    take_away(folder / "checkpoints")
    before = contents(folder)
    assert "The checkpoints of a are missing" in refused(dashpot("train", "--resume", "a"))
    assert contents(folder) == before


def test_after_one_epoch_a_missing_folder_is_refused(dashpot, my_task, monkeypatch):
    folder = cut(dashpot, my_task, monkeypatch, 4)
    no_folder(folder / "checkpoints")
    assert "The checkpoints of a are missing" in refused(dashpot("train", "--resume", "a"))


def test_a_run_killed_between_its_first_epoch_and_checkpoint_starts_over_and_keeps_that_record(
    dashpot, my_task, monkeypatch
):
    """Nothing tells it from a run in its second epoch whose folder somebody has emptied."""
    dashpot("train", my_task, *WORDS, "--epochs", 3, "--log", "csv", "--out", "whole")

    def die(*_):
        raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write", die)
        with pytest.raises(MemoryError):
            dashpot("train", my_task, *WORDS, "--epochs", 3, "--log", "csv", "--out", "a")
    record = Path("a/run.jsonl").read_bytes()
    code, out, _ = dashpot("train", "--resume", "a")
    assert code == 0
    assert (
        "Restarting a, which has no checkpoint yet. The earlier record was copied to run-1.jsonl." in out.splitlines()
    )
    assert Path("a/run-1.jsonl").read_bytes() == record
    assert same("whole", "a")


def test_a_run_with_no_more_than_a_header_starts_over(dashpot, my_task, monkeypatch):
    dashpot("train", my_task, *WORDS, "--epochs", 3, "--log", "csv", "--out", "whole")
    folder = cut(dashpot, my_task, monkeypatch, 1, "--log", "csv")
    no_folder(folder / "checkpoints")
    _, out, _ = dashpot("train", "--resume", "a")
    assert "Restarting a, which has no checkpoint yet." in out.splitlines()
    assert same("whole", "a")
    assert not Path("a/run-1.jsonl").exists()


def test_logs_without_a_record_are_left_alone(dashpot, my_task):
    folder = begun(dashpot, my_task, "--log", "csv")
    no_folder(folder / "checkpoints")
    (folder / "run.jsonl").unlink()
    before = contents(folder)
    assert "a has logs, but its record run.jsonl is missing; dashpot train --con" in refused(
        dashpot("train", "--resume", "a")
    )
    assert contents(folder) == before


@pytest.mark.needs_posix
@pytest.mark.parametrize("finished", [True, False])
def test_checkpoints_that_cannot_be_listed_are_told(dashpot, my_task, monkeypatch, finished):
    folder = begun(dashpot, my_task) if finished else cut(dashpot, my_task, monkeypatch, 1)
    no_folder(folder / "checkpoints")
    (folder / "checkpoints").symlink_to("checkpoints")  # to itself; a superuser may read everything else
    before = (folder / "run.jsonl").read_bytes()
    sentence = refused(dashpot("train", "--resume", "a", "--keep", 2, "--override"))
    assert sentence == f"Cannot read a/checkpoints: {os.strerror(errno.ELOOP)}."
    assert (folder / "run.jsonl").read_bytes() == before


# ---- none ------------------------------------------------------------------------------------------------------------

FILE = """
task = "{task}"
optimizer = "adamw"
lr = 0.3
schedule = "linear"
epochs = 1
max_norm = 1.0
clip_value = 1.0
ema = 0.9
patience = 2
checkpoint_every = 2
log = ["csv"]
threads = 1
data_dir = "."
"""
NULLABLE = ("lr", "schedule", "epochs", "max_norm", "clip_value", "ema", "patience", "checkpoint_every", "threads")


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_none_turns_off_what_a_settings_file_sets(dashpot, my_task, word):
    Path("mine.toml").write_text(FILE.format(task=my_task))
    words = [part for name in (*NULLABLE, "data_dir", "log") for part in (f"--{name.replace('_', '-')}", word)]
    assert dashpot("train", "--config", "mine.toml", *words, "--out", "a")[0] == 0
    given = read_settings(Path("a/run.toml"))
    off = ("schedule", "max_norm", "clip_value", "ema", "patience", "checkpoint_every", "data_dir")
    assert [name for name in off if name in given] == []
    assert (given["epochs"], given["log"]) == (2, ())  # the task's own
    assert given["lr"] != 0.3
    assert dashpot("train", my_task, "--optimizer", "adamw", "--out", "b")[0] == 0
    assert given == read_settings(Path("b/run.toml"))


def test_none_is_a_setting_as_any_other_of_a_run_that_goes_on(dashpot, my_task):
    begun(dashpot, my_task, "--max-norm", 1, "--ema", 0.5)
    assert dashpot("train", "--resume", "a", "--patience", "none")[0] == 0
    words = ("train", "--resume", "a", "--epochs", 2, "--max-norm", "none")
    assert "max_norm: saved 1.0, given not set" in refused(dashpot(*words))
    assert dashpot(*words, "--override")[0] == 0
    assert "max_norm" not in read_settings(Path("a/run.toml"))
    assert read_settings(Path("a/run.toml"))["ema"] == 0.5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--seed", "none"), "seed"),
        (("--keep", "none"), "keep"),
        (("--precision", "none"), "precision must be one of 'fp32', 'bf16', 'fp16', got 'none'."),
        (("--accelerator", "null"), "accelerator must be one of 'auto', 'cpu', 'cuda', 'mps', got 'null'."),
        (("--lr", "fast"), "lr"),
    ],
)
def test_none_is_refused_where_something_has_to_be(dashpot, tmp_path, words, sentence):
    code, out, err = dashpot("train", "digits", "--optimizer", "sgd", *words)
    assert code == 2
    assert sentence in out + err
    assert list(tmp_path.iterdir()) == []


def test_a_setting_of_the_optimizer_that_is_none_is_in_the_file_that_repeats_the_run(dashpot, my_task):
    begun(dashpot, my_task, "--set", "foreach=none", "maximize=true")
    assert read_settings(Path("a/run.toml"))["set"] == {"foreach": None, "maximize": True}


# ---- devices that are not there --------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """Pretends that there are so many devices."""

    def has(cuda: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize("more", [(), ("--devices", 2)])
@pytest.mark.parametrize(("name", "kind"), [("cuda", "CUDA"), ("mps", "MPS")])
def test_a_device_that_is_not_there_is_one_sentence(dashpot, my_task, machine, name, kind, more):
    machine(0)
    sentence = refused(dashpot("train", my_task, *WORDS, "--accelerator", name, *more))
    assert sentence == f"Engine: accelerator {name} is not available on this machine; choose auto or cpu."


@pytest.mark.parametrize(
    ("cuda", "mps", "accelerator", "sentence"),
    [
        (1, False, "cuda", "devices must be 1 with accelerator cuda"),
        (3, False, "auto", "devices must be 1 to 3 with accelerator cuda"),
        (0, True, "auto", "devices must be 1 with accelerator mps"),
    ],
)
def test_too_few_devices_are_found_before_anything_starts(
    dashpot, my_task, machine, monkeypatch, cuda, mps, accelerator, sentence
):
    machine(cuda, mps)
    monkeypatch.setattr(launcher, "launch", lambda *_: pytest.fail("started"))
    words = ("--accelerator", accelerator, "--devices", 4)
    expected = f"Engine: {sentence} on this machine, got 4; accelerator cpu has no such limit."
    assert refused(dashpot("train", my_task, *WORDS, *words)) == expected


def test_the_engine_says_the_same_and_what_else_lightning_refuses(machine):
    machine(0)
    with pytest.raises(RunError, match=r"^Engine: accelerator cuda is not available on this machine; choose"):
        Engine("cuda")
    with pytest.raises(RunError, match=r"^Engine: accelerator 'abacus' cannot be used: "):
        Engine("abacus")


# ---- files that cannot be read or written ----------------------------------------------------------------------------


def test_a_full_disk_at_an_overridden_setting_leaves_no_half_of_a_file(dashpot, my_task, monkeypatch):
    folder = begun(dashpot, my_task)
    before = contents(folder)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"^Cannot write a/run-1\.toml: No space left on device"):
            RunFolder(folder).write(RunFolder(folder).settings(), command=None)
    assert contents(folder) == before


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--resume", LONG), f"Cannot read {LONG}/run.toml: File name too long."),
        (("digits", *WORDS, "--out", LONG), f"Cannot read {LONG}/run.toml: File name too long."),
        (("--resume", "loop"), f"Cannot read loop/run.toml: {os.strerror(errno.ELOOP)}."),
        (("digits", *WORDS, "--out", "loop"), f"Cannot read loop/run.toml: {os.strerror(errno.ELOOP)}."),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_one_sentence(dashpot, words, sentence):
    Path("loop").symlink_to("loop")
    assert refused(dashpot("train", *words)) == sentence


def test_a_folder_that_cannot_be_listed_is_one_sentence(dashpot, monkeypatch):
    Path("locked").mkdir()

    def denied(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    words = ("digits", *WORDS, "--out", "locked")
    assert refused(dashpot("train", *words)) == "Cannot read locked: Permission denied."


def test_a_log_that_cannot_be_removed_is_one_sentence_and_the_record_stays(dashpot, my_task, monkeypatch):
    folder = cut(dashpot, my_task, monkeypatch, 1)
    no_folder(folder / "checkpoints")
    (folder / "log.csv").write_text("old")
    before = contents(folder)

    def denied(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", denied)
    assert "Cannot write a/log.csv: Permission denied" in refused(dashpot("train", "--resume", "a"))
    assert contents(folder) == before


# ---- names and sentences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("my_task.py", "my_task-adamw-seed0"),
        ("some/where/my_task.py:build", "my_task-adamw-seed0"),
        ("a:b/my_task.py", "my_task-adamw-seed0"),
        ("digits", "digits-adamw-seed0"),
    ],
)
def test_a_run_is_called_after_the_file_of_its_task(task, name):
    assert default_folder_name(Settings(task=task, optimizer="adamw")) == name


def commands(text: str) -> list[str]:
    """The last word of each command in a message, as a shell reads it."""
    found = re.findall(r"--(?:config|resume) (?:'[^']*'|[^\s';,.]|\.(?=\S))+", text)
    return [shlex.split(command)[-1] for command in found]


@pytest.mark.parametrize(("name", "shown"), [("o ü", "o ü"), ("-dash", "./-dash"), ("a;b", "a;b")])
def test_every_command_in_a_message_can_be_pasted(dashpot, my_task, monkeypatch, name, shown):
    words = (my_task, *WORDS, "--epochs", 1, f"--out={name}")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert commands(dashpot("train", *words)[2]) == [shown]
    code, out, _ = dashpot("train", "--resume", shown)
    assert code == 0
    assert commands(out) == [f"{shown}/run.toml"]
    assert commands(refused(dashpot("train", *words))) == [shown]
    no_folder(Path(name, "checkpoints"))
    more = ("--epochs", 2, "--override")
    assert commands(refused(dashpot("train", f"--resume={name}", *more))) == [f"{shown}/run.toml"]


def test_processes_of_a_run_find_a_folder_whose_name_begins_with_a_dash(dashpot, my_task, monkeypatch):
    seen = []
    monkeypatch.setattr(launcher, "launch", lambda command, *_: seen.append(command) or 0)
    assert dashpot("train", my_task, *WORDS, "--out=-dash", "--devices", 2, "--accelerator", "cpu")[0] == 0
    assert seen[0][-3:] == ["train", "--resume", "./-dash"]


def test_a_log_is_named_once(dashpot):
    assert refused(dashpot("train", "digits", *WORDS, "--log", "csv,jsonl,csv")) == (
        "train: log must not repeat a name, got csv, jsonl, csv."
    )
    with pytest.raises(ArgumentError, match="must not repeat a name"):
        Settings(task="digits", optimizer="sgd", log=("csv", "csv"))


@pytest.mark.parametrize(("line", "where"), [(0, "it has no header"), (2, "at line 2")])
def test_a_damaged_record_of_a_run_says_what_starts_a_new_one(dashpot, my_task, line, where):
    begun(dashpot, my_task)
    lines = Path("a/run.jsonl").read_text().splitlines(keepends=True)
    Path("a/run.jsonl").write_text("".join([lines[0], "gibberish\n", *lines[1:]] if line else []))
    sentence = refused(dashpot("train", "--resume", "a"))
    assert sentence.startswith("The record a/run.jsonl is damaged")
    assert where in sentence
    assert sentence.endswith("; dashpot train --config a/run.toml starts a new run.")
    with pytest.raises(RunError, match="; delete it to repeat that run"):
        read_run(Path("a/run.jsonl"))


def test_the_record_has_the_command_that_was_typed(dashpot, my_task, monkeypatch):
    """Also where it is a process of several that begins the record."""
    monkeypatch.setattr(launcher, "launch", lambda *_: 0)
    words = ("train", my_task, *WORDS, "--epochs", 1, "--out", "a", "--accelerator", "cpu", "--devices", 2)
    assert dashpot(*words)[0] == 0
    assert not Path("a/run.jsonl").exists()
    text = Path("a/run.toml").read_text()
    Path("a/run.toml").write_text(text.replace("devices = 2", "devices = 1"))
    assert dashpot("train", "--resume", "a")[0] == 0
    assert read_run(Path("a/run.jsonl")).header["command"] == shlex.join(["dashpot", *map(str, words)])


@pytest.mark.parametrize("made_by", ["", "made_by = 3\n"])
def test_a_settings_file_that_tells_no_command_is_no_obstacle(dashpot, my_task, made_by):
    Path("a").mkdir()
    Path("a/run.toml").write_text(f'task = "{my_task}"\noptimizer = "sgd"\nepochs = 1\nthreads = 1\n{made_by}')
    assert dashpot("train", "--resume", "a", "--override")[0] == 0
    assert read_run(Path("a/run.jsonl")).header["command"] == "dashpot train --resume a --override"


@pytest.mark.parametrize("override", [(), ("--override",)])
@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--seed", 5), "seed (seed: saved 0, given 5)"),
        (("--optimizer", "sgd", "--lr", 1), "optimizer (optimizer: saved adamw, given sgd)"),
    ],
)
def test_what_cannot_be_overridden_is_said_at_once(dashpot, my_task, more, what, override):
    begun(dashpot, my_task)
    sentence = refused(dashpot("train", "--resume", "a", *more, *override))
    assert sentence == f"a: a resumed run cannot change its {what}; start a new run."


# ---- a settings file edited by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("seed = 0", "seed = 5", "run.toml has seed 5, the record 0"),
        ('"adamw"', '"sgd"', "run.toml has optimizer sgd, the record adamw"),
        (':build"', ':other"', "run.toml has task "),
    ],
)
def test_an_edit_of_what_a_run_has_begun_with_is_noticed(dashpot, my_task, monkeypatch, old, new, what, finished):
    with Path("mine.py").open("a") as file:
        file.write("\ndef other():\n    return build()\n")
    folder = begun(dashpot, my_task) if finished else cut(dashpot, my_task, monkeypatch, 5)
    text = (folder / "run.toml").read_text()
    assert old in text
    (folder / "run.toml").write_text(text.replace(old, new, 1))
    before = contents(folder)
    for more in ((), ("--override",)):
        sentence = refused(dashpot("train", "--resume", "a", *more))
        assert what in sentence
        assert sentence.endswith("; restore the value, or start a new run with dashpot train --config a/run.toml.")
    assert contents(folder) == before


def test_a_task_file_that_has_moved_is_the_same_task(dashpot, my_task, monkeypatch):
    folder = cut(dashpot, my_task, monkeypatch, 5)
    Path("there").mkdir()
    Path("mine.py").rename("there/mine.py")
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace("mine.py", "there/mine.py"))
    assert dashpot("train", "--resume", "a")[0] == 0


def test_a_record_that_does_not_tell_its_settings_is_no_obstacle(dashpot, my_task, monkeypatch):
    folder = cut(dashpot, my_task, monkeypatch, 5)
    header, *rest = (folder / "run.jsonl").read_text().splitlines(keepends=True)
    shorter = json.dumps({key: value for key, value in json.loads(header).items() if key != "run"})
    (folder / "run.jsonl").write_text("".join([shorter.ljust(len(header) - 1) + "\n", *rest]))
    assert dashpot("train", "--resume", "a")[0] == 0


# ---- Ctrl-C while it starts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["cyclopts", "dashpot.cli.main"])
def test_ctrl_c_while_it_starts_is_no_traceback(monkeypatch, capsys, module):
    real = builtins.__import__

    def interrupted(name, *more):
        if name == module:
            raise KeyboardInterrupt
        return real(name, *more)

    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert __main__.main() == 130
    assert capsys.readouterr().err == "\nStopped.\n"


def test_ctrl_c_before_it_starts_again_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execve", interrupted)
    monkeypatch.setattr(sys, "argv", ["dashpot", "train"])
    monkeypatch.setattr(sys, "platform", "linux")
    assert __main__.main() == 130
    assert capsys.readouterr().err == "\nStopped.\n"


COMMAND = """
import os, signal, sys
import dashpot_command

class Interrupt:
    def find_spec(name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

assert "torch" not in sys.modules
sys.meta_path.insert(0, Interrupt)
sys.exit(dashpot_command.main())
"""


def test_ctrl_c_while_torch_is_loaded_is_no_traceback():
    found = subprocess.run([sys.executable, "-c", COMMAND, "train"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "\nStopped.\n")
