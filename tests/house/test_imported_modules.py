"""Modules loaded by imports of `dashpot`, its schedules and figures: only torch, numpy and the standard library."""

import json
import subprocess
import sys

import pytest
from test_public_names import PUBLIC

SCRIPT = """
import json, sys
import numpy, torch
before = set(sys.modules)
import dashpot, dashpot.figures, dashpot.schedules
found = {"new": sorted(set(sys.modules) - before), "all": sorted(sys.modules)}

import importlib, traceback
public, extras = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(extras))
found["failed"] = {}
for module in public:
    try:
        importlib.import_module(module)
    except Exception:
        found["failed"][module] = traceback.format_exc()
print(json.dumps(found))
"""
EXTRAS = (
    *("cyclopts", "jinja2", "lightning_fabric", "matplotlib", "optuna", "pooch", "psycopg", "rich", "scipy"),
    *("sqlalchemy", "tensorboard", "tomli_w", "trackio", "wandb"),
)


@pytest.fixture(scope="module")
def imported():
    """Return the modules loaded by a new interpreter that imports torch, then dashpot, with warnings as errors.

    It then imports all public modules without the optional packages, and returns the errors of those that fail.
    """
    script = [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps([PUBLIC, EXTRAS])]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
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


def test_public_modules_are_imported_without_optional_packages(imported):
    assert imported["failed"] == {}
