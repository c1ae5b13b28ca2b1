"""Symbols: placeholders for tensors that record the operations of a stage.

A symbol is a vector (one value per element of a tensor) or uniform (one value per tensor). The kind of a symbol is its
type: `f32`, `f64`, `bf16`, `f16`, `i32`, `bool`, or `number` for a scalar of the step. A `number` is promoted like a
Python number: to the precision of the tensor in an operation with a tensor, and to double in an operation with other
numbers. Thus results have the same precision as in the eager engine.

Operations that depend on shapes, and Python code that depends on tensor values, raise `UntraceableError`. The eager
engine is then used.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from dashpot.constraints import plain
from dashpot.engine.native.untraceable import UntraceableError, unsupported

KINDS = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.bool: "bool",
}
DTYPES = {kind: dtype for dtype, kind in KINDS.items()}
FLOATS = ("f32", "f64")
_STORED = ("bf16", "f16", "i16")  # kinds that are only stored; arithmetic on them is not supported


def kind_of(dtype: torch.dtype) -> str:
    """Return the kind of a dtype; raise `UntraceableError` if the dtype is not supported."""
    if dtype not in KINDS:
        raise UntraceableError(f"tensors of {dtype}", "use float16, bfloat16, float32 or float64")
    return KINDS[dtype]


class Graph:
    """The operations of one trace, without duplicates."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Symbol] = {}

    def node(self, op: str, args: tuple[Any, ...], kind: str, *, vector: bool, level: int | None = None) -> Symbol:
        """Return the symbol of an operation. `level` is the number of reductions that must precede it."""
        key = (op, kind, *(id(a) if isinstance(a, Symbol) else repr(a) for a in args))
        if key not in self._nodes:
            if level is None:
                level = max((a.level for a in args if isinstance(a, Symbol)), default=0)
            self._nodes[key] = Symbol(self, op, args, kind, vector=vector, level=level)
        return self._nodes[key]

    def operations(self) -> tuple[Any, ...]:
        """Return all operations with their constants, in the order in which they were recorded."""
        return tuple(
            (s.op, s.kind, *(repr(a) for a in s.args if not isinstance(a, Symbol))) for s in self._nodes.values()
        )

    def constant(self, value: float) -> Symbol:
        """Return the symbol of a constant in a stage."""
        return self.node("constant", (value,), "number", vector=False)

    def symbol(self, value: Any) -> Symbol:
        """Convert `value` to a symbol."""
        if isinstance(value, Symbol):
            return value
        value = plain(value)
        if isinstance(value, (int, float)):
            if isinstance(value, int) and abs(value) >= 2**31:
                raise UntraceableError(f"the integer {value}")
            return self.constant(value)
        operation = f"a {type(value).__name__} combined with a traced tensor"
        raise UntraceableError(operation, "use a Python number, a setting or a slot")


