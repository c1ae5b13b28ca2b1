"""Checkpoints: model, optimizer and random state in one file that is either whole or absent."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dashpot.errors import RunError
from dashpot.training.files import write_bytes

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write everything a run needs to go on; a crash or a full disk leaves the previous checkpoint in place.

    Args:
        path: the file; its folder must exist.
        model: its `state_dict` is saved, buffers included.
        optimizer: its `state_dict` is saved.
        progress: plain data of the caller's (numbers, strings, lists, dicts), given back by `load_checkpoint`.

    Raises:
        RunError: the file cannot be written.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "progress": progress,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put a checkpoint back into `model`, `optimizer` and torch's generators; return its `progress`.

    The file is read with `weights_only=True`: nothing in it is executed.

    Raises:
        RunError: the file is missing, damaged, or of another model or optimizer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch muses about damaged bytes before it refuses them
            state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        for device, rng in enumerate(state["cuda_rng"]):
            torch.cuda.set_rng_state(rng, device)
        return state["progress"]
    except Exception as error:  # damaged bytes make torch.load raise almost anything, IndexError included
        raise RunError(
            f"The checkpoint {path} is damaged or of another run; delete it to start that run over."
        ) from error
