"""C++ code of one phase, the implementation of a pass: statements before, inside and after the loop over a chunk.

The plain loop processes one element per iteration and is vectorized by the compiler. With stochastic rounding, the loop
is split into blocks, and the random bits of a block are generated before its elements are processed. If gradients are
scaled or clipped, the gradients of a block are also prepared before its elements are processed. If all arrays are
bfloat16, an iteration processes two adjacent elements as one 32-bit word, which avoids vectors of 16-bit numbers and
the instructions that pack and unpack such vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Array(NamedTuple):
    """An array in a table row: its column, its C++ type, and whether the phase writes to it."""

    column: int
    kind: str
    written: bool

    def pointer(self) -> str:
        kind = self.kind if self.written else f"const {self.kind}"
        return f"{kind}* __restrict__ a{self.column} = reinterpret_cast<{kind}*>(row[{self.column}]) + lo;"

    def words(self) -> str:
        kind = "word" if self.written else "const word"
        return f"{kind}* __restrict__ w{self.column} = reinterpret_cast<{kind}*>(a{self.column});"


class Body(NamedTuple):
    """The statements of a phase.

    Args:
        arrays: Arrays that the phase reads or writes.
        before: Statements that do not depend on the element, executed before the loop.
        inside: Statements for one element. `e3`, `e4`, ... are the values of the element by column, and `b0`, `b1`, ...
            are its random bits.
        sums: Numbers of the sums. The statements for an element add its terms to `total0`, `total1`, ...
        draws: For each set of random bits, the names of the two words from which the bits are computed.
        gradient: Column of the gradient.
        prepared: Expressions for the scale and the clip value if gradients are prepared in blocks, otherwise None.
    """

    arrays: Sequence[Array]
    before: Sequence[str]
    inside: Sequence[str]
    sums: Sequence[int]
    draws: Sequence[tuple[str, str]]
    gradient: int
    prepared: tuple[str, str] | None


_PHASE = """
  static void phase_{number}(const int64_t* row, const double* c, const double* sums, int64_t lo, int64_t hi,
                             double* partial) {{
{before}
    const int32_t first = wrap(lo), count = static_cast<int32_t>(hi - lo);  // a 32-bit counter keeps vectors short
{loop}
{after}
  }}"""

_PLAIN = """\
#pragma omp simd{reduction}
for (int32_t i = {start}; i < {end}; i++) {{
{element}
}}"""

_BLOCKS = """\
for (int32_t block = 0; block < count; block += {size}) {{
  const int32_t end = smaller(block + {size}, count);
{ahead}
{loop}
}}"""

_PAIRS = """\
const auto element = [&]({parameters}) __attribute__((always_inline)) {{
{inside}
}};
{words}
if (end % 2 != 0) {{
{last}
  element({arguments});
{stores}
}}"""

_WORDS = """\
#pragma omp simd{reduction}
for (int32_t k = block / 2; k < end / 2; k++) {{
{first}
{second}
  element({first_arguments});
  element({second_arguments});
{stores}
}}"""

_EITHER = """\
if (as_it_is({scale}, {limit})) {{
{plain}
}} else {{
{limited}
}}"""


def phase(number: int, body: Body) -> str:
    """Return the function `phase_<number>` of a variant."""
    body = body if any(a.column == body.gradient for a in body.arrays) else body._replace(prepared=None)
    before = [*(a.pointer() for a in body.arrays), *body.before, *(f"double total{s} = 0;" for s in body.sums)]
    if paired(body.arrays):
        before += [a.words() for a in body.arrays]
        loop = _blocks(body, _pairs(body), 2)
    elif body.draws or body.prepared:
        loop = _blocks(body, _plain(body, "block", "end"), 1)
    else:
        loop = _plain(body, "0", "count")
    after = [f"partial[{s}] = total{s};" for s in body.sums]
    return _PHASE.format(
        number=number, before=indented(before, 4), loop=indented(loop.splitlines(), 4), after=indented(after, 4)
    )


def paired(arrays: Sequence[Array]) -> bool:
    """Check whether the loop processes pairs of elements as one word."""
    return all(array.kind == "bf16" for array in arrays)


def _plain(body: Body, start: str, end: str) -> str:
    loads = [f"{a.kind} e{a.column} = {_element(body, a)};" for a in body.arrays]
    bits = [f"const uint32_t b{n} = bits{n}[i - block];" for n in range(len(body.draws))]
    stores = [f"a{a.column}[i] = e{a.column};" for a in body.arrays if a.written]
    element = indented([*loads, *bits, *body.inside, *stores], 2)
    return _PLAIN.format(reduction=_reduction(body), start=start, end=end, element=element)


def _element(body: Body, array: Array) -> str:
    return "g[i - block]" if body.prepared and array.column == body.gradient else f"a{array.column}[i]"


def _blocks(body: Body, loop: str, apart: int) -> str:
    ahead, size = [], "BLOCK"
    for n, (word, key) in enumerate(body.draws):
        ahead.append(f"uint32_t bits{n}[BLOCK];")
        ahead.append(f"dither<{apart}>(bits{n}, first + block, end - block, {word}, {key});")
    if body.prepared and apart == 1:
        kind = next(a.kind for a in body.arrays if a.column == body.gradient)
        scale, limit = body.prepared
        ahead.append(f"{kind} changed[BLOCK];")
        ahead.append(
            f"const {kind}* g = as_it_is({scale}, {limit}) ? a{body.gradient} + block"
            f" : prepared<{kind}>(changed, a{body.gradient} + block, end - block, {scale}, {limit});"
        )
        if not body.draws:
            size = f"(as_it_is({scale}, {limit}) ? count : BLOCK)"
    return _BLOCKS.format(size=size, ahead=indented(ahead, 2), loop=indented(loop.splitlines(), 2))


def _pairs(body: Body) -> str:
    parameters = [
        *(f"float e{a.column}" if _wide(body, a) else f"bf16& e{a.column}" for a in body.arrays),
        "int32_t i",
        *(f"uint32_t b{n}" for n in range(len(body.draws))),
        *(f"double& total{s}" for s in body.sums),
    ]
    words = _words(body, limited=False)
    if body.prepared:
        plain, limited = (indented(text.splitlines(), 2) for text in (words, _words(body, limited=True)))
        words = _EITHER.format(scale=body.prepared[0], limit=body.prepared[1], plain=plain, limited=limited)
    return _PAIRS.format(
        parameters=", ".join(parameters),
        inside=indented(body.inside, 2),
        words=words,
        last=indented([_number(body, a, "x", f"a{a.column}[end - 1]", limited=True) for a in body.arrays], 2),
        arguments=_arguments(body, "x", "end - 1", "(end - block) / 2"),
        stores=indented([f"a{a.column}[end - 1] = x{a.column};" for a in body.arrays if a.written], 2),
    )


def _words(body: Body, *, limited: bool) -> str:
    first = [_number(body, a, "x", f"even(w{a.column}[k])", limited=limited) for a in body.arrays]
    second = [_number(body, a, "y", f"odd(w{a.column}[k])", limited=limited) for a in body.arrays]
    stores = [f"w{a.column}[k] = both(x{a.column}, y{a.column});" for a in body.arrays if a.written]
    return _WORDS.format(
        reduction=_reduction(body),
        first=indented(first, 2),
        second=indented(second, 2),
        first_arguments=_arguments(body, "x", "2 * k", "k - block / 2"),
        second_arguments=_arguments(body, "y", "2 * k + 1", "k - block / 2 + BLOCK / 2"),
        stores=indented(stores, 2),
    )


def _wide(body: Body, array: Array) -> bool:
    """Check whether `array` is a gradient that is scaled and clipped when loaded."""
    return body.prepared is not None and array.column == body.gradient


def _number(body: Body, array: Array, name: str, value: str, *, limited: bool) -> str:
    if body.prepared is None or not _wide(body, array):
        return f"bf16 {name}{array.column} = {value};"
    value = f"cast<float>({value})"
    return f"const float {name}{array.column} = {_limited(body.prepared, value) if limited else value};"


def _limited(prepared: tuple[str, str], value: str) -> str:
    return f"limited({value}, cast<float>({prepared[0]}), cast<float>({prepared[1]}))"


def _arguments(body: Body, name: str, i: str, place: str) -> str:
    numbers = [f"{name}{a.column}" for a in body.arrays]
    bits = [f"bits{n}[{place}]" for n in range(len(body.draws))]
    return ", ".join([*numbers, i, *bits, *(f"total{s}" for s in body.sums)])


def _reduction(body: Body) -> str:
    return f" reduction(+ : {', '.join(f'total{s}' for s in body.sums)})" if body.sums else ""


def indented(lines: Iterable[str], by: int) -> str:
    """Indent lines of C++ by `by` spaces, except for pragmas."""
    return "\n".join(line if line.startswith("#") else " " * by + line for line in lines)
