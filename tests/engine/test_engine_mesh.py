"""DTensor parameters, such as those of FSDP2: several gloo processes compared with a single process.

The checks of mesh_worker.py share one set of processes, because starting processes takes most of the time. Each outcome
is one test here.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from mesh_names import SLOW, SUBJECTS_OF_TWO_RANKS
from processes import LIMIT, assert_passed, run_processes
from registry import SUBJECTS

WORKER = Path(__file__).parent / "mesh_worker.py"

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_gloo]


OTHERS = (
    *(f"compiled[{name}]" for name in ("adamw-decay", "autosgm-1-debiased")),
    *(f"norm[{engine}]" for engine in ("eager", "compiled")),
    *(f"nonfinite[{which}]" for which in ("eager-0-skip", "eager-3-raise", "compiled-0-raise", "compiled-4-skip")),
    *(f"nonfinite_replicas[{which}]" for which in ("0-skip", "3-raise")),
    *(f"fully_shard[{name}]" for name in ("AdamW", "AutoSGM")),
    *(f"checkpoint[{which}]" for which in ("AutoSGM-True", "NAdam-False")),
    *(f"hybrid_sharding[{which}]" for which in ("1-autosgm-4-zero", "2-autosgm-1-debiased")),
    "sharding_over_two_dimensions",
    "grad_scaler_skips_on_all_ranks",
    "differently_sharded_gradient_raises",
    "partial_gradients_are_reduced",
    "unsupported_options_raise",
    "replaced_state_and_shards_are_detected",
    "step_increments_version_counters",
    "shards_round_independently",
    "replicas_round_equally",
    "low_precision_state",
    "complex_parameters",
    "engine_choice_is_equal_on_all_ranks",
    "torch_state_dict_round_trip",
    "state_initialization_step",
)


def test_import_of_dashpot_does_not_import_dtensor():
    code = "import dashpot, sys; print('torch.distributed.tensor' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert process.stdout.strip() == "False"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run_processes(WORKER, tmp_path_factory.mktemp("mesh"), "kinds")


def passed(outcomes, name):
    for rank, found in enumerate(outcomes):
        reason = found.get(name, "not run after an earlier failure")
        assert reason == "passed", f"rank {rank}: {reason}"


@pytest.mark.parametrize("subject", SUBJECTS_OF_TWO_RANKS)
def test_method_matches_single_process(outcomes, subject):
    passed(outcomes, f"every_method[{subject}]")


@pytest.mark.parametrize("name", OTHERS)
def test_two_ranks(outcomes, name):
    passed(outcomes, name)


def test_all_checks_are_listed(outcomes):
    assert set(outcomes[0]) == {*OTHERS, *(f"every_method[{name}]" for name in SUBJECTS_OF_TWO_RANKS)}


@pytest.mark.slow
def test_four_ranks(tmp_path):
    """The checks cover all subjects, two replicas of two shards, two sharded dimensions, and more empty shards."""
    outcomes = run_processes(WORKER, tmp_path, "subjects", world=4)
    assert_passed(outcomes, len(SUBJECTS) + len(OTHERS) + len(SLOW))
