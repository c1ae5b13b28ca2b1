"""Measurements of a run beside what theory predicts for its settings."""

from dashpot.watching.report import WatchReport
from dashpot.watching.watcher import Watcher, watch

__all__ = ["WatchReport", "Watcher", "watch"]