class Symbol:
    """One value of a trace, with the operators and functions of a tensor."""

    __slots__ = ("args", "graph", "kind", "level", "op", "vector")
    __array_ufunc__ = None  # makes NumPy scalars on the left of an operator defer to the symbol

    def __init__(self, graph: Graph, op: str, args: tuple[Any, ...], kind: str, *, vector: bool, level: int) -> None:
        self.graph, self.op, self.args, self.kind, self.vector, self.level = graph, op, args, kind, vector, level

    @property
    def device(self) -> torch.device:
        """The CPU, because kernels run only there."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor that the symbol represents."""
        if self.kind == "number":
            raise UntraceableError("the dtype of a number")
        return DTYPES[self.kind]

    # ---- values unknown during tracing ------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        raise self._value_error("a Python branch on", "use torch.where")

    def __float__(self) -> float:
        raise self._value_error("a Python conversion of", "use the function of torch")

    __int__ = __index__ = __complex__ = __float__

    def _value_error(self, operation: str, hint: str) -> UntraceableError:
        if self.level == 0 and _is_scalar_expression(self):
            return UntraceableError(f"{operation} a scalar", "compute it in scalars(clock), from Python numbers")
        return UntraceableError(f"{operation} a tensor's value", hint)

    def __getitem__(self, key: Any) -> Any:
        raise unsupported("narrow", "indexing a tensor")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise UntraceableError("item assignment", "use torch.where")

    def __len__(self) -> int:
        raise unsupported("shape", "the length of a tensor")

    def __iter__(self) -> Any:
        raise unsupported("shape", "iterating over a tensor")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for known in (f"Tensor.{name}", name):
            if known in _table():
                return lambda *args, **kwargs: _called(known, self, *args, **kwargs)
        raise unsupported(name, f"Tensor.{name}")

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        name = getattr(function, "__name__", str(function))
        if name not in _table():
            raise unsupported(name, f"torch.{name}")
        return _called(name, *args, **(kwargs or {}))

    # ---- arithmetic -------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Symbol:
        return arithmetic("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return arithmetic("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return arithmetic("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return arithmetic("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return arithmetic("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return divide(self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return divide(other, self)

    def __pow__(self, other: Any) -> Symbol:
        return power(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return power(other, self)

    def __mod__(self, other: Any) -> Symbol:
        return _called("remainder", self, other)

    def __rmod__(self, other: Any) -> Symbol:
        return _called("remainder", other, self)

    def __floordiv__(self, other: Any) -> Symbol:
        raise unsupported("floor_divide", "floor division")

    __rfloordiv__ = __floordiv__

    def __matmul__(self, other: Any) -> Symbol:
        raise unsupported("matmul", "a matrix product")

    __rmatmul__ = __matmul__

    def __pos__(self) -> Symbol:
        return self

    def __neg__(self) -> Symbol:
        return unary("neg", self)

    def __abs__(self) -> Symbol:
        return unary("abs", self)

    def __and__(self, other: Any) -> Symbol:
        return bits("and", self, other)

    def __or__(self, other: Any) -> Symbol:
        return bits("or", self, other)

    def __xor__(self, other: Any) -> Symbol:
        return bits("xor", self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Symbol:
        if self.kind not in ("bool", "i32"):
            raise UntraceableError(f"~ on {self.kind}")
        return self.graph.node("not", (self,), self.kind, vector=self.vector)

    def __lshift__(self, other: Any) -> Symbol:
        return bits("shl", self, other)

    def __rshift__(self, other: Any) -> Symbol:
        return bits("shr", self, other)

    def __lt__(self, other: Any) -> Symbol:
        return compare("lt", self, other)

    def __le__(self, other: Any) -> Symbol:
        return compare("le", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return compare("gt", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return compare("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return compare("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return compare("ne", self, other)

    __hash__ = object.__hash__


# ---- kinds ----------------------------------------------------------------------------------------------------------


def graph_of(*values: Any) -> Graph:
    """Return the graph that contains the first symbol among `values`."""
    return next(value.graph for value in values if isinstance(value, Symbol))


def common(symbols: Iterable[Symbol]) -> str:
    """Return the promoted kind, as in torch: vectors override uniform tensors, and uniform tensors override numbers."""
    symbols = list(symbols)
    for kind in _STORED:
        if any(s.kind == kind for s in symbols):
            raise UntraceableError(f"arithmetic in {kind}; convert to float32 first")
    strong = [s for s in symbols if s.kind != "number"]
    if not strong:
        return "number"
    floats = [s for s in strong if s.kind in FLOATS]
    deciding = [s for s in floats if s.vector] or floats
    if deciding:
        return "f64" if any(s.kind == "f64" for s in deciding) else "f32"
    if any(s.kind == "number" and not _integral(s) for s in symbols):
        return default_kind()
    return "i32" if any(s.kind == "i32" for s in strong) or len(strong) < len(symbols) else "bool"


def default_kind() -> str:
    """Return the kind of torch's default dtype, for operations without floating-point operands."""
    kind = kind_of(torch.get_default_dtype())
    if kind not in FLOATS:
        raise UntraceableError(f"arithmetic in {kind}; convert to float32 first")
    return kind


def _is_scalar_expression(symbol: Symbol) -> bool:
    """Check whether a symbol depends only on scalars and constants."""
    operands = [a for a in symbol.args if isinstance(a, Symbol)]
    return symbol.op in ("scalar", "constant") or (bool(operands) and all(map(_is_scalar_expression, operands)))


def _integral(symbol: Symbol) -> bool:
    return symbol.op == "constant" and isinstance(symbol.args[0], int)


def cast(x: Symbol, kind: str) -> Symbol:
    """Return `x` converted to a kind."""
    if x.kind == kind:
        return x
    return x.graph.node("cast", (x,), kind, vector=x.vector)


def combine(op: str, values: Iterable[Any], kind: str | None = None) -> Symbol:
    """Record an operation on operands promoted to a common kind, which is also the kind of the result by default."""
    values = list(values)
    graph = graph_of(*values)
    symbols = [graph.symbol(value) for value in values]
    shared = common(symbols)
    operands = tuple(cast(s, shared) for s in symbols)
    return graph.node(op, operands, kind or shared, vector=any(s.vector for s in symbols))


def arithmetic(op: str, a: Any, b: Any, *, alpha: Any = 1) -> Symbol:
    """Record `a op (alpha * b)`. Boolean operands are not supported."""
    if type(alpha) is Symbol or not isinstance(alpha, (int, float)) or alpha != 1:
        b = combine("mul", (b, alpha))
    result = combine(op, (a, b))
    if result.kind == "bool":
        raise UntraceableError(f"{op} of booleans")
    return result


def float_only(op: str, *values: Any) -> Symbol:
    """Record an operation on floating-point operands; kernels do not support the integer variants of torch."""
    result = combine(op, values)
    if result.kind not in (*FLOATS, "number"):
        raise UntraceableError(f"{op} of {result.kind}")
    return result


def compare(op: str, a: Any, b: Any) -> Symbol:
    """Record a comparison, whose result has kind bool."""
    return combine(op, (a, b), kind="bool")


def bits(op: str, a: Any, b: Any) -> Symbol:
    """Record a bitwise operation on integers or booleans."""
    result = combine(op, (a, b))
    if result.kind not in ("i32", "bool") or (result.kind == "bool" and op in ("shl", "shr")):
        raise UntraceableError(f"{op} of {result.kind}")
    return result


def unary(op: str, x: Symbol) -> Symbol:
    """Record a unary operation on a floating-point operand."""
    if x.kind not in (*FLOATS, "number"):  # in C++, negating the smallest integer is undefined behavior
        raise UntraceableError(f"{op} of {x.kind}")
    return x.graph.node(op, (x,), x.kind, vector=x.vector)


def power(base: Any, exponent: Any) -> Symbol:
    """Record `base ** exponent` as the operation that torch uses for this exponent."""
    if type(exponent) is not Symbol and isinstance(exponent, (int, float)):
        if exponent == 2:
            return arithmetic("mul", base, base)
        if exponent == 0.5 and base.kind != "number":
            return float_only("sqrt", base)
        if exponent == -0.5 and base.kind != "number":
            return float_only("rsqrt", base)
        if exponent == 1:
            return base
        if exponent == -1:
            return divide(1.0, base)
    return float_only("pow", base, exponent)


def divide(a: Any, b: Any) -> Symbol:
    """Record true division; integers are converted to the default kind."""
    graph = graph_of(a, b)
    operands = graph.symbol(a), graph.symbol(b)
    if common(operands) in ("i32", "bool"):
        operands = tuple(cast(x, default_kind()) for x in operands)
    return float_only("div", *operands)


def _table() -> Mapping[str, Callable[..., Any]]:
    from dashpot.engine.native.functions import FUNCTIONS  # imported here because it imports this module
    from dashpot.engine.native.primitives import PRIMITIVES

    return ChainMap(FUNCTIONS, PRIMITIVES)


def _called(name: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return _table()[name](*args, **kwargs)
    except TypeError as error:
        raise unsupported(name, f"{name} with these arguments") from error
