"""Optimizers as HTML for notebooks: the recipe, and a table of the parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.nn.parameter import is_lazy

from dashpot.errors import ArgumentError
from dashpot.recipes.notebook import pipeline
from dashpot.utils.format import counted, ranges
from dashpot.utils.html import element, escape, page_part, table
from dashpot.utils.scalars import typed_key

if TYPE_CHECKING:
    from dashpot.optimizers.base import Optimizer

_MOST_ROWS = 12


def optimizer_html(optimizer: Optimizer) -> str:
    """Return the class, options and recipe of an optimizer, and its groups; groups with equal settings share a row."""
    options = optimizer.options.text()
    done = optimizer.steps_done()
    head = element("b", escape(type(optimizer).__name__))
    head += escape(f"{f', {options}' if options else ''}, {counted(done, 'step')} done")
    parts = [element("div", head), pipeline(_recipe(optimizer, optimizer.param_groups[0]))]
    for name, schedule in optimizer.schedule.items():
        parts.append(element("div", f"{escape(name)} {schedule._repr_html_()}"))
    return page_part("".join([*parts, _groups(optimizer)]))


def _recipe(optimizer: Optimizer, group: Mapping[str, Any]) -> Any:
    try:
        return optimizer._recipe_with_schedules(group)
    except ArgumentError:  # a recipe cannot represent the schedule
        return optimizer._recipe_of(group)


def _groups(optimizer: Optimizer) -> str:
    rows: dict[Any, list[int]] = {}
    settings = [_settings(optimizer, group) for group in optimizer.param_groups]
    for index, own in enumerate(settings):
        rows.setdefault(tuple((name, typed_key(value)) for name, value in own.items()), []).append(index)
    firsts = [settings[members[0]] for members in rows.values()]
    varying = [name for name in firsts[0] if len({repr(own[name]) for own in firsts}) > 1 and name != "lr"]
    lines = [
        [
            ranges(members),
            *_sizes([optimizer.param_groups[i] for i in members]),
            f"{optimizer.current_lr(members[0]):.6g}",
            *(own[name] for name in varying),
        ]
        for members, own in zip(rows.values(), firsts, strict=True)
    ]
    more = f"{len(lines) - _MOST_ROWS} more rows" if len(lines) > _MOST_ROWS else ""
    return table(["group", "tensors", "elements", "current lr", *varying], lines[:_MOST_ROWS]) + escape(more)


def _settings(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    return {**optimizer._settings(group), "maximize": group.get("maximize", False)}


def _sizes(groups: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    params = [p for group in groups for p in group["params"]]
    lazy = sum(map(is_lazy, params))
    elements = str(sum(p.numel() for p in params if not is_lazy(p)))
    return len(params), f"{elements}, {lazy} uninitialized" if lazy else elements
