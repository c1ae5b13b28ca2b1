"""Docstrings of all public names and all optimizer arguments."""

import importlib
import inspect
import pkgutil
import re

import pytest

import dashpot as dp
from dashpot.optimizers.registry import METHODS

MODULES = sorted(
    item.name for item in pkgutil.walk_packages(dp.__path__, "dashpot.") if not item.name.endswith("__main__")
)
OPTIMIZERS = sorted({*(row.cls for row in METHODS.values()), dp.SGM}, key=lambda cls: cls.__name__)


def _is_from(item, name):
    return getattr(item, "__module__", None) == name


def _undocumented(name):
    """Return the public names without docstrings in a module, and the module itself if it has none."""
    module = importlib.import_module(name)
    own = [item for key, item in vars(module).items() if not key.startswith("_") and _is_from(item, name)]
    silent = [f"{name}.{item.__name__}" for item in own if _has_docstring(item) and not item.__doc__]
    return silent if module.__doc__ else [name, *silent]


def _has_docstring(item):
    return inspect.isroutine(item) or inspect.isclass(item)


def test_public_names_have_docstrings():
    assert [silent for name in ["dashpot", *MODULES] for silent in _undocumented(name)] == []


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_public_methods_have_docstrings(cls):
    silent = [
        name
        for name, item in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and item.__module__.startswith("dashpot") and not inspect.getdoc(item)
    ]
    assert silent == []


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_every_argument_is_documented(cls):
    terms = set(re.findall(r"\w+", " ".join(line for line in cls.__doc__.splitlines())))
    arguments = set(inspect.signature(cls.__init__).parameters) - {"self"}
    assert sorted(arguments - terms) == []


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_every_optimizer_has_an_example_and_names_what_it_raises(cls):
    assert ">>>" in cls.__doc__
    assert "Raises" in cls.__doc__
