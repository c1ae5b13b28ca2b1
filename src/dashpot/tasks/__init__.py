"""Tasks, selected by name; a task creates the model, data, loss, metrics and target of a training problem."""

from __future__ import annotations

from dashpot.tasks.evaluation import accuracy, evaluate
from dashpot.tasks.model_call import call_model
from dashpot.tasks.norm import DetachedBatchNorm2d
from dashpot.tasks.registry import get, names
from dashpot.tasks.task import Problem, Target, Task
from dashpot.tasks.whole_epoch import WholeEpoch

__all__ = [
    "DetachedBatchNorm2d",
    "Problem",
    "Target",
    "Task",
    "WholeEpoch",
    "accuracy",
    "call_model",
    "evaluate",
    "get",
    "names",
]
