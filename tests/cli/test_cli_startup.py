"""Start-up of the command: OpenMP wait policy, and Ctrl-C during imports."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys

import pytest

from dashpot import __main__
from dashpot_command import main


class ProcessReplaced(Exception):  # noqa: N818 - control flow, not an error
    """Exception raised in place of `os.execve`, which does not return."""


@pytest.mark.needs_linux
@pytest.mark.parametrize("words", [["train", "digits"], ["--debug", "compare", "digits"], ["demo"]])
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


@pytest.mark.needs_linux
@pytest.mark.parametrize("words", [["train", "digits"], ["--debug", "compare", "digits"], ["demo"]])
def test_python_m_dashpot_restarts_with_passive_waiting_and_the_same_arguments(monkeypatch, words):
    calls = []

    def execve(*call):
        calls.append(call)
        raise ProcessReplaced

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "dashpot", *words])
    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(ProcessReplaced):
        main()
    [(program, line, environment)] = calls
    assert (program, line) == (sys.executable, ["python", "-m", "dashpot", *words])
    assert environment == {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(("words", "setting"), [(["methods"], None), (["demo", "--help"], "OMP_WAIT_POLICY")])
def test_other_commands_and_configured_policies_are_unchanged(monkeypatch, capsys, words, setting):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv(setting, "ACTIVE")
    monkeypatch.setattr(sys, "argv", ["dashpot", *words])
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
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


def test_ctrl_c_before_restart_prints_no_traceback(monkeypatch, capsys):
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
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
sys.meta_path.insert(0, Interrupt)
sys.exit(dashpot_command.main())
"""


def test_ctrl_c_while_torch_is_loaded_prints_no_traceback():
    found = subprocess.run([sys.executable, "-c", COMMAND, "train"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "\nStopped.\n")
