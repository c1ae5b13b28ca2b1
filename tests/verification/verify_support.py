"""A small model with batches, and faulty optimizers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

import dashpot as dp

quick = partial(dp.verify, timed_steps=0, steps=6)


def tiny(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), *(layers or (nn.Tanh(),)), nn.Linear(4, 2))


def pairs(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 3, generator=draw), torch.randn(8, 2, generator=draw)) for _ in range(count)]


def verify_model(model: nn.Module, ours: Any, theirs: Any, **options: Any) -> dp.Verification:
    return quick(ours, theirs, model, **{"batches": pairs(), "loss": nn.functional.mse_loss, **options})


class Forgetful(torch.optim.Adam):
    """Adam with zeros in place of the second moment in checkpoints."""

    def state_dict(self):
        saved = super().state_dict()
        state = {
            index: {**slots, "exp_avg_sq": torch.zeros_like(slots["exp_avg_sq"])}
            for index, slots in saved["state"].items()
        }
        return {**saved, "state": state}


class Refusing(torch.optim.Adam):
    """Adam that rejects any state."""

    def load_state_dict(self, state_dict):
        raise ValueError("unsupported state.\nMore lines.")
