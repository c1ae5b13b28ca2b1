"""Work queue of a study folder, in the journal of the folder or in a shared storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dashpot.comparison.study_folder import StudyFolder
from dashpot.runs.study import Study
from dashpot.scheduling.storage import open_storage
from dashpot.scheduling.work_queue import WorkQueue

JOURNAL = "study.journal"
"""Name of the journal in the folder of a study."""
JOURNAL_NAME = "study"
"""Name of the study in the journal, which has only one; the folder may be renamed."""


@contextmanager
def open_queue(
    study: Study, folder: StudyFolder, storage: str | None, resume_text: Callable[[], str]
) -> Iterator[WorkQueue]:
    """Open the work queue of a study, and close it at the end of the block.

    Args:
        study: The study; all workers must have the same settings.
        folder: Folder of the study.
        storage: URL of an Optuna storage, in which the study has the name of the folder; None for the journal.
        resume_text: Function that returns the finished work and how to resume, for the message of a lost storage.

    Raises:
        RunError: If the storage cannot be opened, or has a study of the same name with different settings.
    """
    path = folder.path
    name = JOURNAL_NAME if storage is None else path.resolve().name
    direction = study.settings()["score"]["direction"]
    with (
        open_storage(path / JOURNAL if storage is None else storage, resume_text=resume_text) as opened,
        WorkQueue(opened, name, study.settings(), path, direction=direction, pruner=study.pruner) as queue,
    ):
        yield queue
