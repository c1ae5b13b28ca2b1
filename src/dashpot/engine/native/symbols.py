"""Tracing by running: symbols stand in for tensors, and a stage's own maths, run on them, writes down the operations.

A symbol is a vector (one number for each element of a tensor) or uniform (one number for the whole tensor). Its kind
is what the number is: `f32`, `f64`, `bf16`, `f16`, `i32`, `bool`, or `number` for a step's scalar, which behaves as a
Python number does beside a tensor: it takes the tensor's precision, and stays a double beside other numbers. Results
therefore have the precision they have in the eager engine.

Whatever a vector's shape or another element's value decides cannot be traced; it raises `UntraceableError`, and the
eager engine does the work instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["KINDS", "Graph", "Symbol", "UntraceableError", "kind_of"]

KINDS = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.bool: "bool",
}
_FLOATS = ("f32", "f64")
_STORED = ("bf16", "f16", "i16")  # only stored and converted
_SAME_SIZE = ({"f32", "i32"}, {"bf16", "i16"})


class UntraceableError(BaseException):
    """An operation that the kernel language does not have; the message names it.

    No `Exception`: a stage that tries something and goes another way when it fails must not be traced along that way.
    """


def kind_of(dtype: torch.dtype) -> str:
    """The kind of a dtype; `UntraceableError` for one that kernels do not hold."""
    if dtype not in KINDS:
        raise UntraceableError(f"tensors of {dtype}")
    return KINDS[dtype]


class Graph:
    """The operations of one trace. Equal operations are one node."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Symbol] = {}

    def node(self, op: str, args: tuple[Any, ...], kind: str, *, vector: bool, level: int | None = None) -> Symbol:
        """The symbol of an operation; `level` is how many reductions must be complete before it can be computed."""
        key = (op, kind, *(id(a) if isinstance(a, Symbol) else repr(a) for a in args))
        if key not in self._nodes:
            if level is None:
                level = max((a.level for a in args if isinstance(a, Symbol)), default=0)
            self._nodes[key] = Symbol(self, op, args, kind, vector=vector, level=level)
        return self._nodes[key]

    def text(self) -> tuple[Any, ...]:
        """Every operation with its constants, in the order of their making."""
        return tuple(
            (s.op, s.kind, *(repr(a) for a in s.args if not isinstance(a, Symbol))) for s in self._nodes.values()
        )

    def constant(self, value: float) -> Symbol:
        """A Python number written in the stage."""
        return self.node("constant", (value,), "number", vector=False)

    def symbol(self, value: Any) -> Symbol:
        """`value` as a symbol."""
        if isinstance(value, Symbol):
            return value
        if isinstance(value, (int, float)):
            if isinstance(value, int) and abs(value) >= 2**31:
                raise UntraceableError(f"the integer {value}")
            return self.constant(value)
        raise UntraceableError(f"a {type(value).__name__} beside a traced tensor")


