"""Recipes and their differences as HTML for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashpot.recipes.shown_settings import plain, shown_settings
from dashpot.utils.html import LINE, element, escape, page_part, table

if TYPE_CHECKING:
    from dashpot.recipes.recipe import Diff, Recipe
    from dashpot.stages.base import Stage

_BOX = f"border:{LINE};border-radius:6px;padding:.3em .7em"
_FLOW = "display:flex;flex-wrap:wrap;align-items:center;gap:.4em;margin:.3em 0"
_ARROW = element("span", "&rarr;", "opacity:.6")


def recipe_html(recipe: Recipe) -> str:
    """Return the active stages from the gradient to the weight, and the schedules."""
    return page_part(pipeline(recipe) + _schedules(recipe))


def pipeline(recipe: Recipe) -> str:
    """Return the active stages as boxes between g and w; the tooltip of a box is the `repr` of its stage."""
    stages = [_stage(stage) for stage in recipe.active()]
    rate = _box("&times; lr", [("", plain(recipe.lr)), *_scheduled(recipe)], "Learning rate")
    parts = [element("i", "g"), *stages, rate, element("i", "w")]
    idle = [type(stage).__name__ for stage in recipe.stages if stage.is_noop()]
    note = f"Without effect: {', '.join(idle)}." if idle else ""
    return element("div", _ARROW.join(parts), _FLOW) + (element("div", escape(note), "opacity:.7") if note else "")


def _stage(stage: Stage) -> str:
    settings = [(name, value) for name, value in shown_settings(stage) if name != "slot"]
    return _box(escape(type(stage).__name__), settings, repr(stage))


def _scheduled(recipe: Recipe) -> list[tuple[str, Any]]:
    return [("schedule", type(item).__name__) for name, item in recipe.schedule if name == "lr"]


def _box(title: str, lines: list[tuple[str, Any]], tooltip: str) -> str:
    text = "".join(f"<br/>{escape(f'{name} {_short(value)}'.strip())}" for name, value in lines)
    return element("div", f"<b>{title}</b>{text}", _BOX, title=tooltip)


def _schedules(recipe: Recipe) -> str:
    return "".join(
        element("div", f"{escape(name)} {item._repr_html_()}", "margin:.3em 0") for name, item in recipe.schedule
    )


def _short(value: Any) -> str:
    """Return the text of a setting with at most four significant digits; the tooltip has all digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def diff_html(diff: Diff) -> str:
    """Return the differences as a table."""
    from dashpot.recipes.recipe import text_of_value

    if not diff.rows:
        return page_part(escape(repr(diff)))
    rows = [(name, text_of_value(a), text_of_value(b)) for name, a, b in diff.rows]
    return page_part(table(["setting", "first", "second"], rows))
