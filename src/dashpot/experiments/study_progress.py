"""Progress of a study inside an experiment."""

from __future__ import annotations

from dashpot.comparison.progress import StudyProgress, item_label
from dashpot.experiments.progress import report_progress


class ReportedProgress(StudyProgress):
    """Report the name and the number of each item of a study to the listener of the experiment.

    Args:
        label: Name of the study.
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def start(self, key: str, steps_done: int = 0, worker: int = 0) -> None:
        super().start(key, steps_done, worker)
        number = min(self.estimate.finished + 1, self.estimate.items)
        report_progress(f"{self.label} {number}/{self.estimate.items}: {item_label(key)}")
