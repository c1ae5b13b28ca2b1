"""Settings of every test: one thread, fixed seeds, deterministic property tests."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

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
    torch.manual_seed(0)
