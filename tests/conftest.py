"""Settings of all tests: one thread, fixed seeds, deterministic property tests, skips by marker."""

import functools
import gc
import os
import sys
from pathlib import Path

import postgres_server
import pytest
import torch
from diagonal import mark_combinations
from hypothesis import HealthCheck, settings

from dashpot.engine.native import cache
from dashpot.engine.native.compiler import BuildError, find

collect_ignore_glob = ["*conftest.py"]  # contain no doctests, and their module names would clash

settings.register_profile(
    "dashpot",
    deadline=None,
    derandomize=True,  # the same examples on every machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dashpot")
# The reference engine is the default of tests; `make test-compiled` runs the contracts on kernels.
os.environ.setdefault("DASHPOT_ENGINE", "eager")
# All test processes and later runs share compiled kernels, in the user's cache if the checkout is not private enough.
SHARED_CACHE = str(Path(__file__).parents[1] / ".pytest_cache" / "kernels")
if os.environ.setdefault("DASHPOT_CACHE", SHARED_CACHE) == SHARED_CACHE:
    try:
        cache.folder()
    except cache.CacheError:
        del os.environ["DASHPOT_CACHE"]
torch.set_num_threads(int(os.environ.get("DASHPOT_TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats the call stack for each accelerator type
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


DOCTESTS_THAT_COMPILE = ("docs/engine.md", "engine/native/build.py", "engine/native/compiler.py")


@functools.cache
def missing(marker: str) -> str:
    """Return why tests with this marker cannot run on this machine; empty if they can."""
    if marker == "needs_compiler":
        try:
            find()
        except BuildError as error:
            return str(error)
    if marker == "needs_gloo" and not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        return "this torch is built without gloo"
    if marker == "needs_gpu" and not torch.cuda.is_available():
        return "no CUDA device"
    if marker == "needs_posix" and os.name == "nt":
        return "needs POSIX signals, forks, file modes and shell scripts"
    if marker == "needs_postgresql":
        return postgres_server.missing()
    if marker == "needs_linux" and not sys.platform.startswith("linux"):
        return "needs Linux"
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect tests without garbage collections, and exempt the collected objects from those during tests.

    Each garbage collection traverses about a million objects of imported modules and collected tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    """Mark slow combinations before slow tests are deselected, and skip tests that this machine cannot run."""
    mark_combinations(items)
    result = yield
    for item in items:
        skip_if_missing(item)
    return result


def skip_if_missing(item):
    """Skip a test whose `needs_*` marker names something that this machine lacks."""
    if isinstance(item, pytest.DoctestItem) and item.path.as_posix().endswith(DOCTESTS_THAT_COMPILE):
        item.add_marker("needs_compiler")
    for marker in {mark.name for mark in item.iter_markers() if mark.name.startswith("needs_")}:
        if reason := missing(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
