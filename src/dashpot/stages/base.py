"""The stage interface: a pure function of (signal, slots, scalars) that declares its own state."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from keyword import iskeyword
from types import UnionType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from dashpot.constraints import Interval, Scalar, check, check_fields, shown, unknown
from dashpot.errors import ArgumentError


class Signal(NamedTuple):
    """The signal passed from stage to stage. A stage replaces only the fields it changes.

    Attributes:
        w: Weight before the step.
        g: Gradient, after coupled decay.
        d: Product of the denominators applied so far.
        v: Direction: the gradient after the filter and the denominator.
        rate: Learning rate, including the numerator but not the schedule's factor; a single number per tensor.
        shrink: Fraction of `w` subtracted by decoupled decay; None without decoupled decay.
    """

    w: Tensor
    g: Tensor
    d: Tensor | float
    v: Tensor
    rate: Scalar
    shrink: Scalar | None


class Clock(NamedTuple):
    """Per-step scalars available to every stage.

    Attributes:
        t: Number of optimizer steps of this parameter, including the current one: 1, 2, ...
        lr: Base learning rate.
        factor: Factor by which the schedule multiplies `lr`.
        window: Ratio of the current learning rate to its peak, at most 1. It equals `factor`; if a torch scheduler
            changes lr, it is additionally multiplied by lr / max_lr (OneCycleLR) or lr / initial_lr (other schedulers).
    """

    t: Any
    lr: Scalar
    factor: Scalar = 1.0
    window: Scalar = 1.0


class Observation(NamedTuple):
    """The entries of a probe `v` and of the Hessian-vector product `hv` that belong to one parameter.

    Both have the shape of the parameter, which has `dims` dimensions. For a complex parameter, both are real views with
    an additional trailing dimension of size 2.
    """

    v: Tensor
    hv: Tensor
    dims: int


class Context(Protocol):
    """Reductions over a whole tensor; each engine implements these as segment or mesh reductions."""

    def mean(self, x: Tensor) -> Tensor: ...

    def norm(self, x: Tensor) -> Tensor: ...


class Slot(NamedTuple):
    """One state variable: `name` inside the stage, `key` in `optimizer.state[p]`."""

    name: str
    key: str
    shape: Literal["elementwise", "per_tensor"]
    initial: float


def elementwise(name: str, key: str | None = None, initial: float = 0.0) -> Slot:
    """Declare a slot with the shape of the parameter."""
    return _slot(name, key, "elementwise", initial)


def per_tensor(name: str, key: str | None = None, initial: float = 0.0) -> Slot:
    """Declare a slot with one scalar per parameter."""
    return _slot(name, key, "per_tensor", initial)


def _slot(name: Any, key: Any, shape: Literal["elementwise", "per_tensor"], initial: Any) -> Slot:
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name) or name.startswith("_"):
        raise ArgumentError(f"{shape}: name must be an identifier that does not begin with _, got {shown(name)}.")
    if not isinstance(key, (str, type(None))):
        raise ArgumentError(f"{shape}: key must be a string or None, got {shown(key)}.")
    check(shape, "initial", initial, Interval())
    return Slot(name, key or name, shape, initial)


@cache
def _record(kind: str, names: tuple[str, ...]) -> Any:
    return namedtuple(kind, names)


class Stage(ABC):
    """Base class of the stages of an update rule; subclass it as a frozen dataclass whose fields are the settings.

    Numeric fields may change between steps; all other fields define the structure of the stage and are fixed. A stage
    has no access to the optimizer or its parameter groups and must not read tensor values on the host.

    Example: sign descent, with a slot that counts sign changes.

    >>> import torch, dashpot as dp
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Sign(dp.Stage):
    ...     slots = (dp.elementwise("last"), dp.elementwise("flips"))
    ...     def apply(self, x, s, c, ctx):
    ...         sign = x.v.sign()
    ...         return x._replace(v=sign), s._replace(last=sign, flips=s.flips + (sign * s.last < 0))
    >>> w = torch.tensor([1.0, -1.0], requires_grad=True)
    >>> opt = dp.SGM.from_recipe([w], dp.Recipe(Sign(), lr=0.25))
    >>> (w * w).sum().backward(); opt.step(); w.tolist()
    [0.75, -0.75]
    """

    slots: ClassVar[tuple[Slot, ...]] | Any = ()
    """State variables of the stage, declared as a class attribute, or as a property if they depend on the settings."""

    position: ClassVar[int] = 2
    """Position of the stage in `SGM`: -1 adaptive clip, 0 coupled decay, 1 filter, 2 denominator, 3 change-level
    decay, 4 robust clip, 5 numerator, 6 decoupled decay."""

    observes: ClassVar[bool] | Any = False
    """True if the stage uses Hessian-vector products (`observe`), which makes the method second-order."""

    registry: ClassVar[dict[str, type[Stage]]] = {}

    _numeric: ClassVar[tuple[str, ...]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Stage:
        del args, kwargs
        if "_numeric" not in cls.__dict__:  # cached here: Dynamo cannot trace dataclasses.fields
            _check_class(cls)
            cls._numeric = _numeric_fields(cls)
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Stage.registry[cls.label()] = cls

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def label(cls) -> str:
        """Return the name of the class in saved recipes, which includes the module for user-defined stages."""
        return cls.__name__ if cls.__module__.startswith("dashpot.") else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def numeric(cls) -> tuple[str, ...]:
        """Return the names of the numeric fields, annotated as `float`, `Scalar` or a union with one of them."""
        return cls.__dict__.get("_numeric") or _numeric_fields(cls)

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        """Return the scalars of this step, passed to `apply` as `c`; by default the numeric fields."""
        del clock
        return {name: getattr(self, name) for name in self._numeric}

    def is_noop(self) -> bool:
        """Return True if the stage is the identity for the current settings and can be skipped."""
        return False

    def warning(self) -> str | None:
        """Return a warning about valid but surprising settings, or None; the optimizer issues it once."""
        return None

    @abstractmethod
    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        """Return the new signal and slots, given signal `x`, slots `s` and the scalars `c` of this step."""

    def observe(self, o: Observation, s: Any, c: Any, ctx: Context) -> Any:
        """Return the slots updated by a Hessian-vector product. Called before `apply`, only if `observes` is True."""
        del o, c, ctx
        return s

    def prepare(self, clock: Clock) -> Any:
        """Return `scalars(clock)` as the named tuple passed to `apply`."""
        values = self.scalars(clock)
        return _record("Scalars", tuple(values))(*values.values())

    def state_type(self) -> Any:
        """Return the named-tuple type of the slots passed to `apply`."""
        return _record("State", tuple(slot.name for slot in self.slots))

    def to_dict(self) -> dict[str, Any]:
        """Return the stage as plain data: the class name under the key "stage", then all fields."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {"stage": self.label(), **{f.name: _plain(getattr(self, f.name)) for f in fields}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Stage:
        """Rebuild a stage from `to_dict()`; the module of a user-defined stage must have been imported.

        Raises:
            ArgumentError: If the stage or a setting is unknown, a setting is missing, or a value is out of range.
        """
        if not isinstance(data, Mapping) or "stage" not in data:
            raise ArgumentError(f'Stage.from_dict: data must be a mapping with the key "stage", got {shown(data)}.')
        settings = {name: _tuples(value) for name, value in data.items()}
        label = settings.pop("stage")
        if label not in Stage.registry:
            raise unknown("stage", label, Stage.registry)
        cls = Stage.registry[label]
        fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
        for name in settings:
            if name not in fields:
                raise unknown(f"setting of {label}", name, fields)
        for name, item in fields.items():
            if name not in settings and item.default is item.default_factory is dataclasses.MISSING:
                raise ArgumentError(f"{label}: {name} is missing from the description {shown(dict(data))}.")
        return cls(**settings)


