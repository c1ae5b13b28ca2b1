"""DTensor parameters, as FSDP2 makes them: several gloo processes on this machine against one.

The checks are functions of mesh_worker.py. All run in one set of processes, which takes as long as their start; here
each check's outcome in every process is a test of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_processes
from registry import KINDS, SUBJECTS, each

WORKER = Path(__file__).parent / "mesh_worker.py"

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_gloo]


OTHERS = (
    *(f"compiled[{name}]" for name in ("adamw-decay", "nadam", "autosgm-1-debiased")),
    *(f"norm[{engine}]" for engine in ("eager", "compiled")),
    *(f"nonfinite[{e}-{i}-{mode}]" for e in ("eager", "compiled") for i in (0, 3, 4) for mode in ("skip", "raise")),
    *(f"nonfinite_copies[{i}-{mode}]" for i in (0, 3) for mode in ("skip", "raise")),
    *(f"fully_shard[{name}]" for name in ("AdamW", "AutoSGM", "NAdam")),
    *(f"checkpoint[{name}-{full}]" for name in ("AdamW", "AutoSGM", "NAdam") for full in (False, True)),
    *(f"two_dimensions[{copies}]" for copies in (1, 2)),
    "divided_over_both_dimensions",
    "grad_scaler_is_agreed",
    "gradients_divided_otherwise",
    "sums_that_are_due",
    "what_is_refused",
    "state_that_is_replaced",
    "autograd_sees_the_change",
    "rounding_differs_between_pieces",
    "copies_round_alike",
    "low_precision_state",
    "complex_numbers",
    "one_rule_for_all_processes",
    "a_state_dict",
    "the_step_that_makes_the_state",
)


def test_importing_dashpot_imports_no_dtensors():
    code = "import dashpot, sys; print('torch.distributed.tensor' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.strip() == "False"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run_processes(WORKER, tmp_path_factory.mktemp("mesh"), "kinds")


def passed(outcomes, name):
    for rank, found in enumerate(outcomes):
        reason = found.get(name, "it did not run, as an earlier check failed")
        assert reason == "passed", f"process {rank}: {reason}"


@each(lambda subject: subject.name in KINDS)
def test_a_method_gives_the_numbers_of_one_process(outcomes, subject):
    passed(outcomes, f"every_method[{subject}]")


@pytest.mark.parametrize("name", OTHERS)
def test_in_two_processes(outcomes, name):
    passed(outcomes, name)


def test_every_check_is_asked_for(outcomes):
    assert set(outcomes[0]) == {*OTHERS, *(f"every_method[{name}]" for name in KINDS)}


@pytest.mark.slow
def test_the_same_in_four_processes(tmp_path):
    """Every subject; two copies in two pieces, two divided dimensions, more empty pieces."""
    for rank, found in enumerate(run_processes(WORKER, tmp_path, "subjects", world=4)):
        wrong = {name: reason for name, reason in found.items() if reason != "passed"}
        assert not wrong, (rank, wrong)
        assert len(found) == len(SUBJECTS) + len(OTHERS)
