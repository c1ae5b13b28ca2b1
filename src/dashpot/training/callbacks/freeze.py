"""Frozen parameters: by name, and until an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from dashpot._torch_private import NormBase
from dashpot.constraints import Interval, OneOf, Optional, check
from dashpot.errors import ArgumentError
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.training.callback import Callback

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

EPOCH = Interval(0, math.inf, "left", integer=True)


class Freeze(Callback):
    """Freezing of parameters by name, for the whole fit or for some epochs.

    A frozen parameter does not change, not even by weight decay or momentum, and its gradient is None. In a single
    process, `requires_grad` is False while a parameter is frozen, which saves the computation of its gradient. In
    several processes, the gradient is computed, because DDP reduces a fixed set of gradients, and then discarded. At
    the end of the fit, `requires_grad` has its initial values. Optimizer state starts at the first step of a parameter.

    Use several callbacks for gradual unfreezing.

    Args:
        patterns: Patterns of parameter names such as "backbone.*"; `*` matches any characters. Every pattern must match
            a parameter.
        from_epoch: First epoch, counted from 0, in which the parameters are frozen; >= 0. In a fit with `steps`
            or `evaluate_every`, an epoch is an interval between two evaluations.
        until_epoch: First epoch in which the parameters are trained again, larger than `from_epoch`; None means never.
        batchnorm: Mode of batch-norm layers whose parameters are frozen: "train" uses the statistics of the batch
            and updates the running statistics, as without this callback; "eval" uses the running statistics and leaves
            them unchanged.

    Raises:
        ArgumentError: If an argument is out of range, or a pattern matches no parameter. With several processes, also
            if the optimizer is of second order, because Hessian-vector products would include frozen parameters.

    Example:
        >>> import dashpot as dp
        >>> from dashpot import tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), dp.AdamW, lr=0.01, engine=Engine("cpu"))
        >>> before = learner.model[0].weight.clone()
        >>> learner.fit(2, callbacks=[Freeze("0.*", "1.*", batchnorm="eval"), Freeze("3.*", until_epoch=1)])
        >>> bool((learner.model[0].weight == before).all())
        True
    """

    order: ClassVar[int] = -30  # before callbacks that use gradients

    def __init__(
        self, *patterns: str, from_epoch: int = 0, until_epoch: int | None = None, batchnorm: str = "train"
    ) -> None:
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise ArgumentError(f"Freeze: patterns must be one or more names of parameters, got {patterns!r}.")
        check("Freeze", "from_epoch", from_epoch, EPOCH)
        check("Freeze", "until_epoch", until_epoch, Optional(Interval(from_epoch, math.inf, integer=True)))
        check("Freeze", "batchnorm", batchnorm, OneOf(("train", "eval")))
        self.patterns, self.from_epoch, self.until_epoch, self.batchnorm = patterns, from_epoch, until_epoch, batchnorm
        self._params: dict[str, nn.Parameter] = {}
        self._trained: set[str] = set()

    def settings(self) -> dict[str, Any]:
        return {
            "patterns": ", ".join(self.patterns),
            "from_epoch": self.from_epoch,
            "until_epoch": self.until_epoch,
            "batchnorm": self.batchnorm,
        }

    def before_fit(self, learner: Learner) -> None:
        if learner.engine.world_size > 1 and isinstance(learner.opt, SecondOrder):
            raise ArgumentError(
                "Freeze: with several processes, the optimizer must be of first order, got "
                f"{type(learner.opt).__name__}; its Hessian-vector products would include frozen parameters."
            )
        self._params = matching_params(learner.model, self.patterns)
        self._trained = {name for name, p in self._params.items() if p.requires_grad}

    def before_epoch(self, learner: Learner) -> None:
        if not learner.training:
            return
        frozen = frozen_params(learner)
        for name, p in self._params.items():
            if id(p) in frozen:
                p.grad = None
            if name in self._trained:
                p.requires_grad_(id(p) not in frozen or learner.engine.world_size > 1)
        if self.batchnorm == "eval" and self.is_active(learner.epoch):
            for module in learner.model.modules():
                own = list(module.parameters(recurse=False))
                if isinstance(module, NormBase) and own and all(id(p) in frozen for p in own):
                    module.eval()

    def after_backward(self, learner: Learner) -> None:
        """Discard the gradients of frozen parameters, which exist only with several processes."""
        if learner.engine.world_size > 1 and self.is_active(learner.epoch):
            for p in self._params.values():
                p.grad = None

    def cleanup_fit(self, learner: Learner) -> None:
        for name, p in self._params.items():
            p.requires_grad_(p.requires_grad or name in self._trained)

    @property
    def frozen(self) -> list[nn.Parameter]:
        """Parameters that this callback has frozen."""
        return [self._params[name] for name in self._trained if not self._params[name].requires_grad]

    def is_active(self, epoch: int) -> bool:
        """Return whether the parameters are frozen in an epoch."""
        return self.from_epoch <= epoch and (self.until_epoch is None or epoch < self.until_epoch)


def matching_params(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters whose names match one of the patterns.

    Raises:
        ArgumentError: If a pattern matches no parameter.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            is_module = any(name.startswith(f"{pattern}.") for name in named)
            known = ", ".join(islice(named, 4)) + (", ..." if len(named) > 4 else "")
            hint = f"; did you mean '{pattern}.*'?" if is_module else f"; the parameters are {known}."
            raise ArgumentError(f"Freeze: patterns must match a parameter, got {pattern!r}{hint}")
    return {name: p for name, p in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def frozen_params(learner: Learner) -> set[int]:
    """Return the ids of the parameters that any `Freeze` of the fit freezes in the current epoch."""
    callbacks = [callback for callback in learner.loop.callbacks if isinstance(callback, Freeze)]
    active = [callback for callback in callbacks if callback.is_active(learner.epoch)]
    return {id(p) for callback in active for p in callback._params.values()}
