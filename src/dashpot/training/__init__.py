"""Training: the learner and its callbacks, and checkpoints that resume a run to the same numbers."""

from dashpot.training.callback import Callback, CancelBatch, CancelEpoch, CancelFit, only
from dashpot.training.checkpoint import load_checkpoint, save_checkpoint
from dashpot.training.engine import Engine
from dashpot.training.learner import Learner
from dashpot.training.loop import Divergence, Epoch, lr_in_force, train

__all__ = [
    "Callback",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "Divergence",
    "Engine",
    "Epoch",
    "Learner",
    "load_checkpoint",
    "lr_in_force",
    "only",
    "save_checkpoint",
    "train",
]
