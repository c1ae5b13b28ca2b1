"""Generation of the C++ code of a kernel library: one struct per variant of a recipe, and the exported functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources

from dashpot.engine.native.loops import Array, Body, indented, phase
from dashpot.engine.native.passes import Pass, passes, reached
from dashpot.engine.native.symbols import Symbol
from dashpot.engine.native.trace import Trace
from dashpot.engine.scalars import CLIP_VALUE, SCALE

TYPES = {"f32": "float", "f64": "double", "number": "double", "bf16": "bf16", "f16": "_Float16"}
TYPES |= {"i32": "int32_t", "i16": "int16_t", "bool": "bool"}

# Columns of a table row, as in tables.h: element count, index of the scalar row, stream number, and addresses.
WEIGHT, GRADIENT, STEP, FIRST_SLOT = 3, 4, 5, 6

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_BITS = {"and": "&", "or": "|", "xor": "^"}
_OPERATORS = {**_INFIX, **_COMPARED, **_BITS}
_CALLS = {name: name for name in ("maximum", "minimum", "sign", "lerp")}
_MATHS = (
    "sqrt exp exp2 expm1 log log10 log1p log2 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc "
)
_MATHS += "floor ceil trunc pow atan2 hypot copysign fmod fmax fmin signbit"
_CALLS |= {name: f"maths::{name}" for name in ("abs", *_MATHS.split())}
_CALLS["round"] = "maths::nearbyint"  # rounds half to even, as in torch


def columns(slots: Sequence[str]) -> int:
    """Return the number of columns of a table with the given slots."""
    return FIRST_SLOT + len(slots)


def source(variants: Sequence[Trace], gradient: str, compute: str) -> str:
    """Return the source of a kernel library: `step_0`, `step_1`, ... for the variants, and `measure_gradients`."""
    headers = [_header("runtime.h"), _header("tables.h")]
    structs = [_struct(f"Variant{number}", trace) for number, trace in enumerate(variants)]
    width = columns(_slots(variants[0]))
    exports = [_STEP.format(number=number) for number in range(len(variants))]
    exports.append(_MEASURE.format(gradient=TYPES[gradient], compute=TYPES[compute], columns=width))
    return "\n".join([*headers, "namespace {", *structs, "}  // namespace", *exports])


def _header(name: str) -> str:
    return resources.files("dashpot.engine.native").joinpath(name).read_text(encoding="utf-8")


_STEP = """
extern "C" void step_{number}(int64_t rows, const int64_t* table, const double* scalars, int64_t threads) {{
  drive<Variant{number}>(rows, table, scalars, threads);
  advance(rows, table, Variant{number}::COLUMNS);
}}"""

_MEASURE = """
extern "C" void measure_gradients(int64_t rows, const int64_t* table, double* out, int64_t threads) {{
  measure<{gradient}, {compute}>(rows, table, {columns}, out, threads);
}}
"""

_STRUCT = """
struct {name} {{
  static constexpr int64_t COLUMNS = {columns}, SCALARS = {scalars};
  static constexpr int PHASES = {phases}, SUMS = {sums};

  static constexpr int sum_phase(int s) {{
    constexpr int when[] = {{{when}}};
    return when[s];
  }}
{functions}
  static inline void phase(int number, const int64_t* row, const double* c, const double* sums, int64_t lo, int64_t hi,
                           double* partial) {{
    switch (number) {{
{cases}
    }}
  }}

