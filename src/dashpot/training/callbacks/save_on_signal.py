"""Checkpoints on request, by a signal."""

from __future__ import annotations

import signal as signals
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

from dashpot.constraints import OneOf, check, shown
from dashpot.errors import ArgumentError
from dashpot.runs.signals import recorded_signal
from dashpot.training.callback import Callback
from dashpot.training.callbacks.checkpoints import Checkpoints
from dashpot.training.callbacks.polling import Polling

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

NAMES = ("SIGUSR1", "SIGUSR2")
"""Signals without a meaning of their own."""


class SaveOnSignal(Callback):
    """Write a checkpoint after the current step when a signal is received, and continue.

    Clusters send such signals before they end a job (in SLURM, `sbatch --signal=USR1@120` or
    `scancel --signal=USR1 JOB`). The signal may be sent to any process of the fit; with several processes, all ranks
    save after the same step, at most 8 steps later. During an evaluation, the checkpoint is written after the next
    step or at the end of the fit. Signals are received if the fit runs in the main thread. After the fit, the
    previous handler is restored.

    Args:
        checkpoints: The `Checkpoints` callback of the same fit, which writes the checkpoint.
        signal: Name of the signal, "SIGUSR1" or "SIGUSR2".

    Raises:
        ArgumentError: If an argument has the wrong type, the signal does not exist on this system (Windows has
            neither), or, when the fit begins, `checkpoints` is not a callback of the fit.

    Example:
        >>> import os, signal, tempfile
        >>> import dashpot as dp
        >>> from dashpot import tasks
        >>> from dashpot.training import Engine, Learner, latest
        >>> class Scheduler(Callback):                           # in place of a cluster
        ...     def after_step(self, learner):
        ...         if learner.steps == 7:
        ...             os.kill(os.getpid(), signal.SIGUSR1)
        >>> learner = Learner.of(tasks.get("digits").build(seed=0), dp.AdamW, lr=0.01, engine=Engine("cpu"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder)
        ...     learner.fit(1, callbacks=[checkpoints, SaveOnSignal(checkpoints), Scheduler()])
        ...     sorted(path.name for path in checkpoints.folder.glob("*.ckpt"))
        ['step-00000007-00001.ckpt', 'step-00000024-00002.ckpt']
    """

    order: ClassVar[int] = 94
    essential: ClassVar[bool] = False

    def __init__(self, checkpoints: Checkpoints, signal: str = "SIGUSR1") -> None:
        if not isinstance(checkpoints, Checkpoints):
            raise ArgumentError(f"SaveOnSignal: checkpoints must be a Checkpoints callback, got {shown(checkpoints)}.")
        check("SaveOnSignal", "signal", signal, OneOf(NAMES))
        if not hasattr(signals, signal):
            raise ArgumentError(f"SaveOnSignal: this system has no signal {signal}.")
        self.checkpoints, self.signal = checkpoints, signal
        self._handler = ExitStack()

    def before_fit(self, learner: Learner) -> None:
        if all(callback is not self.checkpoints for callback in learner.loop.callbacks):
            raise ArgumentError("SaveOnSignal: checkpoints must be a callback of the same fit.")
        self._polling = Polling()
        self._requested = self._handler.enter_context(recorded_signal(self.signal))

    def after_batch(self, learner: Learner) -> None:
        if not learner.training or not learner.batch.is_last_microbatch or not self._polling.is_due(learner):
            return
        if learner.engine.any(self._requested()):
            self.checkpoints.save(learner)

    def cleanup_fit(self, learner: Learner) -> None:
        self._handler.close()
