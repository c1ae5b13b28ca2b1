"""An engine that changes nothing: one process, in float32, with the model where it is."""

from __future__ import annotations

import torch
from torch import nn

from dashpot.training.distributed.engine import Engine

__all__ = ["SingleDevice"]


class SingleDevice(Engine):
    """The engine of a problem that is on its device already: any device of torch's, in this process alone.

    Nothing has to be set up for that, so lightning-fabric is not asked.

    Args:
        device: the model's.

    >>> SingleDevice(torch.device("cpu")).world_size
    1
    """

    def __init__(self, device: torch.device) -> None:  # the parts of `Engine` that set something up are left out
        self.precision, self.strategy, self.scaler, self._unscaled = "fp32", "auto", None, False
        self._device = device

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self._device

    @property
    def world_size(self) -> int:
        """One, whatever started this process."""
        return 1

    @property
    def global_rank(self) -> int:
        """The first."""
        return 0

    def setup(self, model: nn.Module) -> nn.Module:
        """The model as it is."""
        return model

    def barrier(self) -> None:
        """There is nobody to wait for."""
