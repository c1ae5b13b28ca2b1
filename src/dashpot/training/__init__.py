"""Training: the learner and its callbacks, and checkpoints that resume a run to the same numbers."""

from dashpot.training.callback import Callback, CancelBatch, CancelEpoch, CancelFit, only
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
    "lr_in_force",
    "only",
    "train",
]
