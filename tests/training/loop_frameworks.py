"""What the tests inside other people's loops share: who is installed, whose warnings are known, what to sweep up."""

import importlib
import importlib.util

import pytest

# The frameworks' own complaints, named one by one; anything else stays an error.
LIGHTNING_WARNINGS = (
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning",
    r"ignore:The 'train_dataloader' does not have many workers",
)


def needs(*names):
    """A mark that skips where a framework is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: pip install 'dashpot[loops]'")


def forget_accelerate():
    """Accelerate keeps the process's set-up in class attributes: the next Accelerator would inherit it."""
    if importlib.util.find_spec("accelerate") is None:
        return
    state = importlib.import_module("accelerate.state")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()