class Symbol:
    """One value of a trace, with the arithmetic and the functions of a torch tensor."""

    __slots__ = ("args", "graph", "kind", "level", "op", "vector")

    def __init__(self, graph: Graph, op: str, args: tuple[Any, ...], kind: str, *, vector: bool, level: int) -> None:
        self.graph, self.op, self.args, self.kind, self.vector, self.level = graph, op, args, kind, vector, level

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor that this stands for."""
        if self.kind == "number":
            raise UntraceableError("the dtype of a number")
        return _DTYPES[self.kind]

    # ---- what a kernel cannot know ----------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        raise UntraceableError("a Python decision on a tensor's value")

    __float__ = __int__ = __index__ = __len__ = __iter__ = __bool__  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _FUNCTIONS:
            return lambda *args, **kwargs: _called(name, self, *args, **kwargs)
        raise UntraceableError(f"Tensor.{name}")

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        name = getattr(function, "__name__", str(function))
        if name not in _FUNCTIONS:
            raise UntraceableError(f"torch.{name}")
        return _called(name, *args, **(kwargs or {}))

    # ---- arithmetic -------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Symbol:
        return _arithmetic("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return _arithmetic("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return _arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _arithmetic("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return _arithmetic("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return _arithmetic("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return _float_only("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return _float_only("div", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return _power(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return _power(other, self)

    def __neg__(self) -> Symbol:
        return _unary("neg", self)

    def __abs__(self) -> Symbol:
        return _unary("abs", self)

    def __and__(self, other: Any) -> Symbol:
        return _bits("and", self, other)

    def __or__(self, other: Any) -> Symbol:
        return _bits("or", self, other)

    def __xor__(self, other: Any) -> Symbol:
        return _bits("xor", self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Symbol:
        if self.kind not in ("bool", "i32"):
            raise UntraceableError(f"~ on {self.kind}")
        return self.graph.node("not", (self,), self.kind, vector=self.vector)

    def __lshift__(self, other: Any) -> Symbol:
        return _bits("shl", self, other)

    def __rshift__(self, other: Any) -> Symbol:
        return _bits("shr", self, other)

    def __lt__(self, other: Any) -> Symbol:
        return _compare("lt", self, other)

    def __le__(self, other: Any) -> Symbol:
        return _compare("le", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return _compare("gt", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return _compare("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return _compare("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return _compare("ne", self, other)

    __hash__ = object.__hash__


# ---- kinds ----------------------------------------------------------------------------------------------------------


def _graph(*values: Any) -> Graph:
    return next(value.graph for value in values if isinstance(value, Symbol))


def _common(symbols: Iterable[Symbol]) -> str:
    """torch's type promotion, for the kinds a stage meets: vectors decide over single tensors, tensors over numbers."""
    symbols = list(symbols)
    for kind in _STORED:
        if any(s.kind == kind for s in symbols):
            raise UntraceableError(f"arithmetic in {kind}; convert to float32 first")
    strong = [s for s in symbols if s.kind != "number"]
    if not strong:
        return "number"
    floats = [s for s in strong if s.kind in _FLOATS]
    deciding = [s for s in floats if s.vector] or floats
    if deciding:
        return "f64" if any(s.kind == "f64" for s in deciding) else "f32"
    if any(s.kind == "number" and not _integral(s) for s in symbols):
        raise UntraceableError("a fraction beside integers")
    return "i32" if any(s.kind == "i32" for s in strong) or len(strong) < len(symbols) else "bool"


def _integral(symbol: Symbol) -> bool:
    return symbol.op == "constant" and isinstance(symbol.args[0], int)


def _cast(x: Symbol, kind: str) -> Symbol:
    if x.kind == kind:
        return x
    return x.graph.node("cast", (x,), kind, vector=x.vector)


def _combine(op: str, values: Iterable[Any], kind: str | None = None) -> Symbol:
    """An operation whose operands are first brought to one kind, which is the result's unless `kind` says otherwise."""
    values = list(values)
    graph = _graph(*values)
    symbols = [graph.symbol(value) for value in values]
    common = _common(symbols)
    operands = tuple(_cast(s, common) for s in symbols)
    return graph.node(op, operands, kind or common, vector=any(s.vector for s in symbols))


def _arithmetic(op: str, a: Any, b: Any, *, alpha: Any = 1) -> Symbol:
    if type(alpha) is Symbol or not isinstance(alpha, (int, float)) or alpha != 1:
        b = _combine("mul", (b, alpha))
    result = _combine(op, (a, b))
    if result.kind == "bool":
        raise UntraceableError(f"{op} of truth values")
    return result


def _float_only(op: str, *values: Any) -> Symbol:
    result = _combine(op, values)
    if result.kind not in (*_FLOATS, "number"):
        raise UntraceableError(f"{op} of {result.kind}")
    return result


def _compare(op: str, a: Any, b: Any) -> Symbol:
    return _combine(op, (a, b), kind="bool")


def _bits(op: str, a: Any, b: Any) -> Symbol:
    result = _combine(op, (a, b))
    if result.kind not in ("i32", "bool") or (result.kind == "bool" and op in ("shl", "shr")):
        raise UntraceableError(f"{op} of {result.kind}")
    return result


def _unary(op: str, x: Symbol) -> Symbol:
    if x.kind not in (*_FLOATS, "number"):  # the least integer has no negative, which C++ leaves undefined
        raise UntraceableError(f"{op} of {x.kind}")
    return x.graph.node(op, (x,), x.kind, vector=x.vector)


