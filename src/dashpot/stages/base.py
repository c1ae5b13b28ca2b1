"""What a stage is: a pure function of (signal, slots, scalars), with its state declared beside the maths."""

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

__all__ = ["Clock", "Context", "Observation", "Signal", "Slot", "Stage", "elementwise", "per_tensor"]


class Signal(NamedTuple):
    """What travels down the line of stages. Only the fields a stage changes are replaced.

    `w` is the weight before the step, `g` the gradient (after coupled decay), `d` the denominator so far, `v` the
    direction (filtered and divided), `rate` the learning-rate numerator (one number per tensor, before the schedule),
    `shrink` the share of `w` that decoupled decay takes away (None: no such decay).
    """

    w: Tensor
    g: Tensor
    d: Tensor | float
    v: Tensor
    rate: Scalar
    shrink: Scalar | None


class Clock(NamedTuple):
    """The scalars every stage may ask for.

    `t` counts the optimizer steps of this parameter, the present one included: 1, 2, ... `lr` is the base learning rate
    and `factor` the schedule's multiple of it. `window` is the share of the highest rate that is in force, whoever set
    it: `factor`, times lr over OneCycleLR's max_lr or the scheduler's initial_lr, at most 1, where torch moves lr.
    """

    t: Any
    lr: Scalar
    factor: Scalar = 1.0
    window: Scalar = 1.0


class Observation(NamedTuple):
    """A probe `v` and the product `hv` of the Hessian with it, of one parameter.

    Both are shaped like the parameter, which has `dims` dimensions; a complex one comes as pairs of reals, with one
    dimension more.
    """

    v: Tensor
    hv: Tensor
    dims: int


class Context(Protocol):
    """The only door to other elements of a tensor, so that an engine can make it a segment or mesh reduction."""

    def mean(self, x: Tensor) -> Tensor: ...

    def norm(self, x: Tensor) -> Tensor: ...


class Slot(NamedTuple):
    """One piece of state: `name` inside the stage, `key` in `optimizer.state[p]`."""

    name: str
    key: str
    shape: Literal["elementwise", "per_tensor"]
    initial: float


def elementwise(name: str, key: str | None = None, initial: float = 0.0) -> Slot:
    """A slot with one number for each element of the parameter."""
    return _slot(name, key, "elementwise", initial)


def per_tensor(name: str, key: str | None = None, initial: float = 0.0) -> Slot:
    """A slot with one number for the whole parameter."""
    return _slot(name, key, "per_tensor", initial)


def _slot(name: Any, key: Any, shape: Literal["elementwise", "per_tensor"], initial: Any) -> Slot:
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name) or name.startswith("_"):
        raise ArgumentError(f"{shape}: name must be an identifier that does not begin with _, got {name!r}.")
    if not isinstance(key, (str, type(None))):
        raise ArgumentError(f"{shape}: key must be a string or None, got {key!r}.")
    check(shape, "initial", initial, Interval())
    return Slot(name, key or name, shape, initial)


@cache
def _record(kind: str, names: tuple[str, ...]) -> Any:
    return namedtuple(kind, names)


