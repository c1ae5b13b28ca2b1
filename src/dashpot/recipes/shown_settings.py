"""Settings of stages as Python numbers, for texts and descriptions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from dashpot.stages.base import Stage


def plain(value: Any) -> Any:
    """Return the number of a tensor, and any other value unchanged."""
    return value.item() if isinstance(value, Tensor) else value


def shown_settings(stage: Stage) -> list[tuple[str, Any]]:
    """Return the first setting of a stage and all settings that differ from their defaults, as (name, value)."""
    fields = dataclasses.fields(stage)  # pyright: ignore[reportArgumentType]
    settings = [(field, plain(getattr(stage, field.name))) for field in fields]
    return [(field.name, value) for k, (field, value) in enumerate(settings) if k == 0 or value != field.default]