def _power(base: Any, exponent: Any) -> Symbol:
    if type(exponent) is not Symbol and isinstance(exponent, (int, float)):
        if exponent == 2:
            return _arithmetic("mul", base, base)
        if exponent == 0.5 and base.kind != "number":
            return _float_only("sqrt", base)
        if exponent == -0.5 and base.kind != "number":
            return _float_only("rsqrt", base)
        if exponent == 1:
            return base
        if exponent == -1:
            return _float_only("div", 1.0, base)
    return _float_only("pow", base, exponent)


def _called(name: str, *args: Any, **kwargs: Any) -> Symbol:
    try:
        return _FUNCTIONS[name](*args, **kwargs)
    except TypeError as error:
        raise UntraceableError(f"{name} with these arguments") from error


# ---- functions ------------------------------------------------------------------------------------------------------


def _larger(op: str, a: Any, b: Any) -> Symbol:
    if type(b) is not Symbol:  # torch takes a number for a dimension
        raise UntraceableError(f"{op} along a dimension")
    return _float_only(op, a, b)


def _where(condition: Any, yes: Any, no: Any) -> Symbol:
    graph = _graph(condition, yes, no)
    a, b = graph.symbol(yes), graph.symbol(no)
    kind = _common((a, b))
    if kind == "number":
        raise UntraceableError("torch.where between two numbers")
    if not isinstance(condition, Symbol) or condition.kind != "bool":
        raise UntraceableError("torch.where on what is no comparison")
    vector = any(s.vector for s in (condition, a, b))
    return graph.node("where", (condition, _cast(a, kind), _cast(b, kind)), kind, vector=vector)


def _clamp(x: Symbol, min: Any = None, max: Any = None) -> Symbol:
    if min is not None:
        x = _bounded("clamp_min", x, min)
    return x if max is None else _bounded("clamp_max", x, max)


def _bounded(op: str, x: Symbol, bound: Any) -> Symbol:
    if x.kind not in (*_FLOATS, "number"):
        raise UntraceableError(f"{op} of {x.kind}")
    bound = x.graph.symbol(bound)
    return x.graph.node(op, (x, _cast(bound, x.kind)), x.kind, vector=x.vector or bound.vector)


def _total(op: str, x: Symbol, dtype: torch.dtype | None) -> Symbol:
    """A sum over the whole tensor, in double, then in the kind asked for."""
    if not x.vector or x.kind not in _FLOATS:
        raise UntraceableError(f"{op} of {'a vector' if x.vector else 'a number'} of {x.kind}")
    total = x.graph.node("sum", (x,), "number", vector=False, level=x.level + 1)
    if op == "mean":
        total = x.graph.node("div", (total, x.graph.node("count", (), "number", vector=False)), "number", vector=False)
    elif op == "norm":
        total = x.graph.node("sqrt", (total,), "number", vector=False)
    return _cast(total, x.kind if dtype is None else kind_of(dtype))


def _mean(x: Symbol, *, dtype: torch.dtype | None = None) -> Symbol:
    return _total("mean", x, dtype)


def _sum(x: Symbol, *, dtype: torch.dtype | None = None) -> Symbol:
    return _total("sum", x, dtype)


def _norm(x: Symbol, ord: float = 2, *, dtype: torch.dtype | None = None) -> Symbol:
    if ord != 2:
        raise UntraceableError(f"a norm of order {ord}")
    wide = _cast(x, "f64")  # squares of large float32 numbers overflow
    return _total("norm", wide * wide, dtype or _DTYPES[x.kind])


def _to(x: Symbol, dtype: Any = None, **options: Any) -> Symbol:
    if not isinstance(dtype, torch.dtype) or options.keys() - {"copy", "non_blocking"}:
        raise UntraceableError("Tensor.to with anything but a dtype")
    return _cast(x, kind_of(dtype))


def _view(x: Symbol, dtype: Any) -> Symbol:
    if not isinstance(dtype, torch.dtype) or not any({x.kind, kind_of(dtype)} <= pair for pair in _SAME_SIZE):
        raise UntraceableError("Tensor.view to another shape")
    return x.graph.node("bitcast", (x,), kind_of(dtype), vector=x.vector)


def _like(value: float) -> Callable[..., Symbol]:
    def function(x: Symbol, **options: Any) -> Symbol:
        if options:
            raise UntraceableError("a new tensor with options")
        return _cast(x.graph.constant(value), x.kind)

    return function


