"""Assembly of the page of one or several comparisons."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from dashpot.comparison.findings import Findings
from dashpot.comparison.page.cost import cost
from dashpot.comparison.page.download import link
from dashpot.comparison.page.folded_parts import command, folded_parts
from dashpot.comparison.page.pairs import pairs
from dashpot.comparison.page.profile import lead, overview
from dashpot.comparison.page.ranking import ranking
from dashpot.comparison.page.sensitivity import sensitivity
from dashpot.comparison.page.target import target
from dashpot.comparison.page.training import training
from dashpot.comparison.page.tuning import tuning
from dashpot.comparison.page.view import Section, View, prose
from dashpot.errors import ArgumentError
from dashpot.figures.method_styles import styles_for
from dashpot.figures.page import render_template
from dashpot.figures.saving import write_file
from dashpot.utils.format import counted


def write_page(findings: Sequence[Findings], path: Path) -> Path:
    """Write the page of one or several comparisons as one HTML file, atomically; an existing file is replaced.

    Args:
        findings: Findings of comparisons on different tasks, at least one.
        path: Path of the file.

    Returns:
        The path.

    Raises:
        ArgumentError: If `findings` is empty, or jinja2 is not installed.
        RunError: If the file cannot be written.
    """
    return write_file(Path(path), render_page(findings).encode())


def render_page(findings: Sequence[Findings]) -> str:
    """Return the page of one or several comparisons as HTML that loads nothing; equal findings result in equal text.

    Raises:
        ArgumentError: If `findings` is empty, or jinja2 is not installed.
    """
    if not findings:
        raise ArgumentError("render_page: findings must contain at least one Findings, got none.")
    names = dict.fromkeys(method.name for found in findings for method in found.methods)
    styles = styles_for(names)
    several = len(findings) > 1
    views = [View(found, styles, f"t{index + 1}-" if several else "") for index, found in enumerate(findings)]
    first = findings[0].results
    title = f"{counted(len(findings), 'task')}" if several else first.task
    commands = "\n".join(filter(None, (command(found.results.command) for found in findings)))
    return render_template(
        "dashpot.comparison.page",
        "comparison.html.jinja",
        title=f"{title}: {counted(len(names), 'method')} compared"
        if len(names) > 1
        else f"{title}: {next(iter(names))}",
        lead=lead(views) if several else prose(findings[0].headline),
        overview=_section("", overview(views), "h2") if several else "",
        tasks=[_task(view, heading=several) for view in views],
        command=commands,
        download=link(findings, f"dashpot-{title}"),
    )


def _task(view: View, *, heading: bool) -> dict[str, object]:
    """Return the parts of a task for the template."""
    found = view.findings
    return {
        "key": view.prefix,
        "title": found.results.task if heading else "",
        "headline": prose(found.headline),
        "description": found.results.description.rstrip("."),
        "sections": [_section(view.prefix, section, "h3" if heading else "h2") for section in _sections(view)],
    }


def _sections(view: View) -> Iterator[Section]:
    yield ranking(view)
    yield from training(view)
    for make in (pairs, target, tuning, sensitivity, cost, folded_parts):
        section = make(view)
        if section is not None:
            yield section


def _section(prefix: str, section: Section, level: str) -> str:
    key = html.escape(f"{prefix}{section.key}")
    return (
        f'<section aria-labelledby="{key}-heading">\n'
        f'<{level} id="{key}-heading">{html.escape(section.title)}</{level}>\n'
        f"{section.html}\n</section>"
    )
