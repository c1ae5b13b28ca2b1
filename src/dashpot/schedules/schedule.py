"""The base of every schedule: a pure function of the step with a closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dashpot.constraints import check, check_fields, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.schedules.ranges import PLACE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dashpot.schedules.combine import Product

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """A number for every step: a factor on a base value or, for an *absolute* schedule, the value itself.

    Steps are counted from 0: `schedule(s)` holds for the step that has `s` steps before it. This is the argument that
    `torch.optim.lr_scheduler.LambdaLR` passes, so `LambdaLR(optimizer, schedule)` works as it stands. A schedule has no
    state: equal ones give equal values for ever, and building one again or resuming in the middle changes nothing.

    A subclass is a frozen dataclass with one method, `_at(step)`. It is then hashable, pastes back from its `repr`, can
    be multiplied, plotted, written to JSON and read back by name:

    >>> @dataclass(frozen=True)
    ... class Halving(Schedule):
    ...     every: int = 10
    ...
    ...     def _at(self, step):
    ...         return 0.5 ** (step // self.every)
    >>> Halving(2).table(5)
    [1.0, 1.0, 0.5, 0.5, 0.25]
    >>> Halving(2).to_dict()
    {'schedule': 'Halving', 'every': 2}
    >>> Schedule.from_dict({"schedule": "Halving", "every": 2}) == Halving(2)
    True
    """

    registry: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        held = Schedule.registry.get(cls.__name__)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ArgumentError(f"A schedule named {cls.__name__!r} exists already, in {held.__module__}.")
        Schedule.registry[cls.__name__] = cls

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _plain(type(self).__name__, item.name, getattr(self, item.name)))
        check_fields(self)

    def __call__(self, step: int) -> float:
        """The factor (absolute schedules: the value) at `step`, an integer >= 0; `ArgumentError` for anything else."""
        check(type(self).__name__, "step", step, PLACE)
        return float(self._at(int(step)))

    def __mul__(self, other: Schedule) -> Product:
        """The product of two schedules, step by step."""
        from dashpot.schedules.combine import Product

        return Product((self, other)) if isinstance(other, Schedule) else NotImplemented

    @property
    def absolute(self) -> bool:
        """Whether `self(step)` is the value itself and not a factor on a base value."""
        return False

    @property
    def signed(self) -> bool:
        """Whether the factor may be negative, which an optimizer otherwise refuses for lr."""
        return False

    def _at(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define _at(step).")

    def value(self, base: float, step: int) -> float:
        """The value in force at `step`: `base * self(step)`, or `self(step)` for an absolute schedule.

        >>> from dashpot.schedules import Exponential, OneCycleMomentum
        >>> Exponential(0.5).value(0.1, 1), OneCycleMomentum(steps=10).value(0.1, 0)
        (0.05, 0.95)
        """
        return self(step) if self.absolute else base * self(step)

    def table(self, steps: int) -> list[float]:
        """The first `steps` factors (absolute schedules: values)."""
        check(type(self).__name__, "steps", steps, PLACE)
        return [self(step) for step in range(steps)]

    def plot(self, steps: int | None = None, base: float = 1.0) -> Figure:
        """A plotly figure of the value in force over the first `steps` steps, `base` being the base value.

        Without `steps` it shows the schedule's own length where it has one (its setting `steps`), else 100 steps.
        Raises `ArgumentError` when plotly is not installed.

        >>> from dashpot.schedules import Cosine
        >>> Cosine(steps=100).plot(steps=100, base=0.1).layout.xaxis.title.text
        'steps done'
        """
        from dashpot.schedules.plot import figure

        return figure(self, getattr(self, "steps", 100) if steps is None else steps, base)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold: the class name under "schedule", then the fields."""
        values = {item.name: _encode(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {"schedule": type(self).__name__, **values}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_dict` described; equal to the original.

        Raises `ArgumentError` for an unknown schedule, an unknown or missing parameter, or a value out of range.
        """
        if not isinstance(data, Mapping) or "schedule" not in data:
            raise ArgumentError(f'A schedule is described by a mapping with the key "schedule", got {shown(data)}.')
        values = {key: _decode(value) for key, value in data.items() if key != "schedule"}
        cls = Schedule.registry.get(str(data["schedule"]))
        if cls is None:
            raise unknown("schedule", data["schedule"], Schedule.registry)
        fields = {item.name: item for item in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise unknown(f"parameter of {cls.__name__}", name, fields)
        for name, item in fields.items():
            if name not in values and item.default is dataclasses.MISSING:
                raise ArgumentError(f"{cls.__name__}: {name} is missing in the description {shown(dict(data))}.")
        return cls(**values)


def _plain(owner: str, name: str, value: Any) -> Any:
    """`value` with lists as tuples and subclasses of float as floats, so that it hashes, prints and saves exactly."""
    if isinstance(value, Tensor):
        raise ArgumentError(f"{owner}: {name} must be a plain Python value, got {shown(value)}.")
    if isinstance(value, (list, tuple)):
        return tuple(_plain(owner, name, item) for item in value)
    return float(value) if isinstance(value, float) else value


def _encode(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Schedule.from_dict(value)
    return tuple(_decode(item) for item in value) if isinstance(value, (list, tuple)) else value
