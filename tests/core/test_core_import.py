"""What `import dashpot` brings along: torch and numpy only; benchmarks/step.py measures its time."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import numpy, torch
before = set(sys.modules)
import dashpot
print(json.dumps({"new": sorted(set(sys.modules) - before), "all": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def imported():
    """A fresh interpreter that imports torch, then dashpot, with warnings as errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_no_extra_is_imported(imported):
    extras = {"plotly", "pooch", "rich", "cyclopts", "jinja2", "scipy", "pandas", "matplotlib", "torchvision"}
    assert extras.isdisjoint(name.partition(".")[0] for name in imported["all"])
    assert "lightning_fabric" not in imported["all"]


def test_nothing_foreign_comes_with_dashpot(imported):
    """Beside its own modules only the standard library and parts of torch and numpy not imported before."""
    allowed = set(sys.stdlib_module_names) | {"dashpot", "torch", "numpy"}
    assert {name.partition(".")[0] for name in imported["new"]} <= allowed


def test_workbench_modules_stay_out(imported):
    """The optimizers need no data set, task, comparison or command line."""
    for part in ("cli", "comparison", "data", "tasks", "training", "verification"):
        assert f"dashpot.{part}" not in imported["all"]
