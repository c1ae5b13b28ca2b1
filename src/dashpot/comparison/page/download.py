"""Raw data of a page: a zip archive of CSV files, embedded in the page."""

from __future__ import annotations

import base64
import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence

from dashpot.comparison.findings import Findings
from dashpot.comparison.page.seed_curves import thin
from dashpot.comparison.results import Results
from dashpot.figures.tags import slug

MOST_ROWS = 12_000
"""Largest number of rows of the file of curves."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Date of the files, equal for equal results."""


def archive(findings: Sequence[Findings]) -> bytes:
    """Return a zip archive with the CSV files of one or several comparisons; equal findings result in equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for index, found in enumerate(findings):
            folder = f"{index + 1}-{slug(found.results.task)}/" if len(findings) > 1 else ""
            for name, rows in _files(found):
                if len(rows) > 1:
                    file.writestr(zipfile.ZipInfo(f"{folder}{name}.csv", EARLIEST), _csv(rows), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def link(findings: Sequence[Findings], name: str) -> str:
    """Return a link that saves the archive as a file."""
    data = archive(findings)
    text = base64.b64encode(data).decode()
    return (
        f'<p class="screen"><a class="download" download="{slug(name)}.zip" href="data:application/zip;base64,{text}">'
        f"Download the raw data (CSV files in a zip archive, {len(data) / 1000:.0f} kB)</a></p>"
    )


def _files(found: Findings) -> Iterator[tuple[str, list[Sequence[object]]]]:
    results = found.results
    yield "runs", [_RUNS, *(_row(run, _RUNS) for run in results.runs)]
    yield "curves", [("method", "seed", "curve", "step", "value"), *_curves(results)]
    yield "pairs", [_PAIRS, *_pairs(found)]
    names = list(dict.fromkeys(name for trial in results.trials for name in trial.values))
    head = ("method", "number", *names, "status", "score", "selected", "error")
    trials = (
        [t.method, t.number, *map(t.values.get, names), t.status, t.score, t.selected, t.error] for t in results.trials
    )
    yield "trials", [head, *trials]
    rates = ("method", "factor", "seed", "status", "score")
    yield "rates", [rates, *(_row(run, rates) for run in results.rate_runs)]


_RUNS = (
    *("method", "seed", "status", "score", "steps_to_target", "steps", "lr"),
    *("cpu_s", "wall_s", "memory_bytes", "state_bytes", "error"),
)
_PAIRS = ("better", "other", "difference", "low", "high", "p", "verdict", "more_seeds", "log_rank_p")


def _row(item: object, names: Iterable[str]) -> list[object]:
    return [getattr(item, name) for name in names]


def _pairs(found: Findings) -> Iterator[list[object]]:
    for pair in found.pairs:
        given = pair.difference
        yield [pair.better, pair.other, given.estimate, given.low, given.high, *_row(pair, _PAIRS[5:])]


def _curves(results: Results) -> Iterator[Sequence[object]]:
    curves = [(run, name, curve) for run in results.runs for name, curve in run.curves.items()]
    points = max(2, MOST_ROWS // max(1, len(curves)))
    for run, name, curve in curves:
        steps, values = thin(curve, points)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            yield run.method, run.seed, name, f"{step:.10g}", f"{value:.5g}"


def _csv(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()
