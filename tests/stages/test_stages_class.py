"""Validation of stage classes when their first instance is created."""

# ruff: noqa: UP007, UP045 - the test covers the older spellings of annotations
import typing
from dataclasses import dataclass
from typing import ClassVar, Optional, Union

import pytest
import torch

import dashpot as dp
from dashpot.constraints import Scalar


class Body:
    """Namespace with the methods of a stage."""

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * 2), s


def test_missing_dataclass_decorator_raises():
    class Plain(Body, dp.Stage):
        pass

    class WithSettings(Body, dp.Stage):
        beta: float = 0.9

    class Inherited(dp.SecondMoment):
        extra: float = 0.5

    for kind, arguments in ((Plain, ()), (WithSettings, ()), (WithSettings, (0.5,)), (Inherited, ())):
        with pytest.raises(
            dp.ArgumentError, match=rf"^{kind.__name__}: decorate the class with @dataclass\(frozen=True\)\.$"
        ):
            kind(*arguments)


def test_unfrozen_stage_raises():
    @dataclass
    class Thawed(Body, dp.Stage):
        beta: float = 0.9

    with pytest.raises(dp.ArgumentError, match=r"^Thawed: decorate the class with @dataclass\(frozen=True\)\.$"):
        Thawed()


def test_subclass_without_own_settings_does_not_require_a_decorator():
    class Doubled(dp.SecondMoment):
        kind: ClassVar[str] = "doubled"

        def apply(self, x, s, c, ctx):
            x, s = super().apply(x, s, c, ctx)
            return x._replace(v=x.v * 2), s

    assert Doubled(0.5).numeric() == dp.SecondMoment(0.5).numeric()


def test_stage_without_apply_raises():
    @dataclass(frozen=True)
    class Empty(dp.Stage):
        pass

    with pytest.raises(dp.ArgumentError, match=r"^Empty: a stage must define apply\.$"):
        Empty()


SLOTS = (dp.elementwise("a"), (dp.elementwise("a"), "b"), "a", None, 3, ("a",), (dp.elementwise,))


@pytest.mark.parametrize("slots", SLOTS, ids=range(len(SLOTS)))
def test_slots_of_wrong_type_raise(slots):
    made = dataclass(frozen=True)(type("Kept", (Body, dp.Stage), {"slots": slots}))
    with pytest.raises(dp.ArgumentError, match=r"^Kept: slots must be a tuple of elementwise"):
        made()


@pytest.mark.parametrize("slots", SLOTS, ids=range(len(SLOTS)))
def test_slots_property_is_checked_by_the_recipe(slots):
    made = dataclass(frozen=True)(type("Kept", (Body, dp.Stage), {"slots": property(lambda self: slots)}))()
    with pytest.raises(dp.ArgumentError, match=r"^Kept: slots must be a tuple of elementwise"):
        dp.Recipe(made)


def test_duplicate_slot_names_raise():
    slots = (dp.elementwise("a", "first"), dp.per_tensor("a", "second"))
    made = dataclass(frozen=True)(type("Kept", (Body, dp.Stage), {"slots": slots}))
    with pytest.raises(dp.ArgumentError, match=r"^Kept: slots must have distinct names, got a, a\.$"):
        made()


@pytest.mark.parametrize("make", [dp.elementwise, dp.per_tensor])
def test_slot_is_checked_at_its_declaration(make):
    for name in ("", "1a", "a b", "class", "_a", 3, None):
        with pytest.raises(dp.ArgumentError, match="name must be an identifier that does not begin with _, got"):
            make(name)
    with pytest.raises(dp.ArgumentError, match="key must be a string or None, got 3"):
        make("a", 3)
    for initial in ("0", None, float("nan")):
        with pytest.raises(dp.ArgumentError, match="initial must be a number"):
            make("a", initial=initial)


NUMERIC = (
    *(
        "float",
        "Scalar",
        "float | None",
        "None | float",
        "Optional[float]",
        "typing.Optional[float]",
        "t.Union[int, float]",
    ),
    *(
        "Optional['float']",
        "Optional[Scalar]",
        "Annotated[float, 'share']",
        "Final[float]",
        "Union[torch.Tensor, float]",
    ),
    *("dashpot.constraints.Scalar", "'float'", "constraints.Scalar | None"),
    *(float, Scalar, Optional[float], Union[float, torch.Tensor], float | None, typing.Annotated[float, "share"]),
    *(Optional[Scalar], Optional["float"], typing.Final[float]),
)
STRUCTURE = (
    *(
        "int",
        "bool",
        "str",
        "int | None",
        "Optional[int]",
        "tuple[float, float]",
        "list[float]",
        "Optional[tuple[float, ...]]",
    ),
    *("Literal['float']", "Callable[[float], float]", "floats", "not a type", "Annotated[int, float]"),
    *(int, bool, str, Optional[int], tuple[float, float], Optional[list[float]], typing.Literal["float"], None),
)


@pytest.mark.parametrize("annotation", NUMERIC, ids=repr)
def test_all_numeric_annotations_are_scalars(annotation):
    made = dataclass(frozen=True)(type("Any", (Body, dp.Stage), {"__annotations__": {"rate": annotation}, "rate": 0.5}))
    assert made().numeric() == ("rate",)
    assert dp.Recipe(made()).settings() == {"rate": 0.5}


@pytest.mark.parametrize("annotation", STRUCTURE, ids=repr)
def test_other_annotations_are_structure(annotation):
    made = dataclass(frozen=True)(type("Any", (Body, dp.Stage), {"__annotations__": {"rate": annotation}, "rate": 0.5}))
    assert made().numeric() == ()
