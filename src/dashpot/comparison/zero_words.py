"""Sentences on grids of zeros, computed from the final figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from dashpot.comparison.score_text import metric_text, names_text
from dashpot.comparison.zero_cells import STATUS, Cell, Grid
from dashpot.comparison.zero_findings import (
    BASELINE,
    Contrast,
    GridFindings,
    Overfitting,
    edge_cells,
    mean_of,
    overfitting,
)
from dashpot.runs.workload_names import NO_FILTER
from dashpot.stats import Interval
from dashpot.stats.verdicts import decimals, interval_text, number
from dashpot.utils.format import counted

KINDS = ("better", "worse", "equivalent", "undecided")
MOST_ZEROS = 8


def zero_text(zero: str) -> str:
    """Return a zero as text.

    >>> zero_text("0.47"), zero_text("0"), zero_text("none")
    ('.47', '0', 'no filter')
    """
    return "no filter" if zero == NO_FILTER else zero.replace("0.", ".", 1) if "0." in zero[:3] else zero


def rate_text(rate: float) -> str:
    """Return a learning rate as text.

    >>> rate_text(0.0316228), rate_text(3.0)
    ('.0316', '3')
    """
    text = f"{rate:.3g}"
    return text.removeprefix("0") if text.startswith("0.") else text


def numerator_text(numerator: int) -> str:
    """Return the name of a numerator.

    >>> numerator_text(0), numerator_text(1), numerator_text(3)
    ('constant', 'partial correlation', 'moment')
    """
    names = ("constant", "partial correlation", "partial correlation, Huber", "moment", "constant, Huber")
    return names[numerator]


def place_text(grid: Grid) -> str:
    """Return workload, tier and length of a grid as text."""
    facts = grid.facts
    return f"{grid.workload}, tier {grid.tier}: {facts['steps']} steps, {counted(len(facts['seeds']), 'seed')}"


def summary(findings: Sequence[GridFindings]) -> str:
    """Return where the numerators are better than the constant one, and where not, in a few sentences."""
    contrasts = [(found.grid.workload, item) for found in findings for item in found.contrasts]
    if not contrasts:
        return "There is no numerator to compare with the constant one."
    kinds = Counter(item.verdict.kind for _, item in contrasts)
    counts = ", ".join(f"{kind} in {kinds[kind]}" for kind in KINDS if kinds[kind])
    numerators = sorted({item.numerator for _, item in contrasts})
    what = names_text([f"numerator {numerator} ({numerator_text(numerator)})" for numerator in numerators])
    head = f"Compared with the constant numerator at the same zero, {what} is {counts} of {len(contrasts)} comparisons."
    decided = " ".join(
        f"{kind.capitalize()}: {'; '.join(_places(contrasts, kind))}." for kind in ("better", "worse") if kinds[kind]
    )
    return f"{head} {decided}".strip()


def _places(contrasts: Sequence[tuple[str, Contrast]], kind: str) -> Iterator[str]:
    """Return the zeros with a verdict, by workload."""
    for workload in dict.fromkeys(workload for workload, _ in contrasts):
        zeros = [item.zero for name, item in contrasts if name == workload and item.verdict.kind == kind]
        if zeros:
            yield f"{workload} at {_zeros(dict.fromkeys(zeros))}"


def sentences(found: GridFindings) -> list[str]:
    """Return the sentences on a workload: verdicts, selected zeros, overfitting, selected rates, and irregular runs."""
    return [
        *_verdicts(found),
        *_choices(found),
        *_overfitting(found.grid),
        *_rates(found.grid),
        *_irregular(found.grid),
    ]


def _verdicts(found: GridFindings) -> Iterator[str]:
    for numerator in found.grid.numerators:
        if numerator == BASELINE or not any(item.numerator == numerator for item in found.contrasts):
            continue
        parts = [f"{kind} at {_zeros(zeros)}" for kind in KINDS if (zeros := found.named(kind, numerator))]
        joint = "" if len(found.contrasts) == 1 else f", jointly for {len(found.contrasts)} differences"
        yield (
            f"Numerator {numerator} ({numerator_text(numerator)}) against the constant one at the same zero is "
            f"{', '.join(parts)} ({metric_text(found.rule)}, 95 % intervals{joint}{_margin(found)})."
        )


def _margin(found: GridFindings) -> str:
    margin = found.rule.margin
    return "" if margin is None else f", margin {number(margin, decimals(margin, 1))}"


def _choices(found: GridFindings) -> Iterator[str]:
    if len(found.choices) < 2:
        return
    parts = [f"{zero_text(item.zero)} for numerator {item.numerator}" for item in found.choices]
    text = f"Validation data select the zero {names_text(parts)}"
    difference = found.choice_difference
    if difference is None or not math.isfinite(difference.high):
        yield f"{text}."
        return
    first = next(item for item in found.choices if item.numerator != BASELINE)
    yield (
        f"{text}; with them, the {metric_text(found.rule)} of numerator {first.numerator} is "
        f"{'higher' if difference.estimate >= 0 else 'lower'} by {interval_text(_positive(difference))}."
    )


def _positive(interval: Interval) -> Interval:
    from dashpot.stats.interval import reverse

    return interval if interval.estimate >= 0 else reverse(interval)


def _overfitting(grid: Grid) -> Iterator[str]:
    found = [(cell, item) for cell in grid.cells if (item := overfitting(grid, cell)) is not None]
    if not found:
        return
    margin = grid.facts["margin"] or 0.0
    lost = sum(item.lost > margin for _, item in found)
    worst, most = max(found, key=lambda pair: pair[1].lost)
    metric = grid.facts["metric"]
    if most.lost <= 0:
        yield f"No overfitting: the last validation {metric} is the best of every run."
    else:
        yield (
            f"The last validation {metric} is worse than the best during the run by more than "
            f"{number(margin, decimals(margin, 1)) if margin else '0'} in {lost} of {counted(len(found), 'cell')}, at "
            f"most by {number(most.lost, decimals(most.lost))} ({_cell(worst)}, best at step {most.step:.0f} of "
            f"{grid.facts['steps']})."
        )
    yield _gaps(grid, found)
    yield from _earlier(grid)


def _gaps(grid: Grid, found: Sequence[tuple[Cell, Overfitting]]) -> str:
    """Return the mean difference of the loss on the judged data and the training loss of each numerator."""
    parts = []
    for numerator in grid.numerators:
        gaps = [item.gap for cell, item in found if cell.numerator == numerator]
        if gaps:
            mean = sum(gaps) / len(gaps)
            parts.append(f"{number(mean, decimals(abs(mean)))} for numerator {numerator}")
    split = str(grid.facts["split"]).capitalize()
    return f"{split} loss minus training loss at the end, mean over the zeros: {names_text(parts)}."


def _earlier(grid: Grid) -> Iterator[str]:
    """Compare the numerators by the best and by the last evaluations, since an advantage can be lost by overfitting."""
    for numerator in grid.numerators:
        pairs = [(grid.cell(numerator, zero), grid.cell(BASELINE, zero)) for zero in grid.zeros]
        leads = [lead for cell, base in pairs if cell and base and (lead := _leads(grid, cell, base)) is not None]
        if numerator != BASELINE and leads:
            first, last = (sum(lead[side] for lead in leads) for side in (0, 1))
            yield (
                f"On validation data, numerator {numerator} has the better mean at {first} of "
                f"{counted(len(leads), 'zero')} by the best evaluations of the runs, and at {last} by the last ones."
            )


def _leads(grid: Grid, cell: Cell, base: Cell) -> tuple[bool, bool] | None:
    """Return whether a cell is better than another by the best and by the last evaluations; None if unknown."""
    known = [mean_of(values) for values in (cell.best, base.best, cell.validation, base.validation)]
    if None in known:
        return None
    own, other, last, base_last = (grid.sign * value for value in known if value is not None)
    return own > other, last > base_last


def _rates(grid: Grid) -> Iterator[str]:
    rates = ", ".join(map(rate_text, grid.facts["rates"]))
    edges = edge_cells(grid)
    if not edges:
        yield f"No selected rate is at an edge of the shared rates {rates}."
        return
    counts = Counter((cell.numerator, edge) for cell, edge in edges)
    sizes = Counter(cell.numerator for cell in grid.cells)
    parts = [
        f"the {edge} for numerator {numerator} in {count} of {counted(sizes[numerator], 'cell')}"
        for (numerator, edge), count in sorted(counts.items())
    ]
    selected = names_text(parts, most=6)
    yield f"Of the shared rates {rates}, validation data select {selected}; rates beyond are not tried."


def _irregular(grid: Grid) -> Iterator[str]:
    counts = Counter(status for cell in grid.cells for status in cell.status)
    for status in STATUS:
        if status != "done" and counts[status]:
            cells = [cell for cell in grid.cells if status in cell.status]
            total = sum(counts.values())
            yield f"{counts[status]} of {counted(total, 'run')} {_verb(status)}: {names_text([*map(_cell, cells)])}."
    if len(grid.facts["seeds"]) == 1:
        yield "One seed allows no interval and no verdict."


def _verb(status: str) -> str:
    return {"diverged": "diverged and have the score of the untrained model", "unfinished": "have not ended"}.get(
        status, "failed"
    )


def _cell(cell: Cell) -> str:
    return f"numerator {cell.numerator}, zero {zero_text(cell.zero)}"


def _zeros(zeros: Sequence[str] | dict[str, None]) -> str:
    return names_text([zero_text(zero) for zero in zeros], most=MOST_ZEROS)
