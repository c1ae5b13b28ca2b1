"""When and how a second-order method takes Hessian-vector products: its settings beside the update rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import TypedDict

from dashpot.constraints import ARGUMENTS, POSITIVE, Constraint, Optional, check, shown
from dashpot.curvature.probes import DISTRIBUTIONS
from dashpot.errors import ArgumentError
from dashpot.utils.scalars import read

__all__ = ["ROUTES", "Probing", "ProbingOptions", "Products"]

Products = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence["Tensor | None"]]
"""A user's own products: (parameters, probes) -> H v for each; None stands for zero."""

ROUTES = ("auto", "graph", "closure", "forward", "differences")


class ProbingOptions(TypedDict, total=False):
    """Keywords of every second-order method that say when and how it takes Hessian-vector products.

    Args:
        update_d_every, d_warmup: Integers >= 1: a product is taken in each of the first `d_warmup` steps, then whenever
            `update_d_every` steps have passed since the last one. Kept in the parameter groups; those of the first
            group are in force.
        probe: The route to a product. "auto" takes the first that works; `curvature_stats` says which. "graph": the
            gradients carry a graph, as after `loss.backward(create_graph=True)`. "closure": a second backward pass
            through the loss of a closure or of `opt.backward(loss)`. "forward": derivatives forward over reverse, of a
            closure. "differences": central differences of two ordinary gradients of a closure, for models without
            double backward and for sharded ones. Or a callable, (parameters, probes) -> products, for what is known
            otherwise.
        distribution: Of the probes: "rademacher" or "gaussian" (the same mean, a larger variance).
        relative_step: Positive, or None: of "differences", the length of the step over 1 + the norm of the weights.
            None is the cube root of the roundoff of the arithmetic.
        process_group: The processes that products are averaged over where parameters are plain tensors, as under DDP;
            None is the default group of torch.distributed, if there is one.
    """

    update_d_every: int
    d_warmup: int
    probe: str | Products
    distribution: str
    relative_step: float | None
    process_group: Any


_ALLOWED: Mapping[str, Constraint] = {
    "update_d_every": ARGUMENTS["update_d_every"],
    "d_warmup": ARGUMENTS["d_warmup"],
    "distribution": DISTRIBUTIONS,
    "relative_step": Optional(POSITIVE),
}


class Probing(NamedTuple):
    """`ProbingOptions`, complete and checked."""

    update_d_every: int = 10
    d_warmup: int = 20
    probe: str | Products = "auto"
    distribution: str = "rademacher"
    relative_step: float | None = None
    process_group: Any = None

    @staticmethod
    def of(owner: str, options: Mapping[str, Any]) -> Probing:
        """From keywords; `ArgumentError` for a value out of range."""
        probing = Probing(**{name: read(value) for name, value in options.items()})
        for name, allowed in _ALLOWED.items():
            check(owner, name, getattr(probing, name), allowed)
        if not callable(probing.probe) and probing.probe not in ROUTES:
            raise ArgumentError(
                f"{owner}: probe must be one of {', '.join(map(repr, ROUTES))}, or a function, "
                f"got {shown(probing.probe)}."
            )
        return probing

    def due(self, done: int, last: int | None) -> bool:
        """True where the step after `done` steps is to have a product; `last` is `done` of the last step that had one.

        >>> last, steps = None, []
        >>> for k in range(50):
        ...     if Probing(update_d_every=10, d_warmup=20).due(k, last):
        ...         last = k
        ...         steps.append(k)
        >>> steps[18:]
        [18, 19, 29, 39, 49]
        """
        return done < self.d_warmup or done - (last or 0) >= self.update_d_every
