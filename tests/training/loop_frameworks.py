"""Installed frameworks, their known warnings, and their process-wide state."""

import importlib
import importlib.util

import pytest

# Known warnings of the frameworks; any other warning is an error.
LIGHTNING_WARNINGS = (
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning",
    r"ignore:The 'train_dataloader' does not have many workers",
)


def needs(*names):
    """Return a mark that skips the tests of a framework that is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: pip install 'dashpot[loops]'")


def forget_accelerate():
    """Reset the class attributes of Accelerate, which the next Accelerator would reuse."""
    if importlib.util.find_spec("accelerate") is None:
        return
    state = importlib.import_module("accelerate.state")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()
