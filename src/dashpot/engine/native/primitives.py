"""Implementations on symbols of the primitive operations in `dashpot.engine.rounding`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dashpot.engine.native.symbols import Symbol, UntraceableError


def _dither(index: Symbol, word: Symbol, key: Symbol) -> Symbol:
    return index.graph.node("dither", (index, word, key), "i32", vector=True)


def _stochastic(x: Symbol, noise: Symbol) -> Symbol:
    return x.graph.node("stochastic", (_f32("stochastic", x), noise), "bf16", vector=x.vector or noise.vector)


def _high_and_low(x: Symbol) -> tuple[Symbol, Symbol]:
    x = _f32("split", x)
    return x.graph.node("high", (x,), "bf16", vector=x.vector), x.graph.node("low", (x,), "bf16", vector=x.vector)


def _f32(op: str, x: Symbol) -> Symbol:
    if x.kind != "f32":
        raise UntraceableError(f"{op} of {x.kind}")
    return x


PRIMITIVES: dict[str, Callable[..., Any]] = {
    "dither": _dither,
    "stochastic": _stochastic,
    "high_and_low": _high_and_low,
}
