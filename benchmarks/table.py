"""Measurements as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import memory
from cases import GROUPS, LARGE, MANY, MIDDLE, NETWORK, TEN, TRANSFORMER
from first_step import AUTOSGM, COLD, TORCH, WARM, First
from timing import Row

_SHORT = {
    LARGE: "",
    MANY: "1000 small tensors: ",
    NETWORK: "18 small tensors: ",
    TRANSFORMER: "2-layer transformer: ",
    TEN: "10 small tensors: ",
    MIDDLE: "300 small tensors: ",
    GROUPS: "2000 groups: ",
}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table with right-aligned columns after the first `left` ones."""
    lines = [heads, [*[":--"] * left, *["--:"] * (len(heads) - left)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(value: float, must: float | None, aim: float | None) -> str:
    """Return the name of the stricter limit that a value satisfies."""
    if must is None or aim is None:
        return ""
    return "aim" if value <= aim else "must" if value <= must else "**missed**"


def steps(rows: Sequence[Row], threads: int, copy: float, add: float, *, targets: bool) -> str:
    """Return the table for a number of threads; `copy` and `add` are bandwidths in bytes per second."""
    heads = ["case", "against", *(["must", "aim"] if targets else []), "ratio", "quartiles"]
    heads += [*(["verdict"] if targets else []), "ms", "theirs, ms", "bytes/param", "GB/s", "of copy_", "of add_"]
    return table(heads, (_step(row, threads, (copy, add), targets) for row in rows))


def _step(row: Row, threads: int, bandwidths: tuple[float, float], targets: bool) -> list[str]:
    case, ratio = row.case, row.ratios[threads]
    limits = [_figure(case.must, "{:.2f}"), _figure(case.aim, "{:.2f}")] if targets else []
    judged = [verdict(ratio.value, case.must, case.aim)] if targets else []
    rate = row.moved / ratio.ours if row.moved and case.tensors == LARGE else None  # smaller tensors fit in the caches
    return [
        _SHORT[case.tensors] + case.title(),
        case.against,
        *limits,
        f"{ratio.value:.2f}",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        *judged,
        f"{ratio.ours * 1e3:.3g}",
        f"{ratio.theirs * 1e3:.3g}",
        _figure(row.moved and row.moved / row.elements, "{:.0f}"),
        _figure(rate and rate / 1e9, "{:.1f}"),
        *(_figure(rate and rate / bandwidth, "{:.0%}") for bandwidth in bandwidths),
    ]


def memories(found: Mapping[str, float]) -> str:
    """Return the table of temporary memory in MiB by subject."""
    limit = memory.ONE_LARGE_TENSOR
    return table(
        ["extra memory during a step", "must, MiB", "aim, MiB", "MiB", "verdict"],
        (
            [
                name,
                *((f"{limit:.0f}", "0") if _is_ours(name) else ("", "")),
                f"{size:.1f}",
                verdict(size, limit, 0.1) if _is_ours(name) else "",  # 0.1 MiB: page counters are approximate
            ]
            for name, size in found.items()
        ),
    )


def firsts(found: Mapping[str, First]) -> str:
    """Return the table of first steps by subject; the limits are those of AdamW."""
    rows = []
    for name, first in found.items():
        judged = name not in {AUTOSGM, TORCH}
        for what, seconds, limits in (
            ("empty cache, elapsed", first.cold, COLD),
            ("filled cache, CPU", first.warm, WARM),
        ):
            if seconds is not None:
                figures = [_figure(limit * 1e3 if judged else None, "{:.0f}") for limit in limits]
                mark = verdict(seconds, *limits) if judged else ""
                rows.append([f"{name}, {what}", *figures, f"{seconds * 1e3:.0f}", mark])
    imported = [first.imported for name, first in found.items() if name != TORCH]
    rows.append(["`import dashpot` after torch, elapsed", "", "", f"{median(imported) * 1e3:.0f}", ""])
    return table(["first step", "must, ms", "aim, ms", "ms", "verdict"], rows)


def _is_ours(name: str) -> bool:
    return name.startswith("dashpot")


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
