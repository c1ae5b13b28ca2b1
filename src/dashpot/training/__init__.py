"""Training loop with callbacks, and exact resume from checkpoints."""

from dashpot.runs.records import Divergence, Epoch
from dashpot.training.callback import Callback, CancelBatch, CancelEpoch, CancelFit
from dashpot.training.callbacks import (
    CSV,
    EMA,
    SWA,
    Accumulate,
    Activations,
    Checkpoints,
    ClipGradients,
    EarlyStopping,
    ForOptimizer,
    Freeze,
    JSONLines,
    NonFinite,
    Progress,
    Recorder,
    SaveOnSignal,
    Schedule,
    TensorBoard,
    Trackio,
    WandB,
    best,
    latest,
    one_cycle,
    read_newest,
)
from dashpot.training.distributed.engine import Engine
from dashpot.training.learner import Learner
from dashpot.training.loop import current_lr, train
from dashpot.training.lr_finder import LRCurve, find_lr
from dashpot.training.run.saved_model import load_model

__all__ = [
    "CSV",
    "EMA",
    "SWA",
    "Accumulate",
    "Activations",
    "Callback",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "Checkpoints",
    "ClipGradients",
    "Divergence",
    "EarlyStopping",
    "Engine",
    "Epoch",
    "ForOptimizer",
    "Freeze",
    "JSONLines",
    "LRCurve",
    "Learner",
    "NonFinite",
    "Progress",
    "Recorder",
    "SaveOnSignal",
    "Schedule",
    "TensorBoard",
    "Trackio",
    "WandB",
    "best",
    "current_lr",
    "find_lr",
    "latest",
    "load_model",
    "one_cycle",
    "read_newest",
    "train",
]
