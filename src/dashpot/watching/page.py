"""Page of a watched run: sentences, curves with their predictions, tensors, cost and settings."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dashpot.analysis.wording import count, number, percent, unbroken
from dashpot.figures import Page, Section, html_table
from dashpot.watching.report_faults import false_alarms
from dashpot.watching.report_rows import finite, tensor_curves, value_at
from dashpot.watching.report_sentence import Sentence
from dashpot.watching.report_strips import strips
from dashpot.watching.series import WatchRecord
from dashpot.watching.watch_figures import GROUPS, available, row_of

if TYPE_CHECKING:
    from dashpot.watching.report import WatchReport

_STYLE = """<style>
.findings { padding-left: 1.4rem; max-width: 50rem; } .findings li { margin: 0 0 0.8rem; }
.findings small { display: block; color: var(--muted); font-size: 0.85rem; }
</style>"""
_WARNINGS = 20  # largest number of warnings on a page
_HIDDEN = ("optimizer", "model", "tensors", "batch", "adaptive")  # keys of the header that are shown elsewhere


def page_of(report: WatchReport, command: str = "") -> Page:
    """Return the page of a report."""
    return Page(_title(report.record.header), _lead(report), command, list(_sections(report)))


def _title(header: Mapping[str, Any]) -> str:
    model, optimizer = header.get("model"), header.get("optimizer", "an unknown optimizer")
    return f"{model} with {optimizer}" if model else f"Run of {optimizer}"


def _lead(report: WatchReport) -> str:
    header = report.record.header
    shapes = header.get("tensors", {})
    elements = sum(math.prod(shape) for shape in shapes.values() if shape is not None)  # lazy ones have no shape
    sizes = f"{number(elements, 15)} parameters in {count(len(shapes), 'tensor', digits=15)}"
    parts = [f"Step {number(report.step, 15)}", sizes]
    batch = finite(header.get("batch"))
    if batch is not None:
        parts.append(f"batches of {number(batch, 15)}")
    explanation = str(header.get("explain") or "").partition(". ")[0].rstrip(".")
    return unbroken(". ".join([", ".join(parts), *([explanation] if explanation else [])]) + ".")


def _sections(report: WatchReport) -> Iterator[Section]:
    record = report.record
    yield Section("Findings", _STYLE + _findings(report), key="findings")
    for title, panels in GROUPS.items():
        shown = available(record, panels)
        if shown:
            note = " ".join(panel.note for panel in shown)
            yield Section(title, figure=row_of(record, shown), note=note)
    yield from _tensors(record)
    yield from _warnings(record)
    gaps = [(panel.title, panel.missing(record)) for panels in GROUPS.values() for panel in panels]
    items = "".join(f"<li>{_text(f'{title}: {reason}')}</li>" for title, reason in gaps if reason is not None)
    if items:
        yield Section("Not measured", f"<ul>{items}</ul>")
    yield from _cost(record)
    yield Section("Settings", _settings(record.header))


def _findings(report: WatchReport) -> str:
    if not (report.sentences or report.more):
        return f"<p>{_text(report.summary())}</p>"
    shown = f'<ol class="findings">{"".join(map(_finding, report.sentences))}</ol>'
    shown += "".join(f"<p>{_text(remark)}</p>" for remark in report.remarks())
    if not report.more:
        return shown
    return f'{shown}<h3>Further findings</h3><ul class="findings">{"".join(map(_finding, report.more))}</ul>'


def _finding(sentence: Sentence) -> str:
    return _item(sentence.text, sentence.action, sentence.confidence)


def _item(text: str, action: str, confidence: str) -> str:
    """Return a list item; the arguments have no final period."""
    advice = f" {_text(action[:1].upper() + action[1:])}." if action else ""
    return f"<li><strong>{_text(text)}.</strong>{advice}<small>{_text(confidence)}</small></li>"


def _tensors(record: WatchRecord) -> Iterator[Section]:
    curves = tensor_curves(record, "norms", "ratio")
    if curves:
        note = "Norm of the update of one step over the norm of the weights."
        yield Section("Relative change of each tensor", strips(curves, "now"), note=note, key="tensors")


def _warnings(record: WatchRecord) -> Iterator[Section]:
    rows = record.rows("warning").rows
    if rows:
        items = "".join(map(_warning, reversed(rows[-_WARNINGS:])))
        note = f"The newest {_WARNINGS} of {len(rows)} warnings." if len(rows) > _WARNINGS else ""
        yield Section("Warnings", f'<ul class="findings">{items}</ul>', note=note)


def _warning(row: Mapping[str, Any]) -> str:
    text = f"Step {row['step']}: {str(row['text']).rstrip('.')}"
    return _item(text, str(row.get("advice") or "").rstrip("."), false_alarms(row))


def _cost(record: WatchRecord) -> Iterator[Section]:
    row = record.rows("cost").last
    if row is None:
        return
    shares = row.get("by_kind") or {}
    known = {kind: value for kind in shares if (value := value_at(shares, kind)) is not None}
    rows = [[kind, percent(share)] for kind, share in sorted(known.items(), key=lambda item: -item[1])]
    total = finite(row.get("share"))
    if total is not None:
        rows.append(["in all", percent(total)])
    note = f"Share of the time of the run without watching, until step {row['step']}."
    yield Section("Cost of measurements", html_table(["measurement", "share"], rows), note=note, key="cost")


def _settings(header: Mapping[str, Any]) -> str:
    rows = {key: value for key, value in header.items() if key not in _HIDDEN and value is not None}
    items = "".join(f"<dt>{html.escape(str(key))}</dt><dd>{_text(_shown(value))}</dd>" for key, value in rows.items())
    return f"<dl>{items}</dl>"


def _shown(value: Any) -> str:
    """Return a setting as text.

    >>> _shown({"lr": 0.1, "betas": [0.9, 0.999]}), _shown([{"lr": 0.1}, {"lr": 0.2}])
    ('lr: 0.1, betas: 0.9, 0.999', 'lr: 0.1; lr: 0.2')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(item, Mapping) for item in value)
        return ("; " if nested else ", ").join(map(_shown, value))
    return str(value)


def _text(text: str) -> str:
    """Return escaped text whose numbers are not broken, with names in backticks as code.

    >>> _text("pass `a<b`")
    'pass <code>a&lt;b</code>'
    """
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(unbroken(text)))