  static void finish(const int64_t* row, const double* c, const double* sums) {{
{finish}
  }}
}};"""


def _slots(trace: Trace) -> list[str]:
    return [key for key in trace.kinds if key not in ("w", "g")]


def _struct(name: str, trace: Trace) -> str:
    plan = passes(trace)
    sums = [s for work in plan for s in work.sums]
    writer = _Writer(trace, {id(s): number for number, s in enumerate(sums)})
    return _STRUCT.format(
        name=name,
        columns=columns(_slots(trace)),
        scalars=trace.scalars,
        phases=len(plan),
        sums=len(sums),
        when=", ".join(str(number) for number, work in enumerate(plan) for _ in work.sums) or "0",
        functions="".join(writer.phase(number, work) for number, work in enumerate(plan)),
        cases="\n".join(
            f"      case {number}: phase_{number}(row, c, sums, lo, hi, partial); break;" for number in range(len(plan))
        ),
        finish=writer.finish(),
    )


class _Writer:
    """Writer of the statements of one variant."""

    def __init__(self, trace: Trace, sums: Mapping[int, int]) -> None:
        self._kinds, self._per_tensor, self._sums = trace.kinds, trace.per_tensor, sums
        self._prepared = (f"c[{SCALE}]", f"c[{CLIP_VALUE}]") if trace.prepared else None
        self._columns = {"w": WEIGHT, "g": GRADIENT}
        self._columns |= {key: FIRST_SLOT + number for number, key in enumerate(_slots(trace))}
        self._names: dict[int, str] = {}
        self._draws: dict[int, int] = {}

    def phase(self, number: int, work: Pass) -> str:
        self._names = {}
        nodes = reached(work.roots())
        vectors = [s for s in nodes if s.vector]
        keys = dict.fromkeys([*(s.args[0] for s in vectors if s.op == "load"), *work.stores])
        arrays = [Array(self._columns[key], TYPES[self._kinds[key]], key in work.stores) for key in keys]
        before = [self._statement(s) for s in nodes if not s.vector]
        draws = [s for s in vectors if s.op == "dither"]
        self._draws = {id(s): n for n, s in enumerate(draws)}
        inside = [self._statement(s) for s in vectors]
        inside += [f"total{self._sums[id(s)]} += {self._name(s.args[0])};" for s in work.sums]
        inside += [f"e{self._columns[key]} = {self._name(s)};" for key, s in work.stores.items()]
        words = [(self._name(s.args[1]), self._name(s.args[2])) for s in draws]
        sums = [self._sums[id(s)] for s in work.sums]
        return phase(number, Body(arrays, before, inside, sums, words, GRADIENT, self._prepared))

    def finish(self) -> str:
        self._names = {}
        lines = [self._statement(s) for s in reached(self._per_tensor.values())]
        for key, value in self._per_tensor.items():
            kind = TYPES[self._kinds[key]]
            lines.append(f"*reinterpret_cast<{kind}*>(row[{self._columns[key]}]) = {self._name(value)};")
        return indented(lines, 4)

    def _name(self, symbol: Symbol) -> str:
        return self._names[id(symbol)]

    def _statement(self, symbol: Symbol) -> str:
        name = f"{'v' if symbol.vector else 'u'}{len(self._names)}"
        self._names[id(symbol)] = name
        return f"const {TYPES[symbol.kind]} {name} = {self._expression(symbol)};"

    def _expression(self, symbol: Symbol) -> str:
        if symbol.op in _LEAVES:
            return self._leaf(symbol)
        if symbol.op == "dither":
            return f"wrap(b{self._draws[id(symbol)]})"
        names = [self._name(argument) for argument in symbol.args]
        if symbol.kind == "i32" and symbol.op in _INFIX:  # signed overflow wraps in torch and is undefined in C++
            return f"wrap((uint32_t){names[0]} {_INFIX[symbol.op]} (uint32_t){names[1]})"
        if symbol.op in _OPERATORS:
            return f"{names[0]} {_OPERATORS[symbol.op]} {names[1]}"
        if symbol.op in _CALLS:
            return f"{_CALLS[symbol.op]}({', '.join(names)})"
        return _TEMPLATES[_form(symbol)].format(*names, kind=TYPES[symbol.kind])

    def _leaf(self, symbol: Symbol) -> str:
        kind = TYPES[symbol.kind]
        if symbol.op == "constant":
            return _literal(symbol.args[0])
        if symbol.op == "scalar":
            return f"c[{symbol.args[0]}]"
        if symbol.op == "load":
            return f"e{self._columns[symbol.args[0]]}"
        if symbol.op == "single":
            return f"*reinterpret_cast<const {kind}*>(row[{self._columns[symbol.args[0]]}])"
        if symbol.op == "sum":
            return f"sums[{self._sums[id(symbol)]}]"
        return _PLACES[symbol.op]


_PLACES = {
    "count": "static_cast<double>(row[0])",
    "ordinal": "wrap(row[2])",
    "index": "wrap((uint32_t)first + (uint32_t)i)",
}
_LEAVES = ("constant", "scalar", "load", "single", "sum", "count", "ordinal", "index")
_TEMPLATES = {
    "neg": "-{0}",
    "not": "!{0}",
    "flip": "~{0}",
    "shl": "wrap((uint32_t){0} << {1})",
    "shr": "{0} >> {1}",
    "cast": "cast<{kind}>({0})",
    "fill": "cast<{kind}>({0})",
    "bitcast": "bitcast<{kind}>({0})",
    "where": "{0} ? {1} : {2}",
    "clamp_min": "{0} < {1} || {1} != {1} ? {1} : {0}",
    "clamp_max": "{0} > {1} || {1} != {1} ? {1} : {0}",
    "clamp_min_by_number": "larger({0}, {1})",
    "clamp_max_by_number": "smaller({0}, {1})",
    "clamp_min_by_uniform": "larger({0} * unless_nan({1}), {1})",
    "clamp_max_by_uniform": "smaller({0} * unless_nan({1}), {1})",
    "stochastic": "stochastic({0}, {1})",
    "stochastic_of_any": "stochastic(quiet({0}), {1})",
    "high": "high({0})",
    "high_of_any": "high(quiet({0}))",
    "low": "low({0})",
    "rsqrt": "{kind}(1) / maths::sqrt({0})",
    "sigmoid": "{kind}(1) / ({kind}(1) + maths::exp(-{0}))",
}
_ARITHMETIC = ("add", "sub", "mul", "div", "sqrt")  # these never return a signaling nan


def _form(symbol: Symbol) -> str:
    """Return the template of an operation; some operations have a faster template for certain operands."""
    if symbol.op == "not" and symbol.kind == "i32":
        return "flip"
    if symbol.op in ("stochastic", "high") and symbol.args[0].op not in _ARITHMETIC:
        return f"{symbol.op}_of_any"
    if symbol.op in ("clamp_min", "clamp_max") and symbol.args[0].vector and not symbol.args[1].vector:
        return f"{symbol.op}_by_{'number' if _never_nan(symbol.args[1]) else 'uniform'}"
    return symbol.op


def _never_nan(bound: Symbol) -> bool:
    """Check for a constant or `clip_value`, which is never nan because it is validated when set."""
    while bound.op in ("cast", "neg"):
        bound = bound.args[0]
    if bound.op == "constant":
        return not math.isnan(bound.args[0])
    return bound.op == "scalar" and bound.args[0] == CLIP_VALUE


def _literal(value: float) -> str:
    if math.isinf(value):
        return "-__builtin_inf()" if value < 0 else "__builtin_inf()"
    return '__builtin_nan("")' if math.isnan(value) else repr(float(value))
