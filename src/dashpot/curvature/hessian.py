"""The Hessian of a closure's loss as a linear operator, optionally scaled by elementwise rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dashpot.constraints import OneOf, check
from dashpot.curvature.accumulated import AccumulatedProducts
from dashpot.curvature.backward_capture import evaluate
from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.hvp import HvpComputer
from dashpot.curvature.hvp_options import Probing
from dashpot.curvature.local_ranks import side_evaluation
from dashpot.curvature.state_guards import RngSnapshot, disable_hooks, preserve_gradients
from dashpot.curvature.unsupported import reject_once_differentiable, reject_reentrant_checkpoint, reject_sparse
from dashpot.engine.dtensor import is_dtensor
from dashpot.errors import CurvatureError

_ROUTES = OneOf(("auto", "graph", "differences"))
_EXACT_SIZE = 2**20
"""Largest number of weights whose vectors are stored in float64."""

MaybeTensors = Sequence["Tensor | None"]


class Hessian:
    """Symmetric operator S (H + diag(shift)) S on flat vectors, with S = sqrt(diag(rates)). Created by `hessian`.

    Attributes:
        params: Parameters of the operator.
        size: Number of rows.
        dtype: Dtype of the vectors: float64 up to 2^20 rows, float32 above.
        device: Device of the vectors.
        route: "graph" for second derivatives, "differences" for central differences of gradients.
        reason: Reason why the route is "differences", or None.
        random: Random states at the start.
        loss: Loss of the evaluation; None if the route is "differences".
        products: Number of computed products.
    """

    def __init__(
        self, closure: Callable[[], Any], params: Sequence[Tensor], rates: Any, shifts: Any, route: str
    ) -> None:
        _check_params(params)
        self.params, self.size = list(params), sum(p.numel() for p in params)
        self.dtype = torch.float64 if self.size <= _EXACT_SIZE else torch.float32
        self.device = params[0].device
        self.route, self.reason, self.loss, self.products = "graph", None, None, 0
        self.random = RngSnapshot(self.params)
        self._closure, self._may_fall_back = closure, route == "auto"
        self._roots = None if rates is None else self._flat(rates, sqrt=True)
        self._shift = None if shifts is None else self._flat(shifts, sqrt=False)
        self._grads: list[Tensor | None] | None = None
        if route == "differences":
            self._fall_back("requested")

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a flat vector.

        Raises:
            CurvatureError: If the product cannot be computed or is not finite.
        """
        moved = vector if self._roots is None else self._roots * vector
        found = self._joined(self._products(self.split(moved)))
        found = found if self._shift is None else found + self._shift * moved
        found = found if self._roots is None else self._roots * found
        self.products += 1
        if not bool(found.isfinite().all()):
            raise CurvatureError("Hessian: the products are not finite.")
        return found

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the pieces of a flat vector, with the shapes and dtypes of the parameters."""
        pieces = vector.split([p.numel() for p in self.params])
        return [piece.view(p.shape).to(p.device, p.dtype) for p, piece in zip(self.params, pieces, strict=True)]

    # ---- products ---------------------------------------------------------------------------------------------------

    def _products(self, vectors: list[Tensor]) -> MaybeTensors:
        if self._grads is None:
            return self._differences(vectors)
        try:
            with disable_hooks(self.params), sdpa_kernel(SDPBackend.MATH):
                return product_of_gradients(self._grads, self.params, vectors, retain_graph=True)
        except CurvatureError as error:
            if not self._may_fall_back or self.products:
                raise
            self._fall_back(_first_clause(error))
            return self._differences(vectors)

    def _differences(self, vectors: list[Tensor]) -> MaybeTensors:
        largest = max(float(v.abs().max()) for v in vectors if v.numel())
        if largest == 0:
            return [None] * len(vectors)
        self.random.restore()  # the same dropout mask in every product
        pending, computer = AccumulatedProducts(), HvpComputer("Hessian", Probing(probe="differences"))
        computer.without_gradients(self._closure, pending, self.params, [v / largest for v in vectors])
        return [pending.held[p] * largest if p in pending.held else None for p in self.params]

    def _fall_back(self, reason: str) -> None:
        self.route, self.reason, self._grads = "differences", reason, None

    def evaluate(self) -> None:
        """Evaluate the closure once and keep the graph of its gradients."""
        try:
            self._grads = self._graph()
        except CurvatureError as error:
            if not self._may_fall_back:
                raise
            self._fall_back(_first_clause(error))

    def _graph(self) -> list[Tensor | None]:
        total: list[Tensor | None] = [None] * len(self.params)

        def backward(loss: Tensor, call: dict[str, Any]) -> None:
            reject_once_differentiable([loss])
            reject_reentrant_checkpoint(loss)
            with disable_hooks(self.params):
                grads = differentiable_gradients(loss, self.params, call.get("gradient"))
            reject_sparse(grads)
            total[:] = [b if a is None else a if b is None else a + b for a, b in zip(total, grads, strict=True)]

        found = evaluate(self._closure, backward, may_return=True)
        self.loss = float(found.loss.detach() if isinstance(found.loss, Tensor) else found.loss)
        return total

    # ---- flat vectors -----------------------------------------------------------------------------------------------

    def _joined(self, pieces: MaybeTensors) -> Tensor:
        pairs = zip(self.params, pieces, strict=True)
        flat = [torch.zeros(p.numel(), dtype=self.dtype) if x is None else x.detach().reshape(-1) for p, x in pairs]
        return torch.cat([x.to(self.device, self.dtype) for x in flat])

    def _flat(self, values: Sequence[Tensor | float], *, sqrt: bool) -> Tensor:
        """Expand numbers and tensors to one flat vector, and take the root if requested."""
        pairs = zip(self.params, values, strict=True)
        made = [torch.as_tensor(x, dtype=self.dtype, device=self.device).detach().expand(p.shape) for p, x in pairs]
        flat = torch.cat([x.reshape(-1) for x in made])
        if not bool(flat.isfinite().all()) or (sqrt and bool((flat < 0).any())):
            raise CurvatureError("Hessian: rates and shifts must be finite, and rates >= 0.")
        return flat.sqrt() if sqrt else flat


@contextmanager
def hessian(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    *,
    rates: Sequence[Tensor | float] | None = None,
    shifts: Sequence[Tensor | float] | None = None,
    route: str = "auto",
) -> Iterator[Hessian]:
    """Provide the Hessian H of a closure's loss as a linear operator, within the context.

    The operator is diag(rates)^(1/2) (H + diag(shifts)) diag(rates)^(1/2). Its eigenvalues are those of
    diag(rates) (H + diag(shifts)), the products of rate and curvature that determine the stability of a method.

    The closure is evaluated once, and its graph is retained in the context, with any layers: attention uses kernels
    with second derivatives, dropout keeps one mask, BatchNorm in training mode uses the statistics of the batch. If an
    operation has no second derivative, products are central differences of gradients, which evaluate the closure twice
    per product. Random states, buffers, gradients and hooks are restored on exit. Weights must not change inside.

    Args:
        closure: Function that returns a loss of the current weights, or calls `backward` on it.
        params: Real dense parameters on one device; tied weights once.
        rates: Factors >= 0: for each parameter a number or a tensor of its shape. None means 1.
        shifts: Numbers or tensors added to the diagonal of H, such as coupled weight decay. None means 0.
        route: "graph" for second derivatives, "differences" for central differences, "auto" for the first that works.

    Yields:
        The operator, a `Hessian`, for `eigenvalues`, `trace` and `spectral_density`.

    Raises:
        CurvatureError: If a product cannot be computed.
        ArgumentError: If `route` is unknown.

    Source: Pearlmutter, Fast exact multiplication by the Hessian (1994).

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> with hessian(lambda: (w**3).sum(), [w], rates=[0.25]) as h:
        ...     h(torch.tensor([1.0, 1.0], dtype=torch.float64))
        tensor([1.5000, 3.0000], dtype=torch.float64)
    """
    check("hessian", "route", route, _ROUTES)
    made = Hessian(closure, params, rates, shifts, route)
    with side_evaluation(made.params), preserve_gradients(made.params):
        if made.route == "graph":
            with sdpa_kernel(SDPBackend.MATH):
                made.evaluate()
        yield made


def _check_params(params: Sequence[Tensor]) -> None:
    if not params:
        raise CurvatureError("hessian: params must not be empty.")
    for p in params:
        if is_dtensor(p):
            raise CurvatureError("hessian: params must be unsharded tensors, got a DTensor.")
        if p.is_complex() or p.layout != torch.strided or not p.is_floating_point():
            shape = tuple(p.shape)
            raise CurvatureError(f"hessian: params must be real and dense, got {p.dtype}, {p.layout}, shape {shape}.")


def _first_clause(error: CurvatureError) -> str:
    return str(error).partition(";")[0]
