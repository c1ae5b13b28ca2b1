"""Commands of the command line, and the errors and exit codes of all commands.

Help, listings and option errors do not load torch, which takes seconds. To add a command, define it in a module of its
own and register it below. At module level, this module imports only cyclopts and modules that do not import torch, such
as `dashpot.cli`, `dashpot.constraints`, `dashpot.errors`, `dashpot.names`, `dashpot.runs.choices`, `dashpot.runs.files`
and `dashpot.runs.settings`. The function checks its options, calls `print_first_line`, and then imports the rest.
`tests/cli/test_cli_startup.py` checks this for every registered command.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cyclopts import App, CycloptsError, Parameter

from dashpot.cli import listings
from dashpot.cli.compare import compare, demo
from dashpot.cli.evaluate import evaluate, predict
from dashpot.cli.experiment import experiment
from dashpot.cli.explain import explain
from dashpot.cli.power import power
from dashpot.cli.report import report
from dashpot.cli.reproduce import reproduce
from dashpot.cli.train import lr_find, train
from dashpot.cli.tune import tune
from dashpot.cli.verify import verify
from dashpot.cli.watch import watch
from dashpot.cli.worker import worker
from dashpot.errors import DashpotError
from dashpot.runs.signals import Interrupted
from dashpot.utils.terminal import printable

app = App(
    name="dashpot",
    help="Stochastic-gradient methods for PyTorch: train, evaluate, predict, compare, verify, report, explain, watch.",
    help_epilogue="With --debug, every command prints the traceback of an error.\n\n"
    "Exit codes: 0 success, 2 error, 3 training diverged, 4 a training process\n"
    "died, 5 verify found a deviation, 130 stopped by Ctrl-C (143 SIGTERM,\n"
    "129 SIGHUP).",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)

DEBUG = "--debug"

for command in (
    *(train, tune, evaluate, predict, compare, power, worker, verify, report, demo),
    *(reproduce, experiment, explain, watch),
):
    app.command(command)
app.command(lr_find, name="lr-find")
for listing in (listings.methods, listings.tasks, listings.schedules):
    app.command(listing)


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code; user errors are printed without a traceback."""
    try:
        code = _run(argv)
        sys.stdout.flush()  # raises an error of the buffered output here, not at exit
    except BrokenPipeError:
        # The process that reads the output, such as `head`, has exited; files on disk are complete.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _run(argv: Sequence[str]) -> int:
    debug = DEBUG in argv
    try:
        with _plain_warnings():
            words = [word for word in argv if word != DEBUG]
            code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(printable(_sentence(error)), file=sys.stderr)
        return 2
    except DashpotError as error:
        if debug:
            raise
        print(printable(str(error)), file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as stop:
        print(printable(f"\n{str(stop) or 'Stopped.'}"), file=sys.stderr)
        return stop.code if isinstance(stop, Interrupted) else 130
    return code if isinstance(code, int) else 0


def _sentence(error: CycloptsError) -> str:
    """Format a parser error on one line; cyclopts would print it in a box as wide as the terminal."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "...")) else f"{text}."


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings inside the block as plain sentences, without the source line."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: printable(f"Note: {message}\n")
    try:
        yield
    finally:
        warnings.formatwarning = before
