"""Parameter groups of an optimizer over a tiny model, from which its hyperparameters are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init
from torch.optim import Optimizer

from dashpot.runs.makers import accepts, is_dashpot, parameters


def probe(make: Callable[..., Any], options: Mapping[str, Any], lr: float = 1.0, **others: Any) -> Optimizer | None:
    """Return an optimizer over a tiny model; None if a class or factory that is not of dashpot rejects the model.

    Args:
        make: Optimizer class or factory.
        options: Its keyword arguments; those that it does not accept are omitted.
        lr: Learning rate.
        others: Further keyword arguments, such as a schedule.
    """
    given = {**{name: value for name, value in options.items() if accepts(make, name)}, "lr": lr, **others}
    if is_dashpot(make):
        return make([torch.zeros(1, requires_grad=True)], **given)
    model = _tiny_model()
    if "model" in parameters(make):
        given["model"] = model
    try:
        made = make(model.parameters() if "model" in given else [model[0].weight], **given)
    except Exception:  # such as of a factory for one architecture; the optimizer over the real model reports it
        return None
    return made if getattr(made, "param_groups", None) else None


def _tiny_model() -> nn.Sequential:
    """Return a model of two layers with weights of zero, without drawing random numbers."""
    model = nn.Sequential(skip_init(nn.Linear, 2, 2), skip_init(nn.Linear, 2, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model
