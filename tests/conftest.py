"""Settings of every test: one thread, fixed seeds, deterministic property tests."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from dashpot.engine.native.compiler import BuildError, find

collect_ignore_glob = ["*conftest.py"]  # no doctests there, and of several files of this name pytest can import one

settings.register_profile(
    "dashpot",
    deadline=None,
    derandomize=True,  # the same examples on every machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dashpot")
# The oracle, unless a test asks for another engine; `make test-compiled` runs the contracts on kernels instead.
os.environ.setdefault("DASHPOT_ENGINE", "eager")
torch.set_num_threads(int(os.environ.get("DASHPOT_TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats the whole stack for every kind of accelerator
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


PARTS = (
    "auto",
    "benchmarks",
    "documented",
    "equality",
    "fallback",
    "functions",
    "gate",
    "mesh",
    "native",
    "notice",
    "precision",
)
PARTS += ("rehearsal", "roster", "symbols")
NEED_A_COMPILER = ("engine.md", "build.py", "compiler.py", *(f"test_engine_{part}" for part in PARTS))


def pytest_collection_modifyitems(items):
    """Kernels need a C++ compiler; a machine without one still tests everything else."""
    try:
        find()
    except BuildError as error:
        skip = pytest.mark.skip(reason=str(error))
        for item in items:
            if item.path.name.startswith(NEED_A_COMPILER):
                item.add_marker(skip)
