"""The public API is `dir(dashpot)` and the `__all__` of the public modules; the documentation uses nothing else."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dashpot as dp
from dashpot.optimizers.registry import METHODS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PUBLIC = (
    "dashpot",
    "dashpot.analysis",
    "dashpot.clip",
    "dashpot.comparison",
    "dashpot.comparison.sweep",
    "dashpot.constraints",
    "dashpot.curvature",
    "dashpot.data",
    "dashpot.data.augment",
    "dashpot.errors",
    "dashpot.experiments",
    "dashpot.figures",
    "dashpot.functional",
    "dashpot.schedules",
    "dashpot.stages",
    "dashpot.tasks",
    "dashpot.training",
    "dashpot.verification",
    "dashpot.watching",
)


def documented_names(text: str) -> Iterator[tuple[str, str]]:
    """Return (module, name) of each qualified or imported name in a page."""
    for module, names in re.findall(r"from (dashpot[\w.]*) import ([\w, ]+)", text):
        yield from ((module, name.strip()) for name in names.split(","))
    for path in re.findall(r"(?<![\w/.-])(?:dashpot|dp)((?:\.\w+)+)", text):
        module, names = "dashpot", path[1:].split(".")
        while names and f"{module}.{names[0]}" in PUBLIC:
            module = f"{module}.{names.pop(0)}"
        if names:
            yield module, names[0]


def test_dir_shows_the_public_names():
    assert dir(dp) == sorted(dp.__all__)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_module_lists_names_that_resolve(module):
    found = importlib.import_module(module)
    assert len(set(found.__all__)) == len(found.__all__)
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_internal_modules_have_no_all():
    exempt = {"dashpot._torch_private", "dashpot.recipes.momentum_forms"}  # used by a test; public as dp.momentum_forms
    found = {item.name for item in pkgutil.walk_packages(dp.__path__, "dashpot.") if not item.ispkg}
    internal = sorted(found - set(PUBLIC) - exempt - {"dashpot.__main__"})
    assert [name for name in internal if hasattr(importlib.import_module(name), "__all__")] == []


def test_package_docstring_lists_the_public_modules():
    listed = set(re.findall(r"`([a-z._]+)`", dp.__doc__))
    assert {module.removeprefix("dashpot.") for module in PUBLIC} - {"dashpot"} <= listed


def test_every_method_is_exported():
    missing = [row.cls.__name__ for row in METHODS.values() if row.cls.__name__ not in dp.__all__]
    assert missing == [], "add these classes to dashpot/__init__.py"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_on_the_optimizers_page(name):
    page = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| .*`{METHODS[name].cls.__name__}`", page, re.MULTILINE)
    assert row, "add a row to the table of classes in docs/optimizers.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documentation_uses_public_names(page):
    private = []
    for module, name in documented_names(page.read_text(encoding="utf-8")):
        if module not in PUBLIC or f"{module}.{name}" in PUBLIC:
            private += [module] if module not in PUBLIC else []
        elif name not in importlib.import_module(module).__all__:
            private.append(f"{module}.{name}")
    assert private == []
