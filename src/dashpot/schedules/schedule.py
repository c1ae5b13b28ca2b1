"""Base class of schedules: pure functions of the step in closed form."""

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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.schedules.combine import Product


@dataclass(frozen=True)
class Schedule:
    """Pure function of the step that returns a factor on a base value (or, if *absolute*, replaces this value).

    `schedule(s)` applies to the step after `s` completed steps (s = 0, 1, ...), as in
    `torch.optim.lr_scheduler.LambdaLR`, so that `LambdaLR(optimizer, schedule)` works. Schedules are stateless: to
    resume a run, no state of a schedule needs to be restored.

    A subclass is a frozen dataclass that defines `_at(step)`. It is hashable, has an evaluable `repr`, and can be
    multiplied, plotted, and serialized to and from plain data:

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
            raise ArgumentError(f"A schedule named {cls.__name__!r} already exists in {held.__module__}.")
        Schedule.registry[cls.__name__] = cls

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _plain(type(self).__name__, item.name, getattr(self, item.name)))
        check_fields(self)

    def __call__(self, step: int) -> float:
        """Return the factor, or the value of an absolute schedule, at `step`, an integer >= 0."""
        check(type(self).__name__, "step", step, PLACE)
        return float(self._at(int(step)))

    def __mul__(self, other: Schedule) -> Product:
        """Return the product of two schedules."""
        from dashpot.schedules.combine import Product

        return Product((self, other)) if isinstance(other, Schedule) else NotImplemented

    @property
    def absolute(self) -> bool:
        """True if `self(step)` is the value itself, not a factor on a base value."""
        return False

    @property
    def signed(self) -> bool:
        """True if the factor may be negative. Optimizers reject negative factors on lr unless this property is True."""
        return False

    def _at(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define _at(step).")

    def value(self, base: float, step: int) -> float:
        """Return the value at `step`: `base * self(step)`, or `self(step)` for an absolute schedule.

        >>> from dashpot.schedules import Exponential, OneCycleMomentum
        >>> Exponential(0.5).value(0.1, 1), OneCycleMomentum(steps=10).value(0.1, 0)
        (0.05, 0.95)
        """
        return self(step) if self.absolute else base * self(step)

    def table(self, steps: int) -> list[float]:
        """Return the first `steps` factors, or the first values of an absolute schedule."""
        check(type(self).__name__, "steps", steps, PLACE)
        return [self(step) for step in range(steps)]

    def plot(self, steps: int | None = None, base: float = 1.0, *, ax: Axes | None = None) -> Figure:
        """Return a matplotlib figure of the values over the first `steps` steps; see `dashpot.schedules.plot`.

        Args:
            steps: Number of steps; by default the field `steps` of the schedule, or 100 if it has no such field.
            base: Base value that the factors multiply.
            ax: Axes to draw on. Default: a new figure.

        Raises:
            ArgumentError: If `base` is not a number, or if matplotlib is not installed.

        >>> from dashpot.schedules import Cosine
        >>> [axes] = Cosine(steps=100).plot(steps=100, base=0.1).axes
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('steps', 'value')
        """
        from dashpot.schedules.plotting import plot

        return plot(self, steps, base=base, ax=ax)

    def _repr_html_(self) -> str:
        """Return a small curve and the `repr` for notebooks."""
        from dashpot.schedules.notebook import schedule_html

        return schedule_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serializable data: the class name under the key "schedule", then the fields."""
        values = {item.name: _encode(getattr(self, item.name)) for item in dataclasses.fields(self)}
        return {"schedule": type(self).__name__, **values}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schedule:
        """Rebuild a schedule from `to_dict()`.

        Raises:
            ArgumentError: If the schedule or a parameter is unknown, a parameter is missing, or a value is out of
                range.
        """
        if not isinstance(data, Mapping) or "schedule" not in data:
            raise ArgumentError(
                f'Schedule.from_dict: data must be a mapping with the key "schedule", got {shown(data)}.'
            )
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
                raise ArgumentError(f"{cls.__name__}: {name} is missing from the description {shown(dict(data))}.")
        return cls(**values)


def _plain(owner: str, name: str, value: Any) -> Any:
    """Convert lists to tuples and float subclasses to float, for hashing, `repr` and serialization."""
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
