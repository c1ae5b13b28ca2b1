"""Recorder of the dynamics of parameter changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.analysis import Dynamics, StepRecording, dynamics, record_steps
from dashpot.analysis.step_recording import QUANTITIES, STATISTICS
from dashpot.constraints import shown, unknown
from dashpot.errors import ArgumentError
from dashpot.training.callback import Callback
from dashpot.training.optimizer_dict import OptimizerDict
from dashpot.utils.group_params import group_params

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

_LOGGED = [f"{quantity}.{statistic}" for quantity in QUANTITIES for statistic in STATISTICS]


class StepDynamics(Callback):
    """Record the dynamics of the parameter changes of a fit, see `dashpot.analysis.dynamics`.

    For each tensor and recorded step: input e, ratio r, rate alpha and change dw of every element, with their largest
    absolute value (sup), mean, standard deviation (sd) and norm, and the residual of the recursion. A replay of each
    step on the CPU makes a fit slower. A fit replaces earlier records; after a resume, the first step has no record.
    With several optimizers, bind the callback to one of them by `ForOptimizer`.

    Args:
        names: Names of parameters. Default: all.
        every: Number of steps between recorded steps, an integer >= 1.
        elements: Number of elements per tensor whose values are kept, or None for all. Statistics cover all elements.
        log: Statistics to log for each tensor, such as "alpha.sup": one of e, r, alpha and dw, and one of sup, mean, sd
            and norm. The logged name ends in the name of the tensor, such as `alpha.sup:9.weight`; `history` contains
            the mean over an epoch.

    Raises:
        ArgumentError: If an argument is out of range; at the start of a fit, if the optimizer cannot be recorded or a
            parameter does not exist.

    Source: The step log of AutoSGM.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> recorder = StepDynamics("12.weight", every=10, log=["alpha.sup"])
        >>> learner.fit(1, callbacks=[recorder])
        >>> found = recorder.dynamics
        >>> found["12.weight"].steps.tolist(), found["12.weight"].alpha.shape, found.holds
        ([1, 11, 21], (3, 64), True)
        >>> [name for name in learner.history[-1]["train"] if name.startswith("alpha")]
        ['alpha.sup:12.weight']
    """

    order: ClassVar[int] = 45
    essential: ClassVar[bool] = False

    def __init__(self, *names: str, every: int = 1, elements: int | None = 64, log: Sequence[str] = ()) -> None:
        for name in names:
            if not isinstance(name, str):
                raise ArgumentError(f"StepDynamics: names must be strings, got {shown(name)}.")
        if isinstance(log, str) or not isinstance(log, Sequence):
            raise ArgumentError(f"StepDynamics: log must be a sequence of names, got {shown(log)}.")
        for name in log:
            if name not in _LOGGED:
                raise unknown("statistic", name, _LOGGED)
        self.names, self.every, self.elements, self.log = names, every, elements, tuple(log)
        self._recording: StepRecording | None = None

    @property
    def dynamics(self) -> Dynamics:
        """The dynamics of the recorded steps.

        Raises:
            ArgumentError: If no step is recorded.
        """
        if self._recording is None:
            raise ArgumentError("StepDynamics: dynamics requires a fit with at least one step, got none.")
        return dynamics(self._recording)

    def before_fit(self, learner: Learner) -> None:
        if isinstance(learner.opt, OptimizerDict):
            raise ArgumentError("StepDynamics: bind the callback to one of the optimizers by ForOptimizer.")
        members = {id(p) for p in group_params(learner.opt)}
        params = {name: p for name, p in learner.model.named_parameters() if id(p) in members}
        for name in self.names:
            if name not in params:
                raise unknown("parameter", name, params)
        chosen = {name: params[name] for name in self.names or params}
        optimizer: Any = learner.opt  # checked by record_steps
        self._recording = record_steps(optimizer, chosen, every=self.every, elements=self.elements)
        self._logged = dict.fromkeys(self._recording.rows, 0)

    def after_step(self, learner: Learner) -> None:
        for name, rows in self._recording.rows.items() if self._recording and self.log else ():
            if len(rows) > self._logged[name]:
                self._logged[name] = len(rows)
                for item in self.log:
                    quantity, statistic = item.split(".")
                    value = rows[-1].statistics[quantity][STATISTICS.index(statistic)]
                    learner.log(f"{item}:{name}", value)

    def cleanup_fit(self, learner: Learner) -> None:
        del learner
        if self._recording is not None:
            self._recording.close()
