"""Page of an experiment: claims, verdict, measurements, figures and the command that repeats it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.experiments.intervals import verdict_of
from dashpot.experiments.result import Claim, Finding, Outcome
from dashpot.experiments.text import HEADER, finding_cells, limit_texts
from dashpot.names import EXPERIMENTS

if TYPE_CHECKING:
    from dashpot.figures import Page, Section


TABLE_STYLE = """<style>.findings td.text { white-space: nowrap; }
@media screen and (max-width: 40rem) {
.findings table, .findings thead, .findings tbody { display: block; width: 100%; }
.findings tr { display: grid; border-bottom: 1px solid var(--grid); }
.findings tr { grid-template-columns: minmax(0, 2fr) minmax(0, 1.2fr) minmax(0, 1fr); }
.findings tr > * { padding-left: 0; text-align: left; white-space: normal; border-bottom: none; }
.findings th:first-child { grid-column: 1 / -1; padding-bottom: 0; }
.findings thead th:first-child { display: none; }
}</style>"""
"""Style of measurements; on narrow screens, the quantity is above its numbers."""


def write_page(outcome: Outcome, path: str | Path, *, command: str | None = None) -> Path:
    """Write the page of an experiment as one HTML file, atomically; an existing file is replaced.

    Args:
        outcome: Result of `dashpot.experiments.run`.
        path: Path of the file; missing folders are created.
        command: Command shown on the page; None derives it from the name and the seeds.

    Returns:
        The path.

    Raises:
        ArgumentError: If matplotlib or jinja2 is not installed.
        RunError: If the file cannot be written.
    """
    from dashpot import figures

    return figures.write_page(page(outcome, command or command_of(outcome)), path)


def page(outcome: Outcome, command: str) -> Page:
    """Return the page of an outcome."""
    from dashpot.figures import Page

    lead = f"Verdict: {outcome.verdict}. {outcome.reason}"
    row = EXPERIMENTS.get(outcome.name)
    title = row.summary.rstrip(".") if row else "Experiment"
    return Page(title=title, lead=lead, command=command, sections=list(_sections(outcome)))


def command_of(outcome: Outcome) -> str:
    """Return the command that repeats the experiment.

    >>> command_of(Outcome((), (), "holds", "", settings={"seeds": [3, 4]}, name="paths"))
    'dashpot experiment paths --seeds 2 --seed 3'
    """
    seeds = outcome.settings["seeds"]
    return f"dashpot experiment {outcome.name} --seeds {len(seeds)} --seed {seeds[0]}"


def _sections(outcome: Outcome) -> Iterator[Section]:
    from dashpot.figures import Section

    for index, claim in enumerate(outcome.claims):
        name = f"Claim {index + 1}" if len(outcome.claims) > 1 else "Claim"
        found = [finding for finding in outcome.findings if finding.claim == index]
        title = f"{name}: {verdict_of(found)}" if found else name
        yield Section(
            title=title, html=_claim(claim, found, index), note=f"Source: {claim.source}.", key=f"claim-{index}"
        )
        for panel in outcome.panels:
            if panel.claim == index:
                yield Section(title=panel.title, figure=panel.draw(), note=panel.note, key=panel.key)
    yield Section(title="Settings and software", html=_settings(outcome.settings), key="settings")


def _claim(claim: Claim, found: Sequence[Finding], index: int) -> str:
    """Return a claim, its measurements and their limits."""
    from dashpot.figures import html_table

    text = TABLE_STYLE if index == 0 else ""
    text += f"<blockquote>{html.escape(claim.text)}</blockquote>"
    if not found:
        return text
    rows = ([cell.replace("± ", "±\u00a0") for cell in finding_cells(finding)] for finding in found)
    table = f'<div class="findings">{html_table(HEADER, rows)}</div>'
    items = "".join(f"<li>{html.escape(text)}</li>" for text in limit_texts(found))
    return text + table + (f"<p>Limits:</p><ul>{items}</ul>" if items else "")


def _settings(settings: Mapping[str, Any]) -> str:
    """Return settings, versions and machine as a list."""
    from dashpot.runs.environment import machine, versions

    rows = {**settings, **versions(), **machine()}
    items = (f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(_text(value))}</dd>" for name, value in rows.items())
    return f"<dl>{''.join(items)}</dl>"


def _text(value: Any) -> str:
    """Return a setting as text.

    >>> _text({"SGD": 0.1, "Adam": 0.01}), _text([1, 2]), _text(3)
    ('SGD: 0.1, Adam: 0.01', '1, 2', '3')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
