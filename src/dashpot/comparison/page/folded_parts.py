"""Folded parts at the end of a page: recipes and their differences, protocol and environment."""

from __future__ import annotations

import html
from collections.abc import Iterable

from dashpot.comparison.page.recipe_changes import recipe_changes
from dashpot.comparison.page.view import Section, View, folded

COPY = '<button type="button" class="copy">copy</button>'


def folded_parts(view: View) -> Section | None:
    """Return the folded parts; None if the results contain none of them."""
    results = view.findings.results
    parts = [_recipes(view), _changes(view), _list("Protocol", results.protocol), _list("Environment", results.facts)]
    known = [part for part in parts if part]
    return Section("details", "Settings and environment", "\n".join(known)) if known else None


def command(text: str | None) -> str:
    """Return a command with a button that copies it."""
    return f"<pre>{COPY}<code>{html.escape(text)}</code></pre>" if text else ""


def _recipes(view: View) -> str:
    recipes = view.findings.results.recipes
    items = []
    for method in view.methods:
        if method.name in recipes:
            text = "\n".join(filter(None, recipes[method.name]))
            items.append(
                f'<h3 class="part">{view.named(method.name)}</h3>\n<pre>{COPY}<code>{html.escape(text)}</code></pre>'
            )
    return folded("Recipes", "\n".join(items)) if items else ""


def _changes(view: View) -> str:
    """Return the differences of all recipes from that of the best method."""
    recipes = view.findings.results.recipes
    names = [method.name for method in view.methods if method.name in recipes]
    if len(names) < 2:
        return ""
    best, *others = names
    items = []
    for name in others:
        phrases = recipe_changes(recipes[best][1], recipes[name][1])
        if phrases:
            listed = "".join(f"<li><code>{html.escape(phrase)}</code></li>" for phrase in phrases)
            items.append(f'<div class="part"><h3>{view.named(name)}</h3><ul>{listed}</ul></div>')
    return folded(f"Differences of the recipes from {best}", "\n".join(items)) if items else ""


def _list(title: str, rows: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows)
    return folded(title, f"<dl>{items}</dl>") if items else ""
