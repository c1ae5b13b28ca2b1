"""Options for the frequency and route of Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import TypedDict

from dashpot.constraints import ARGUMENTS, POSITIVE, Constraint, Optional, check, shown
from dashpot.curvature.probes import DISTRIBUTIONS
from dashpot.errors import ArgumentError
from dashpot.utils.scalars import read

Products = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence["Tensor | None"]]
"""User-defined function (parameters, probes) -> products H v, one for each parameter; None denotes zero."""

ROUTES = ("auto", "graph", "closure", "forward", "differences")


class ProbingOptions(TypedDict, total=False):
    """Keywords of second-order methods for the frequency and route of Hessian-vector products.

    Args:
        update_d_every: Integer >= 1: number of steps between products after the warm-up. The value is stored in the
            parameter groups; the value in the first group applies.
        d_warmup: Integer >= 1: number of initial steps that all compute a product. Stored like `update_d_every`.
        probe: Route by which products are computed. "auto": the first route that works, reported in `curvature_stats`;
            "graph": from gradients with a graph, as after `loss.backward(create_graph=True)`; "closure": double
            backward of the loss of a closure or of `opt.backward(loss)`; "forward": forward over reverse in a closure;
            "differences": central differences of two gradients of a closure, for sharded models and models without
            double backward. Alternatively, a callable that maps (parameters, probes) to products.
        distribution: Distribution of the probes: "rademacher", or "gaussian" (same mean, larger variance).
        relative_step: Distance by which the route "differences" moves the weights, divided by 1 + the norm of the
            weights; > 0. None selects the cube root of the roundoff.
        process_group: Ranks over which products of plain parameters are averaged, as under DDP. None selects the
            default group of torch.distributed, if initialized.
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
    """Resolved and validated `ProbingOptions`."""

    update_d_every: int = 10
    d_warmup: int = 20
    probe: str | Products = "auto"
    distribution: str = "rademacher"
    relative_step: float | None = None
    process_group: Any = None

    @staticmethod
    def of(owner: str, options: Mapping[str, Any]) -> Probing:
        """Create from keyword arguments; raise `ArgumentError` if a value is out of range."""
        probing = Probing(**{name: read(value) for name, value in options.items()})
        for name, allowed in _ALLOWED.items():
            check(owner, name, getattr(probing, name), allowed)
        if not callable(probing.probe) and probing.probe not in ROUTES:
            raise ArgumentError(
                f"{owner}: probe must be one of {', '.join(map(repr, ROUTES))}, or a callable, "
                f"got {shown(probing.probe)}."
            )
        return probing

    def due(self, done: int, last: int | None) -> bool:
        """Return True if the step after `done` completed steps computes a product.

        `last` is the value of `done` at the previous step with a product, or None.

        >>> last, steps = None, []
        >>> for k in range(50):
        ...     if Probing(update_d_every=10, d_warmup=20).due(k, last):
        ...         last = k
        ...         steps.append(k)
        >>> steps[18:]
        [18, 19, 29, 39, 49]
        """
        return done < self.d_warmup or done - (last or 0) >= self.update_d_every
