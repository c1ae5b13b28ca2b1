"""Classes of the named methods; `dashpot.names` contains the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dashpot import names
from dashpot.constraints import unknown
from dashpot.optimizers.base import Optimizer

VARIANTS = names.VARIANTS


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Args:
        cls: The optimizer class.
        lr: Learning rate for tasks without a tuned learning rate.
        variants: Settings for additional entries of a comparison, by name.
    """

    cls: type[Optimizer]
    lr: float
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


METHODS: Mapping[str, Method] = {
    name: Method(names.load(row.path), row.lr, row.variants) for name, row in names.METHODS.items()
}


def get(name: str) -> type[Optimizer]:
    """Return the optimizer class of a method.

    Raises:
        ArgumentError: If no method has this name. The message suggests the most similar name.

    Example:
        >>> get("adamw").__name__
        'AdamW'
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name].cls
