"""Import of lightning_fabric without torchmetrics."""

import subprocess
import sys
from types import ModuleType

import pytest
from processes import LIMIT

from dashpot.training.distributed.import_fabric import placeholder_for_torchmetrics

NAME = "torchmetrics"


@pytest.fixture(autouse=True)
def without_fabric(monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning_fabric", raising=False)


def test_placeholder_is_removed(monkeypatch):
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    with placeholder_for_torchmetrics():
        assert not hasattr(sys.modules[NAME], "__version__")
    assert NAME not in sys.modules
    with pytest.raises(RuntimeError, match="within"), placeholder_for_torchmetrics():
        raise RuntimeError("within")
    assert NAME not in sys.modules


def test_imported_torchmetrics_is_kept(monkeypatch):
    module = ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)
    with placeholder_for_torchmetrics():
        assert sys.modules[NAME] is module
    assert sys.modules[NAME] is module


def test_no_placeholder_after_the_import_of_fabric(monkeypatch):
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setitem(sys.modules, "lightning_fabric", ModuleType("lightning_fabric"))
    with placeholder_for_torchmetrics():
        assert NAME not in sys.modules


def test_no_placeholder_without_torchmetrics(monkeypatch):
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr("dashpot.training.distributed.import_fabric.find_spec", lambda name: None)
    with placeholder_for_torchmetrics():
        assert NAME not in sys.modules


@pytest.mark.slow
def test_engine_does_not_import_torchmetrics():
    code = (
        "import sys; from dashpot.training import Engine; Engine('cpu'); print('torchmetrics' in sys.modules)\n"
        "from lightning_fabric.utilities.imports import _TORCHMETRICS_GREATER_EQUAL_1_0_0 as found\n"
        "import torchmetrics; print(found, hasattr(torchmetrics, 'Metric'))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert process.stdout.split() == ["False", "True", "True"]