def _full_like(x: Symbol, fill_value: float) -> Symbol:
    return _cast(x.graph.symbol(fill_value), x.kind)


def _lerp(a: Any, b: Any, weight: Any) -> Symbol:
    return _combine("lerp", (a, b, weight))


def _same(x: Symbol) -> Symbol:
    return x


def _sign(x: Symbol) -> Symbol:
    return _unary("sign", x)


def _function(op: str) -> Callable[..., Symbol]:
    return lambda x: _float_only(op, x)


_DTYPES = {kind: dtype for dtype, kind in KINDS.items()}
_MATHS = (
    "sqrt",
    "rsqrt",
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "tanh",
    "sin",
    "cos",
    "erf",
    "floor",
    "ceil",
    "trunc",
)

_FUNCTIONS: dict[str, Callable[..., Symbol]] = {
    **{name: _function(name) for name in _MATHS},
    "abs": lambda x: _unary("abs", x),
    "absolute": lambda x: _unary("abs", x),
    "neg": lambda x: _unary("neg", x),
    "sign": _sign,
    "sgn": _sign,
    "square": lambda x: _arithmetic("mul", x, x),
    "reciprocal": lambda x: _float_only("div", 1.0, x),
    "sigmoid": lambda x: _float_only("sigmoid", x),
    "add": lambda a, b, *, alpha=1: _arithmetic("add", a, b, alpha=alpha),
    "sub": lambda a, b, *, alpha=1: _arithmetic("sub", a, b, alpha=alpha),
    "subtract": lambda a, b, *, alpha=1: _arithmetic("sub", a, b, alpha=alpha),
    "rsub": lambda a, b: _arithmetic("sub", b, a),
    "mul": lambda a, b: _arithmetic("mul", a, b),
    "multiply": lambda a, b: _arithmetic("mul", a, b),
    "div": lambda a, b: _float_only("div", a, b),
    "true_divide": lambda a, b: _float_only("div", a, b),
    "pow": _power,
    "lerp": _lerp,
    "addcmul": lambda x, a, b, *, value=1: x + value * a * b,
    "addcdiv": lambda x, a, b, *, value=1: x + value * a / b,
    "maximum": lambda a, b: _float_only("maximum", a, b),
    "minimum": lambda a, b: _float_only("minimum", a, b),
    "max": lambda a, b: _larger("maximum", a, b),
    "min": lambda a, b: _larger("minimum", a, b),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "clamp_max": lambda x, max: _clamp(x, max=max),
    "relu": lambda x: _clamp(x, min=0.0),
    "where": _where,
    "lt": lambda a, b: _compare("lt", a, b),
    "le": lambda a, b: _compare("le", a, b),
    "gt": lambda a, b: _compare("gt", a, b),
    "ge": lambda a, b: _compare("ge", a, b),
    "eq": lambda a, b: _compare("eq", a, b),
    "ne": lambda a, b: _compare("ne", a, b),
    "logical_and": lambda a, b: _bits("and", a, b),
    "logical_or": lambda a, b: _bits("or", a, b),
    "logical_not": lambda a: ~a,
    "bitwise_and": lambda a, b: _bits("and", a, b),
    "bitwise_or": lambda a, b: _bits("or", a, b),
    "bitwise_xor": lambda a, b: _bits("xor", a, b),
    "bitwise_left_shift": lambda a, b: _bits("shl", a, b),
    "bitwise_right_shift": lambda a, b: _bits("shr", a, b),
    "isnan": lambda x: _compare("ne", x, x),
    "isinf": lambda x: _compare("eq", _unary("abs", x), math.inf),
    "isfinite": lambda x: _compare("lt", _unary("abs", x), math.inf),
    "mean": _mean,
    "sum": _sum,
    "norm": _norm,
    "linalg_vector_norm": _norm,
    "vector_norm": _norm,
    "zeros_like": _like(0.0),
    "ones_like": _like(1.0),
    "full_like": _full_like,
    "to": _to,
    "float": lambda x: _cast(x, "f32"),
    "double": lambda x: _cast(x, "f64"),
    "view": _view,
    "clone": _same,
    "detach": _same,
    "contiguous": _same,
}
