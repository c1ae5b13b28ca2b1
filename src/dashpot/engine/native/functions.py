"""Functions and methods of torch on symbols, with torch's type promotion and special values.

The supported functions are listed in docs/own-stage.md; a test compares that list with this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from dashpot.engine.native.symbols import (
    DTYPES,
    FLOATS,
    Symbol,
    UntraceableError,
    arithmetic,
    bits,
    cast,
    combine,
    common,
    compare,
    default_kind,
    divide,
    float_only,
    graph_of,
    kind_of,
    power,
    unary,
)
from dashpot.engine.native.untraceable import unsupported

_SAME_SIZE = ({"f32", "i32"}, {"bf16", "i16"})


# ---- selection ------------------------------------------------------------------------------------------------------


def _where(condition: Any, yes: Any, no: Any) -> Symbol:
    graph = graph_of(condition, yes, no)
    a, b = graph.symbol(yes), graph.symbol(no)
    _check_condition("torch.where", condition)
    kind = common((a, b))
    if kind == "number":
        kind = _kind_of_numbers(yes, no)
    vector = any(s.vector for s in (condition, a, b))
    return graph.node("where", (condition, cast(a, kind), cast(b, kind)), kind, vector=vector)


def _check_condition(name: str, condition: Any) -> None:
    if not isinstance(condition, Symbol) or condition.kind != "bool":
        raise UntraceableError(f"{name} with a condition that is not boolean", "compare first, as in x != 0")


def _kind_of_numbers(*values: Any) -> str:
    """Return the kind of a tensor made from Python numbers. Integers have kind i32, which suffices here."""
    if all(isinstance(value, bool) for value in values):
        return "bool"
    return "i32" if all(isinstance(value, int) for value in values) else default_kind()


def _masked_fill(x: Symbol, mask: Any, value: Any) -> Symbol:
    _check_condition("masked_fill", mask)
    value = x.graph.symbol(value)
    if value.vector:
        raise UntraceableError("masked_fill with a tensor of values", "use torch.where")
    return x.graph.node("where", (mask, cast(value, x.kind), x), x.kind, vector=x.vector or mask.vector)


def _clamp(x: Symbol, min: Any = None, max: Any = None) -> Symbol:
    bounds = [x.graph.symbol(bound) for bound in (min, max) if bound is not None]
    if any(bound.kind != "number" for bound in bounds):
        x = cast(x, common((x, *bounds)))
    if min is not None:
        x = _bounded("clamp_min", x, min)
    return x if max is None else _bounded("clamp_max", x, max)


def _bounded(op: str, x: Symbol, bound: Any) -> Symbol:
    if x.kind not in (*FLOATS, "number"):
        raise UntraceableError(f"{op} of {x.kind}")
    bound = x.graph.symbol(bound)
    return x.graph.node(op, (x, cast(bound, x.kind)), x.kind, vector=x.vector or bound.vector)


def _larger(op: str, a: Any, b: Any) -> Symbol:
    if type(b) is not Symbol:  # torch interprets a number as the dimension argument
        raise unsupported("max", f"{op} along a dimension")
    return float_only(op, a, b)


def _nan_to_num(x: Symbol, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Symbol:
    _check_float("nan_to_num", x)
    limits = torch.finfo(DTYPES[x.kind])
    result = _where(compare("eq", x, math.inf), limits.max if posinf is None else posinf, x)
    result = _where(compare("eq", x, -math.inf), limits.min if neginf is None else neginf, result)
    return _where(compare("ne", x, x), 0.0 if nan is None else nan, result)


def _check_float(name: str, x: Any) -> None:
    if not isinstance(x, Symbol) or x.kind not in FLOATS:
        raise UntraceableError(f"{name} of {x.kind if isinstance(x, Symbol) else 'a number'}")


# ---- booleans -------------------------------------------------------------------------------------------------------


def _logical(op: str) -> Callable[..., Symbol]:
    return lambda a, b: bits(op, _truth(a), _truth(b))


def _truth(x: Any) -> Symbol:
    if not isinstance(x, Symbol) or x.kind not in (*FLOATS, "i32", "bool"):
        raise UntraceableError("the truth value of a number")
    return cast(x, "bool")


def _infinite(x: Symbol, *values: float) -> Symbol:
    first, *rest = (compare("eq", x, value) for value in values)
    return bits("or", first, rest[0]) if rest else first


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def _lerp(a: Any, b: Any, weight: Any) -> Symbol:
    return combine("lerp", (a, b, weight))


def _sign(x: Symbol) -> Symbol:
    return unary("sign", x)


def _signbit(x: Symbol) -> Symbol:
    _check_float("signbit", x)
    return x.graph.node("signbit", (x,), "bool", vector=x.vector)


def _remainder(a: Any, b: Any) -> Symbol:
    """Record `a % b`, the remainder with the sign of the divisor."""
    rest = float_only("fmod", a, b)
    b = rest.graph.symbol(b)
    other_sign = compare("ne", compare("lt", b, 0), compare("lt", rest, 0))
    return _where(bits("and", compare("ne", rest, 0), other_sign), rest + b, rest)


def _heaviside(x: Symbol, values: Any) -> Symbol:
    _check_float("heaviside", x)
    _check_float("heaviside", values)
    return _where(compare("eq", x, 0), values, cast(compare("gt", x, 0), x.kind))


def _function(op: str) -> Callable[..., Symbol]:
    return lambda x: float_only(op, x)


def _of_two(op: str) -> Callable[..., Symbol]:
    return lambda a, b: float_only(op, a, b)


def _compared(op: str) -> Callable[..., Symbol]:
    return lambda a, b: compare(op, a, b)


# ---- reductions -----------------------------------------------------------------------------------------------------


def _reduce(op: str, x: Symbol, dtype: torch.dtype | None) -> Symbol:
    """Record a reduction over the whole tensor, accumulated in double; the result has kind `dtype`."""
    if not x.vector or x.kind not in FLOATS:
        hint = "convert it first, as in .to(x.v)" if x.vector else "it is a single number already"
        raise UntraceableError(f"{op} of {'a vector' if x.vector else 'a number'} of {x.kind}", hint)
    total = x.graph.node("sum", (x,), "number", vector=False, level=x.level + 1)
    if op == "mean":
        total = x.graph.node("div", (total, x.graph.node("count", (), "number", vector=False)), "number", vector=False)
    elif op == "norm":
        total = x.graph.node("sqrt", (total,), "number", vector=False)
    return cast(total, x.kind if dtype is None else kind_of(dtype))


def _mean(x: Symbol, *, dtype: torch.dtype | None = None) -> Symbol:
    return _reduce("mean", x, dtype)


def _sum(x: Symbol, *, dtype: torch.dtype | None = None) -> Symbol:
    return _reduce("sum", x, dtype)


def _norm(x: Symbol, ord: Any = 2, *, p: Any = None, dtype: torch.dtype | None = None) -> Symbol:
    order = ord if p is None else p
    if order not in (2, "fro", None):
        raise unsupported("norm", f"a norm of order {order}")
    wide = cast(x, "f64")  # squares of large numbers overflow in float32
    return _reduce("norm", wide * wide, dtype or DTYPES[x.kind])


# ---- types ----------------------------------------------------------------------------------------------------------


def _to(x: Symbol, *args: Any, dtype: Any = None, device: Any = None, tensor: Any = None, **options: Any) -> Symbol:
    if options.keys() - {"copy", "non_blocking", "memory_format"}:
        raise UntraceableError("Tensor.to with these arguments")
    for value in (*args, tensor):
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, Symbol):
            dtype = value.dtype
        elif isinstance(value, (str, torch.device)):
            device = value
        elif not isinstance(value, (bool, type(None))):
            raise UntraceableError(
                f"Tensor.to with a {type(value).__name__}", "pass a dtype or a tensor, as in .to(x.v)"
            )
    if device is not None and torch.device(device).type != "cpu":
        raise UntraceableError("Tensor.to a different device", "stay on the device of x.v")
    return x if dtype is None else cast(x, kind_of(dtype))


def _type(x: Symbol, dtype: Any) -> Symbol:
    return _to(x, dtype)


def _type_as(x: Symbol, other: Symbol) -> Symbol:
    return cast(x, kind_of(other.dtype))


def _cast_to(kind: str) -> Callable[..., Symbol]:
    return lambda x: cast(x, kind)


def _view(x: Symbol, dtype: Any) -> Symbol:
    if not isinstance(dtype, torch.dtype) or not any({x.kind, kind_of(dtype)} <= pair for pair in _SAME_SIZE):
        raise unsupported("view", "Tensor.view with a different shape")
    return x.graph.node("bitcast", (x,), kind_of(dtype), vector=x.vector)


def _full_like(x: Symbol, fill_value: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Symbol:
    if options.keys() - {"memory_format"}:
        raise UntraceableError("a new tensor with options", "omit the options")
    value = x.graph.symbol(fill_value)
    return x.graph.node("fill", (value,), x.kind if dtype is None else kind_of(dtype), vector=x.vector or value.vector)


def _like(value: float) -> Callable[..., Symbol]:
    return lambda x, **options: _full_like(x, value, **options)


def _same(x: Symbol, *, memory_format: Any = None) -> Symbol:
    del memory_format
    return x


_MATHS = "sqrt rsqrt exp exp2 expm1 log log10 log1p log2 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
_MATHS += "erf erfc sigmoid floor ceil trunc round"
_TWO = "maximum minimum fmax fmin atan2 hypot copysign fmod"
_COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")

# Functions and methods by name. A method that differs from the function of the same name has the key "Tensor.name".
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _function(name) for name in _MATHS.split()},
    **{name: _of_two(name) for name in _TWO.split()},
    **{name: _compared(name) for name in _COMPARED},
    "abs": lambda x: unary("abs", x),
    "neg": lambda x: unary("neg", x),
    "positive": _same,
    "sign": _sign,
    "sgn": _sign,
    "signbit": _signbit,
    "square": lambda x: arithmetic("mul", x, x),
    "reciprocal": lambda x: float_only("div", 1.0, x),
    "frac": lambda x: x - float_only("trunc", x),
    "add": lambda a, b, *, alpha=1: arithmetic("add", a, b, alpha=alpha),
    "sub": lambda a, b, *, alpha=1: arithmetic("sub", a, b, alpha=alpha),
    "rsub": lambda a, b: arithmetic("sub", b, a),
    "mul": lambda a, b: arithmetic("mul", a, b),
    "div": divide,
    "remainder": _remainder,
    "pow": power,
    "lerp": _lerp,
    "addcmul": lambda x, a, b, *, value=1: x + value * a * b,
    "addcdiv": lambda x, a, b, *, value=1: x + value * a / b,
    "heaviside": _heaviside,
    "max": lambda a, b: _larger("maximum", a, b),
    "min": lambda a, b: _larger("minimum", a, b),
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "clamp_max": lambda x, max: _clamp(x, max=max),
    "relu": lambda x: _clamp(x, min=0.0),
    "nan_to_num": _nan_to_num,
    "where": _where,
    "Tensor.where": lambda x, condition, other: _where(condition, x, other),
    "masked_fill": _masked_fill,
    "logical_and": _logical("and"),
    "logical_or": _logical("or"),
    "logical_xor": _logical("xor"),
    "logical_not": lambda a: ~_truth(a),
    "bitwise_and": lambda a, b: bits("and", a, b),
    "bitwise_or": lambda a, b: bits("or", a, b),
    "bitwise_xor": lambda a, b: bits("xor", a, b),
    "bitwise_not": lambda a: ~a,
    "bitwise_left_shift": lambda a, b: bits("shl", a, b),
    "bitwise_right_shift": lambda a, b: bits("shr", a, b),
    "isnan": lambda x: compare("ne", x, x),
    "isinf": lambda x: _infinite(x, math.inf, -math.inf),
    "isposinf": lambda x: _infinite(x, math.inf),
    "isneginf": lambda x: _infinite(x, -math.inf),
    "isfinite": lambda x: compare("lt", unary("abs", x), math.inf),
    "is_floating_point": lambda x: x.dtype.is_floating_point,
    "is_complex": lambda x: x.dtype.is_complex,
    "mean": _mean,
    "sum": _sum,
    "norm": _norm,
    "linalg_vector_norm": _norm,
    "zeros_like": _like(0.0),
    "ones_like": _like(1.0),
    "full_like": _full_like,
    "to": _to,
    "type": _type,
    "type_as": _type_as,
    "float": _cast_to("f32"),
    "double": _cast_to("f64"),
    "half": _cast_to("f16"),
    "bfloat16": _cast_to("bf16"),
    "bool": _truth,
    "view": _view,
    "clone": _same,
    "detach": _same,
    "contiguous": _same,
}
ALIASES = {
    "absolute": "abs",
    "negative": "neg",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "clip": "clamp",
    "fix": "trunc",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "not_equal": "ne",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "linalg_norm": "norm",
    "vector_norm": "norm",
}
FUNCTIONS |= {alias: FUNCTIONS[name] for alias, name in ALIASES.items()}
