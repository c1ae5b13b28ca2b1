"""Entry of a comparison: an optimizer class or factory with a name, a learning rate, options and a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from dashpot.constraints import ARGUMENTS, check, shown
from dashpot.errors import ArgumentError
from dashpot.optimizers.param_groups import param_groups
from dashpot.runs.foreign_optimizer import make_checked
from dashpot.runs.makers import accepts, expression, parameters
from dashpot.runs.records import NAME
from dashpot.scheduling.dimension import Dimension

LOOP = ("max_norm", "clip_value", "nonfinite")
"""Options that the training loop applies if `make` does not accept them."""


@dataclass(frozen=True)
class Entry:
    """Named optimizer configuration of a comparison.

    Args:
        name: Name used for files and in charts. It may contain letters, digits, `-`, `_` and `.`, and must not start
            with `.`.
        make: Optimizer class or factory, called as `make(params, lr=lr, **options)`. If it has a parameter `model`, it
            also gets the model.
        lr: Base learning rate, at least 0.
        options: Additional keyword arguments of `make`. The training loop applies the options `max_norm`, `clip_value`
            and `nonfinite` if `make` does not accept them.
        schedule: Function from the total number of steps to a schedule or a mapping from hyperparameters to schedules.
            It is the keyword argument `schedule` of `make`, or else the training loop applies it to the parameter
            groups. None is a constant rate.
        schedule_name: Text from which `schedule` was made, such as "cosine:floor=0.1"; None for other functions.
        no_decay: Parameters without weight decay, as kinds and patterns of names for `dashpot.param_groups`.
        space: Own search space by argument, which replaces the table of `dashpot.runs.search_space`; empty for none.
        origin: Name of an optimizer of torch or of a file, as given by the user, for error messages; None for others.
        file_sha256: Checksum of the file that defines the optimizer; None for others.

    Raises:
        ArgumentError: If the name is invalid or `lr` is out of range.

    >>> import torch
    >>> adam = Entry("torch-adam", torch.optim.Adam, 1e-3, {"betas": (0.9, 0.99)})
    >>> adam.call(steps=100)
    'torch.optim.Adam(model.parameters(), lr=0.001, betas=(0.9, 0.99))'
    """

    name: str
    make: Callable[..., Optimizer]
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], Any] | None = None
    schedule_name: str | None = None
    no_decay: tuple[str, ...] = ()
    space: Mapping[str, Dimension] = field(default_factory=dict)
    origin: str | None = None
    file_sha256: str | None = None

    def __post_init__(self) -> None:
        if not NAME.allows(self.name):
            raise ArgumentError(
                f"Entry: name must consist of letters, digits, '-', '_' and '.', got {shown(self.name)}."
            )
        check(self.name, "lr", self.lr, ARGUMENTS["lr"])

    def arguments(self, steps: int) -> dict[str, Any]:
        """Return the keyword arguments of `make` for a run of `steps` steps."""
        in_loop = self.in_loop(steps)
        options = {name: value for name, value in self.options.items() if name not in in_loop}
        scheduled = {} if self.schedule is None or "schedule" in in_loop else {"schedule": self.schedule(steps)}
        return {"lr": self.lr, **options, **scheduled}

    def in_loop(self, steps: int) -> dict[str, Any]:
        """Return the settings that the training loop applies, because `make` does not accept them.

        >>> import torch
        >>> Entry("sgd", torch.optim.SGD, 0.1, {"momentum": 0.9, "max_norm": 1.0}).in_loop(steps=100)
        {'max_norm': 1.0}
        """
        scheduled = {} if self.schedule is None else {"schedule": self.schedule(steps)}
        given = {**scheduled, **{name: value for name, value in self.options.items() if name in LOOP}}
        return {name: value for name, value in given.items() if not accepts(self.make, name)}

    def optimizer(self, params: Iterable[Any], steps: int, model: nn.Module | None = None) -> Optimizer:
        """Create an optimizer over `params`, of `model`, for a run of `steps` steps."""
        given = self.arguments(steps)
        if "model" in parameters(self.make):
            given["model"] = model
        if self.origin is None:
            return self.make(params, **given)
        return make_checked(self.origin, self.make, params, given)

    def optimizer_of(self, model: nn.Module, steps: int) -> Optimizer:
        """Create an optimizer over the parameters of a model, in two groups if `no_decay` is given."""
        if not self.no_decay:
            return self.optimizer(model.parameters(), steps, model)
        return self.optimizer(param_groups(model, no_decay=self.no_decay, allow_tied=True), steps, model)

    def call(self, steps: int) -> str:
        """Return the expression that creates the optimizer over the parameters of `model`.

        A comment states the settings that the training loop applies.
        """
        groups = f"dashpot.param_groups(model, no_decay={self.no_decay!r}, allow_tied=True)"
        params = groups if self.no_decay else "model.parameters()"
        arguments = "".join(f", {key}={value!r}" for key, value in self.arguments(steps).items())
        arguments += ", model=model" if "model" in parameters(self.make) else ""
        in_loop = ", ".join(f"{key}={value!r}" for key, value in self.in_loop(steps).items())
        return f"{expression(self.make)}({params}{arguments}){f'  # in the loop: {in_loop}' if in_loop else ''}"


def has_decay(optimizer: Optimizer) -> bool:
    """Return whether a parameter group of an optimizer has a weight decay other than zero."""
    return any(group.get("weight_decay") for group in optimizer.param_groups)
