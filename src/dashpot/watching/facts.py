"""Constant facts of a watched run: names of its tensors, settings and versions."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dashpot.analysis.explainer import explain
from dashpot.analysis.torch_counterpart import adopted
from dashpot.optimizers.state_dict.names import unwrapped
from dashpot.utils.scalars import is_number
from dashpot.watching.rates import RateView

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher


def tensor_names(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> dict[Tensor, str]:
    """Return the distinct names of all parameters: those in the model, in the groups, or their numbers.

    The names of wrappers, such as those of DDP and `torch.compile`, are removed.
    """
    known = {} if model is None else {p: name for name, p in model.named_parameters()}
    known = dict(zip(known, unwrapped(list(known.values())), strict=True))
    names: dict[Tensor, str] = {}
    used: set[str] = set()
    for group in optimizer.param_groups:
        own = group.get("param_names") or [None] * len(group["params"])
        for p, given in zip(group["params"], own, strict=True):
            name = known.get(p) or given or str(len(names))
            names[p] = name if name not in used else f"{name} ({len(names)})"
            used.add(names[p])
    return names


def header_of(watcher: Watcher) -> dict[str, Any]:
    """Return the header of a record."""
    optimizer, model = watcher.optimizer, watcher.model
    return {
        "optimizer": type(optimizer).__name__,
        "module": type(optimizer).__module__,
        "method": _method(optimizer),
        "explain": _explanation(optimizer),
        "adaptive": _is_adaptive(optimizer),
        "groups": [_settings(group) for group in optimizer.param_groups],
        "tensors": {name: None if is_lazy(p) else list(p.shape) for p, name in watcher.names.items()},
        "dtype": sorted({str(p.dtype).removeprefix("torch.") for p in watcher.names}),
        "device": sorted({p.device.type for p in watcher.names}),
        "model": None if model is None else type(model).__name__,
        "batch": None,
        "budget": watcher.budget.share,
        "steps": watcher.budget.steps,
        "ranks": watcher.ranks.world,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def _method(optimizer: torch.optim.Optimizer) -> str | None:
    """Return the recipe of the first group as text, or None for an unknown update rule."""
    try:
        view = adopted(optimizer)
        return None if view is None else repr(view.recipe)
    except Exception:  # settings without an equivalent, such as tensors
        return None


def _is_adaptive(optimizer: torch.optim.Optimizer) -> bool | None:
    """Return whether a group divides by a denominator, or None for an unknown update rule."""
    rates = RateView(optimizer)
    try:
        return None if rates.view is None else any(form.form.adaptive for _, form in rates.groups())
    except Exception:  # as above
        return None


def _explanation(optimizer: torch.optim.Optimizer) -> str | None:
    """Return the first line of the explanation of the present settings, or None for an unknown update rule."""
    try:
        return explain(optimizer).summary().partition("\n")[0]
    except Exception:  # as above
        return None


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group that JSON can represent."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names") and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, str)) or (is_number(value) and not isinstance(value, Tensor))