class Stage(ABC):
    """One idea of an update rule. Subclass it as a frozen dataclass whose fields are the settings.

    Numeric fields are data: they may change between steps. Every other field is structure and stays. A stage never sees
    an optimizer or a parameter group and never reads a tensor's value.

    A user's own stage, complete (the direction's sign, as in sign descent, with a slot that counts sign changes):

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
    """The state this stage keeps; a class attribute, or a property where it depends on the settings."""

    position: ClassVar[int] = 2
    """Where `SGM` puts the stage: 0 coupled decay, 1 filter, 2 denominator, 3 change-level decay, 4 robust clip,
    5 numerator, 6 decoupled decay."""

    observes: ClassVar[bool] | Any = False
    """True for a stage that learns from Hessian-vector products through `observe`; it makes the method second-order."""

    registry: ClassVar[dict[str, type[Stage]]] = {}

    _numeric: ClassVar[tuple[str, ...]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Stage:
        del args, kwargs
        if "_numeric" not in cls.__dict__:  # looked up once, here, because Dynamo cannot trace a look at the fields
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
        """The name in saved recipes: the class name, with the module in front for a user's own stage."""
        return cls.__name__ if cls.__module__.startswith("dashpot.") else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def numeric(cls) -> tuple[str, ...]:
        """The names of the fields that are data: annotated `float` or `Scalar`, also beside others (`float | None`)."""
        return cls.__dict__.get("_numeric") or _numeric_fields(cls)

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        """This step's numbers, as `c` in `apply`; by default the numeric fields as they are."""
        del clock
        return {name: getattr(self, name) for name in self._numeric}

    def is_noop(self) -> bool:
        """True when the settings make this stage do nothing, so that its arithmetic can be left out."""
        return False

    def warning(self) -> str | None:
        """A sentence about settings that are legal but surprising; the optimizer warns with it once."""
        return None

    @abstractmethod
    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        """The maths: from the signal `x` and the slots `s` to the new ones, with this step's scalars `c`."""

    def observe(self, o: Observation, s: Any, c: Any, ctx: Context) -> Any:
        """The new slots after a Hessian-vector product, before the step it was taken for. Only with `observes`."""
        del o, c, ctx
        return s

    def prepare(self, clock: Clock) -> Any:
        """`scalars(clock)` as a named tuple: what an engine passes to `apply`."""
        values = self.scalars(clock)
        return _record("Scalars", tuple(values))(*values.values())

    def state_type(self) -> Any:
        """The named tuple in which `apply` gets this stage's slots."""
        return _record("State", tuple(slot.name for slot in self.slots))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the class under `stage`, then every field."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {"stage": self.label(), **{f.name: _plain(getattr(self, f.name)) for f in fields}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Stage:
        """The stage that `to_dict` described; a user's own stage must have been imported.

        Raises `ArgumentError` for an unknown stage, an unknown or missing setting, or a value out of range.
        """
        if not isinstance(data, Mapping) or "stage" not in data:
            raise ArgumentError(f'A stage is described by a mapping with the key "stage", got {shown(data)}.')
        settings = {name: _read_back(value) for name, value in data.items()}
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
                raise ArgumentError(f"{label}: {name} is missing in the description {shown(dict(data))}.")
        return cls(**settings)


def _check_class(cls: type[Stage]) -> None:
    """Refuse what makes a class no stage, before its first instance."""
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
    """Raise `ArgumentError` where a stage declares something else than slots of different names."""
    if isinstance(slots, Slot) or not isinstance(slots, (tuple, list)) or not all(isinstance(s, Slot) for s in slots):
        raise ArgumentError(f"{owner}: slots must be a tuple of elementwise(...) and per_tensor(...), got {slots!r}.")
    names = [slot.name for slot in slots]
    if len(set(names)) < len(names):
        raise ArgumentError(f"{owner}: two slots have the same name, got {', '.join(names)}.")


def _numeric_fields(cls: type[Stage]) -> tuple[str, ...]:
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType] - every stage is a dataclass
    return tuple(f.name for f in fields if _names_a_number(f.type))


def _names_a_number(annotation: Any) -> bool:
    """True for `float`, `Scalar`, and a union or optional of one of them with anything else.

    Annotations are text under `from __future__ import annotations`, and objects otherwise.
    """
    if isinstance(annotation, typing.ForwardRef):
        return _names_a_number(annotation.__forward_arg__)
    if isinstance(annotation, str):
        try:
            return _spells_a_number(ast.parse(annotation.strip(), mode="eval").body)
        except SyntaxError:
            return False
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        return any(map(_names_a_number, inner))
    if origin in (typing.Annotated, typing.Final):
        return _names_a_number(inner[0])
    return annotation is float


def _spells_a_number(node: ast.expr) -> bool:
    """The same for the parsed text of an annotation."""
    if isinstance(node, ast.Constant):
        return _names_a_number(node.value)
    if isinstance(node, ast.BinOp):
        return _spells_a_number(node.left) or _spells_a_number(node.right)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        kind = _last_name(node.value)
        return (kind in ("Optional", "Union") and any(map(_spells_a_number, inner))) or (
            kind in ("Annotated", "Final") and _spells_a_number(inner[0])
        )
    return _last_name(node) in ("float", "Scalar")


def _last_name(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) else value


def _read_back(value: Any) -> Any:
    """Plain data has lists where a stage, which is hashable, has tuples."""
    return tuple(_read_back(item) for item in value) if isinstance(value, list) else value


def replaced(stage: Stage, **changes: Any) -> Stage:
    """A copy of `stage` with some settings changed, checked like a new one."""
    return dataclasses.replace(stage, **changes)  # pyright: ignore[reportArgumentType] - every stage is a dataclass
