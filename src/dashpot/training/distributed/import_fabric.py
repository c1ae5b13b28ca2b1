"""Import of lightning_fabric without that of torchmetrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

FABRIC, METRICS = "lightning_fabric", "torchmetrics"


@contextmanager
def placeholder_for_torchmetrics() -> Iterator[None]:
    """Replace torchmetrics by an empty module during the first import of lightning_fabric, if it is installed.

    lightning_fabric determines the version of torchmetrics by importing it, which takes seconds, since torchmetrics
    imports SciPy, matplotlib and transformers if they are installed. For a module without `__version__`,
    lightning_fabric reads the version from the metadata of the package.
    """
    if not sys.modules.keys().isdisjoint((FABRIC, METRICS)) or find_spec(METRICS) is None:
        yield
        return
    placeholder = sys.modules[METRICS] = ModuleType(METRICS)
    try:
        yield
    finally:
        if sys.modules.get(METRICS) is placeholder:
            del sys.modules[METRICS]
