"""Callbacks for the learner, one per file."""

from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.activations import Activations
from dashpot.training.callbacks.average import EMA, SWA
from dashpot.training.callbacks.checkpoints import Checkpoints, best, latest, read_newest
from dashpot.training.callbacks.clip_gradients import ClipGradients
from dashpot.training.callbacks.early_stopping import EarlyStopping
from dashpot.training.callbacks.file_loggers import CSV, JSONLines
from dashpot.training.callbacks.for_optimizer import ForOptimizer
from dashpot.training.callbacks.freeze import Freeze
from dashpot.training.callbacks.nonfinite import NonFinite
from dashpot.training.callbacks.progress import Progress
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.save_on_signal import SaveOnSignal
from dashpot.training.callbacks.schedule import Schedule, one_cycle
from dashpot.training.callbacks.step_dynamics import StepDynamics
from dashpot.training.callbacks.tensorboard import TensorBoard
from dashpot.training.callbacks.tracking_loggers import Trackio, WandB
from dashpot.training.callbacks.watch import Watch

__all__ = [
    "CSV",
    "EMA",
    "SWA",
    "Accumulate",
    "Activations",
    "Checkpoints",
    "ClipGradients",
    "EarlyStopping",
    "ForOptimizer",
    "Freeze",
    "JSONLines",
    "NonFinite",
    "Progress",
    "Recorder",
    "SaveOnSignal",
    "Schedule",
    "StepDynamics",
    "TensorBoard",
    "Trackio",
    "WandB",
    "Watch",
    "best",
    "latest",
    "one_cycle",
    "read_newest",
]
