"""Engine for a model that is already on its device: one process, float32, no lightning-fabric."""

from __future__ import annotations

import torch
from torch import nn

from dashpot.training.distributed.engine import Engine


class SingleDevice(Engine):
    """Engine of one process that leaves the model on its current device, in float32.

    No set-up is required, so lightning-fabric is not imported.

    Args:
        device: Device of the model, any torch device.

    >>> SingleDevice(torch.device("cpu")).world_size
    1
    """

    def __init__(self, device: torch.device) -> None:  # Engine.__init__ would create a Fabric
        self.precision, self.strategy, self.scaler, self._unscaled = "fp32", "auto", None, False
        self._device, self.find_unused_parameters = device, False

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._device

    @property
    def world_size(self) -> int:
        """Always 1, even under a launcher."""
        return 1

    @property
    def global_rank(self) -> int:
        """Always 0."""
        return 0

    def setup(self, model: nn.Module) -> nn.Module:
        """Return `model` unchanged."""
        return model

    def barrier(self) -> None:
        """No-op."""