def _check_class(cls: type[Stage]) -> None:
    """Validate a stage class before its first instance is created."""
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ArgumentError(f"{cls.__name__}: a stage must define {', '.join(missing)}.")
    own = cls.__dict__.get("__dataclass_params__")
    inherited = getattr(cls, "__dataclass_params__", None)
    settings = [name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)]
    if inherited is None or not inherited.frozen or (own is None and settings):
        raise ArgumentError(f"{cls.__name__}: decorate the class with @dataclass(frozen=True).")
    if not isinstance(inspect.getattr_static(cls, "slots"), property):
        check_slots(cls.__name__, cls.slots)


def check_slots(owner: str, slots: Any) -> None:
    """Raise `ArgumentError` unless `slots` is a tuple of slots with distinct names."""
    if isinstance(slots, Slot) or not isinstance(slots, (tuple, list)) or not all(isinstance(s, Slot) for s in slots):
        raise ArgumentError(
            f"{owner}: slots must be a tuple of elementwise(...) and per_tensor(...), got {shown(slots)}."
        )
    names = [slot.name for slot in slots]
    if len(set(names)) < len(names):
        raise ArgumentError(f"{owner}: slots must have distinct names, got {', '.join(names)}.")


def _numeric_fields(cls: type[Stage]) -> tuple[str, ...]:
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType] - every stage is a dataclass
    return tuple(f.name for f in fields if _is_numeric_annotation(f.type))


def _is_numeric_annotation(annotation: Any) -> bool:
    """Return True for `float`, `Scalar` and unions that contain one of them.

    Annotations are strings under `from __future__ import annotations`, objects otherwise.
    """
    if isinstance(annotation, typing.ForwardRef):
        return _is_numeric_annotation(annotation.__forward_arg__)
    if isinstance(annotation, str):
        try:
            return _is_numeric_node(ast.parse(annotation.strip(), mode="eval").body)
        except SyntaxError:
            return False
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        return any(map(_is_numeric_annotation, inner))
    if origin in (typing.Annotated, typing.Final):
        return _is_numeric_annotation(inner[0])
    return annotation is float


def _is_numeric_node(node: ast.expr) -> bool:
    """Apply `_is_numeric_annotation` to a parsed annotation string."""
    if isinstance(node, ast.Constant):
        return _is_numeric_annotation(node.value)
    if isinstance(node, ast.BinOp):
        return _is_numeric_node(node.left) or _is_numeric_node(node.right)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        kind = _last_name(node.value)
        return (kind in ("Optional", "Union") and any(map(_is_numeric_node, inner))) or (
            kind in ("Annotated", "Final") and _is_numeric_node(inner[0])
        )
    return _last_name(node) in ("float", "Scalar")


def _last_name(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) else value


def _tuples(value: Any) -> Any:
    """Convert lists of plain data back to tuples, since stages must be hashable."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def replaced(stage: Stage, **changes: Any) -> Stage:
    """Return a validated copy of `stage` with some settings changed."""
    return dataclasses.replace(stage, **changes)  # pyright: ignore[reportArgumentType] - every stage is a dataclass
