"""Modules loaded by imports of `dashpot`, its schedules and figures: only torch, numpy and the standard library."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import numpy, torch
before = set(sys.modules)
import dashpot, dashpot.figures, dashpot.schedules
print(json.dumps({"new": sorted(set(sys.modules) - before), "all": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def imported():
    """Return the modules loaded by a new interpreter that imports torch, then dashpot, with warnings as errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_no_optional_dependency_is_imported(imported):
    extras = {"pooch", "rich", "cyclopts", "jinja2", "scipy", "pandas", "matplotlib", "torchvision"}
    assert extras.isdisjoint(name.partition(".")[0] for name in imported["all"])
    assert "lightning_fabric" not in imported["all"]


def test_no_other_package_is_imported(imported):
    """Additional modules belong to the standard library, torch or numpy."""
    allowed = set(sys.stdlib_module_names) | {"dashpot", "torch", "numpy"}
    assert {name.partition(".")[0] for name in imported["new"]} <= allowed


def test_packages_above_optimizers_are_not_imported(imported):
    """Optimizers do not import data sets, tasks, comparisons or the command line."""
    for part in ("cli", "comparison", "data", "tasks", "training", "verification"):
        assert f"dashpot.{part}" not in imported["all"]
