"""Differences between recipes, read from their text without evaluating it."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def recipe_changes(first: str, second: str) -> list[str]:
    """Return one phrase for each setting that differs between the texts of two recipes.

    >>> recipe_changes("Recipe(Filter(pole=0.9), lr=0.1)", "Recipe(Filter(pole=0.95), SecondMoment(), lr=0.1)")
    ['Filter.pole: 0.9 → 0.95', 'with SecondMoment']
    >>> recipe_changes("not a recipe (", "Recipe(lr=0.1)")
    []
    """
    try:
        before, after = (dict(_settings(ast.parse(text.strip(), mode="eval").body)) for text in (first, second))
    except (SyntaxError, RecursionError, ValueError):
        return []
    phrases = []
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if old == new or _below_missing(key, before, after):
            continue
        if key in before and key in after:
            phrases.append(f"{key}: {old} → {new}")
        elif key in after:
            phrases.append(f"with {key}" + (f"={new}" if new else ""))
        else:
            phrases.append(f"without {key}" + (f"={old}" if old else ""))
    return phrases


def _below_missing(key: str, before: dict[str, str], after: dict[str, str]) -> bool:
    """Return whether a setting belongs to a stage that only one of the recipes has."""
    owner = key.rpartition(".")[0]
    return bool(owner) and (owner in before) != (owner in after)


def _settings(node: ast.expr, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names of all nested calls with an empty text, and of all other arguments with their text.

    Nothing is yielded for other expressions.
    """
    if not isinstance(node, ast.Call):
        return
    counts: dict[str, int] = {}
    named = [("", argument) for argument in node.args] + [(item.arg or "**", item.value) for item in node.keywords]
    for position, (name, value) in enumerate(named):
        label = name
        if isinstance(value, ast.Call):
            kind = ast.unparse(value.func)
            label = f"{name}={kind}" if name else kind
            counts[label] = counts.get(label, 0) + 1
            label += f" {counts[label]}" if counts[label] > 1 else ""
        label = f"{path}.{label or position}" if path else label or str(position)
        if isinstance(value, ast.Call):
            yield label, ""
            yield from _settings(value, label)
        else:
            yield label, ast.unparse(value)
