"""Measurements of a run, compared with the predictions of theory for its settings."""

from dashpot.watching.curvature_operator import preconditioned_hessian
from dashpot.watching.report import WatchReport
from dashpot.watching.watcher import Watcher, watch

__all__ = ["WatchReport", "Watcher", "preconditioned_hessian", "watch"]
