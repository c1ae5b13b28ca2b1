"""Training: one flat loop, and checkpoints that resume it to the same numbers."""

from dashpot.training.checkpoint import load_checkpoint, save_checkpoint
from dashpot.training.loop import Divergence, Epoch, lr_in_force, train

__all__ = ["Divergence", "Epoch", "load_checkpoint", "lr_in_force", "save_checkpoint", "train"]
