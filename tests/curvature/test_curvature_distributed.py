"""Products in distributed training (DDP, FSDP2, other DTensors) against a single-process run.

The checks are functions of curvature_worker.py and run in one set of processes; each outcome is a separate test.
"""

from pathlib import Path

import pytest
from processes import assert_passed, run_processes

WORKER = Path(__file__).parent / "curvature_worker.py"

pytestmark = pytest.mark.needs_gloo

METHODS = ("ESGD-1", "ESGD-2", "AdaHessian", "Sophia")
ROUTES = ("backward", "step", "curvature_step", "forward", "differences")
SHARES = ("1-False", "2-True", "2-False", "1-True")
"""Number of micro-batches, and whether gradients are views of DDP buckets."""
CHECKS = (
    *(f"ddp[{METHODS[j % 4]}-{way}-{SHARES[j % 4]}]" for j, way in enumerate(ROUTES)),
    *(f"ddp[{option}-backward]" for option in ("find_unused_parameters", "static_graph")),
    *(f"no_forward_mode[{option}]" for option in ("find_unused_parameters", "static_graph")),
    *(f"gradients_stay[{way}-{view}]" for way in ("closure", "differences") for view in (False, True)),
    "falls_back_everywhere[True]",
    *(f"not_finite_in_one_process[{way}]" for way in ("backward", "step", "curvature_step")),
    *(f"fsdp[{which}]" for which in ("ESGD-1-step-None", "AdaHessian-curvature_step-0.001")),
    *(f"hessian_of_one_rank[{route}]" for route in ("graph", "differences")),
    *(f"late_sums[{which}]" for which in ("step-True", "curvature_step-False")),
    *(f"resumed[ESGD-2-{sharded}]" for sharded in (False, True)),
    "repeated_parameters[True]",
    "a_graph_of_one_process",
    "after_an_evaluation",
    "pieces_of_the_probes",
    "what_is_refused",
    "averages_over_the_window",
    "dropped_where_one_piece_is_not_finite",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run_processes(WORKER, tmp_path_factory.mktemp("curvature"), "^(?!slow)")


@pytest.mark.parametrize("name", CHECKS)
def test_on_two_ranks(outcomes, name):
    for rank, found in enumerate(outcomes):
        reason = found.get(name, "it did not run, as processes differed in an earlier check")
        assert reason == "passed", f"process {rank}: {reason}"


def test_all_checks_are_listed(outcomes):
    assert set(outcomes[0]) == set(CHECKS)


@pytest.mark.slow
def test_all_combinations_on_two_ranks(tmp_path):
    """All methods and routes with and without micro-batches and bucket views."""
    assert_passed(run_processes(WORKER, tmp_path, "^slow"), 75 + 14 + 6 + 6 + 2 + 2)
