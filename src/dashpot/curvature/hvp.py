"""Computation of Hessian-vector products, including the choice of a route and the resulting error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature import routes
from dashpot.curvature.accumulated import AccumulatedProducts, is_multiprocess
from dashpot.curvature.backward_capture import BackwardCall, Evaluation, coarser, evaluate
from dashpot.curvature.double_backward import product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.forward_over_reverse import forward_tangents
from dashpot.curvature.hvp_options import Probing
from dashpot.curvature.sharded import local_gradients, reshard_before_forward
from dashpot.curvature.state_guards import RngSnapshot, disable_hooks, preserve_buffers, preserve_gradients
from dashpot.curvature.unsupported import reject_once_differentiable, reject_sparse
from dashpot.engine.dtensor import has_dtensor, local
from dashpot.errors import CurvatureError

Tensors = Sequence[Tensor]
Closure = Callable[[], Any]


class HvpComputer:
    """Hessian-vector products of one optimizer.

    Attributes:
        owner: Class name of the optimizer, for messages.
        probing: Options for the products.
        route: Route of the last product and the reason for it, or None.
        fallback_reason: Reason why "auto" does not use double backward, or None if it does.
        inside: While a closure is evaluated, the object that accumulates its products; otherwise None.
    """

    def __init__(self, owner: str, probing: Probing) -> None:
        self.owner, self.probing = owner, probing
        self.route: tuple[str, str] | None = None
        self.fallback_reason: str | None = None
        self.inside: AccumulatedProducts | None = None
        self._proven = False
        self._coarsest_seen: torch.dtype | None = None

    # ---- from a closure ---------------------------------------------------------------------------------------------

    def with_gradients(self, closure: Closure, pending: AccumulatedProducts, params: Tensors, probes: Tensors) -> Any:
        """Evaluate a closure that calls backward, and accumulate its products in `pending`.

        Gradients, buffers and RNG state are the same as after a single call of the closure.

        Returns:
            The loss, or None if the closure has no effect.
        """
        before, route = RngSnapshot(params), self.route
        with self._inside(pending):
            if self._route_for_closure(params) != "differences":
                found = self._evaluated(closure, pending, params, probes, None)
            else:
                found = evaluate(closure, routes.plain_backward, may_return=False)
                self._record_dtype(found)
            if found.loss is None:
                self.route = route
            elif not pending.taken:
                self._differences(closure, pending, params, probes, before)
        return found.loss

    def without_gradients(
        self, closure: Closure, pending: AccumulatedProducts, params: Tensors, probes: Tensors
    ) -> Any:
        """Return the loss of a closure and accumulate its products, without changing gradients and buffers."""
        before, found = RngSnapshot(params), None
        with self._inside(pending), preserve_gradients(params) as keep_others, preserve_buffers():
            if self._route_for_closure(params) != "differences":
                found = self._evaluated(closure, pending, params, probes, keep_others)
            if not pending.taken:
                found = self._differences(closure, pending, params, probes, before)
        assert found is not None
        return found.loss

    @contextmanager
    def _inside(self, pending: AccumulatedProducts) -> Iterator[None]:
        """Set the destination of the closure's products, and prefix errors with the owner."""
        self.inside = pending
        try:
            yield
        except CurvatureError as error:
            raise self._with_owner(error) from error
        finally:
            self.inside = None

    def _with_owner(self, error: CurvatureError) -> CurvatureError:
        text = str(error)
        return error if text.startswith(f"{self.owner}: ") else CurvatureError(f"{self.owner}: {text}")

    def _evaluated(
        self,
        closure: Closure,
        pending: AccumulatedProducts,
        params: Tensors,
        probes: Tensors,
        keep_others: Callable[[Tensor], set[Tensor]] | None,
    ) -> Evaluation:
        """Evaluate a closure and compute products at its backward calls.

        If `keep_others` is given (for evaluations without gradients), the closure may return a loss without calling
        backward.
        """
        differentiate = self.differentiate(pending, params, probes, raw=keep_others is None, keep_others=keep_others)
        with forward_tangents(params, probes) if self.probing.probe == "forward" else nullcontext():
            found = evaluate(closure, differentiate, may_return=keep_others is not None)
        self._record_dtype(found)
        return found

    def differentiate(
        self,
        pending: AccumulatedProducts,
        params: Tensors,
        probes: Tensors,
        *,
        raw: bool,
        scale: float = 1.0,
        keep_others: Callable[[Tensor], set[Tensor]] | None = None,
    ) -> BackwardCall:
        """Return a replacement of `loss.backward()` that accumulates gradients, and products divided by `scale`.

        If `keep_others` is given, gradients are discarded. A regular backward pass then runs only to take part in the
        collectives of the other ranks.
        """
        several = is_multiprocess(self.probing.process_group)
        route = routes.forward if self.probing.probe == "forward" else routes.double

        def backward(loss: Tensor, call: dict[str, Any]) -> None:
            with disable_hooks(() if keep_others is None else keep_others(loss)):
                routes.plain_backward(loss, call)

        def differentiate(loss: Tensor, call: dict[str, Any]) -> None:
            if keep_others is None:
                pending.forget(p for p in params if p.grad is None)
            wait = several or (keep_others is None and routes.requires_backward(loss, call, params))
            if several:  # before the product, since DDP reduces in the first backward pass
                backward(loss, {**call, "retain_graph": True})
            keep = (wait and not several) or bool(call.get("retain_graph"))
            found = self._found(route, loss, call, params, probes, keep=keep, raw=raw)
            if found is not None:
                pending.add(params, found.products, raw=raw, scale=scale)
            if several or keep_others is not None:
                return
            if found is None or wait:
                backward(loss, call)
            else:
                routes.accumulate(params, found.grads)

        return differentiate

    def _found(
        self,
        route: Callable[..., routes.Found],
        loss: Tensor,
        call: dict[str, Any],
        params: Tensors,
        probes: Tensors,
        *,
        keep: bool,
        raw: bool,
    ) -> routes.Found | None:
        """Return the gradients and products of a route, or None if "auto" must fall back to "differences"."""
        if self.fallback_reason is not None and self.inside is not None:
            return None
        may_fall_back = self._may_fall_back()
        try:
            with disable_hooks(params):
                found = route(loss, call, params, probes, keep=keep or may_fall_back, raw=raw)
        except CurvatureError as error:
            if not may_fall_back:
                raise self._with_owner(error) from error
            self.fallback_reason = str(error).partition(";")[0]
            return None
        self._proven = True
        return found

    def _may_fall_back(self) -> bool:
        """Return True for the first double backward of "auto", if it runs in a closure, which can be called again."""
        return self.probing.probe == "auto" and not self._proven and self.inside is not None

    def _differences(
        self, closure: Closure, pending: AccumulatedProducts, params: Tensors, probes: Tensors, random: RngSnapshot
    ) -> Evaluation:
        """Accumulate products from gradients at two points, and return the closure's evaluation at the first point.

        Both evaluations start from the same RNG state. The final RNG state is the same as after one evaluation.
        """
        if self.fallback_reason is not None:
            self._note("differences", self.fallback_reason)
        found: list[Evaluation] = []

        def gradients_here() -> list[Tensor | None]:
            random.restore()
            evaluation, grads = self._gradients(closure, params)
            found.append(evaluation)
            return grads

        while True:
            dtype = self._coarsest(params)
            length = step_length(params, probes, self.probing.relative_step or relative_step_for(dtype))
            products = central_difference(gradients_here, params, probes, length)
            if self._coarsest(params) == dtype or self.probing.relative_step is not None:
                break  # otherwise, the closure computes in a coarser dtype, which requires a longer step
        pending.add(params, products, raw=False)
        return found[0]

    def _gradients(self, closure: Closure, params: Tensors) -> tuple[Evaluation, list[Tensor | None]]:
        """Evaluate a closure at the current weights; return the evaluation and the local shards of the gradients."""
        grads: list[Tensor | None] = [None] * len(params)
        with preserve_gradients(params) as keep_others, preserve_buffers(), reshard_before_forward():

            def on_backward(loss: Tensor, call: dict[str, Any]) -> None:
                with disable_hooks({*params, *keep_others(loss)}):
                    loss.backward(**call)
                grads[:] = local_gradients(self.owner, params)  # immediately, since the closure may clip them

            found = evaluate(closure, on_backward, may_return=True)
        reject_sparse(grads)
        self._record_dtype(found)
        return found, grads

    def _record_dtype(self, found: Evaluation) -> None:
        """Record the coarsest dtype of the computation; autocast may use a coarser dtype than the weights have."""
        if found.coarsest is not None:
            self._coarsest_seen = coarser(self._coarsest_seen, found.coarsest)

    def _coarsest(self, params: Tensors) -> torch.dtype:
        """Return the real dtype with the largest roundoff among parameters and recorded computations."""
        coarsest = self._coarsest_seen
        for p in params:
            coarsest = coarser(coarsest, p.dtype.to_real() if p.dtype.is_complex else p.dtype)
        assert coarsest is not None
        return coarsest

    # ---- from gradients or a callable -------------------------------------------------------------------------------

    def from_gradients(
        self, pending: AccumulatedProducts, params: Tensors, probes: Tensors, *, raw: bool, scale: float, replaced: bool
    ) -> None:
        """Accumulate products, divided by `scale`, from gradients with a graph.

        Args:
            pending: Object that accumulates the products.
            params: Parameters.
            probes: Probes, in the order of `params`.
            raw: True if the loss may already have been multiplied by the scale of a `GradScaler`.
            scale: Divisor of the products.
            replaced: True if products were already computed for earlier gradients, which the current ones replaced.

        Raises:
            CurvatureError: If a gradient has no graph, or the graph covers only one of several ranks.
        """
        self._check_graphs(params, replaced)
        self._note("graph", "the gradients have a graph")
        grads = [p.grad for p in params]
        try:
            reject_once_differentiable([g for g in grads if g is not None])
            with disable_hooks(params):
                products = product_of_gradients(grads, params, probes, patient=raw)
        except CurvatureError as error:
            raise self._with_owner(error) from error
        zeros = [torch.zeros_like(p) if hv is None else hv for p, hv in zip(params, products, strict=True)]
        pending.add(params, zeros, raw=raw, scale=scale)

    def supplied(self, pending: AccumulatedProducts, params: Tensors, probes: Tensors) -> None:
        """Accumulate products computed by the callable `probe`."""
        assert callable(self.probing.probe)
        self._note("callable", "requested")
        pieces = [local(p) for p in params]
        products = self.probing.probe(pieces, probes)
        _check_supplied(self.owner, pieces, products)
        zeros = [torch.zeros_like(piece) if hv is None else hv for piece, hv in zip(pieces, products, strict=True)]
        pending.add(params, zeros, raw=False)

    # ---- choosing a route -------------------------------------------------------------------------------------------

    def _route_for_closure(self, params: Tensors) -> str:
        """Choose and record the route for a closure; raise `CurvatureError` if the requested one is unsupported."""
        asked, sharded = self.probing.probe, has_dtensor(params)
        if asked == "auto":
            if sharded:
                return self._note("differences", "parameters are sharded, and the graph ends at their shards")
            if self.fallback_reason is not None:
                return self._note("differences", self.fallback_reason)
            return self._note("closure", "a closure was passed")
        if sharded and asked != "differences":
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} does not support sharded parameters, whose graph ends at their shards; "
                "use probe='differences' with a closure."
            )
        return self._note("closure" if asked == "graph" or callable(asked) else asked, "requested")

    def _note(self, route: str, reason: str) -> str:
        self.route = route, reason
        return route

    def check_backward(self, params: Tensors) -> None:
        """Raise `CurvatureError` if the route requires a closure instead of a loss."""
        asked = self.probing.probe
        if asked in ("forward", "differences"):
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} evaluates the loss itself; pass a closure to step or curvature_step, "
                "or use probe='auto'."
            )
        if has_dtensor(params):
            raise CurvatureError(
                f"{self.owner}: the graph of a loss ends at the shards of sharded parameters; call curvature_step with "
                "a closure, which uses differences of gradients."
            )
        self._note("closure", "a loss was passed")

    def _check_graphs(self, params: Tensors, replaced: bool) -> None:
        asked = self.probing.probe
        if asked not in ("auto", "graph"):
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} requires a closure in this step; pass it to step, or to curvature_step "
                "before the step."
            )
        if has_dtensor(params):
            raise CurvatureError(
                f"{self.owner}: gradients of sharded parameters have no graph; call curvature_step with a closure "
                "before the step, which uses differences of gradients."
            )
        if is_multiprocess(self.probing.process_group):
            raise CurvatureError(
                f"{self.owner}: a product is due, and the graph of gradients averaged over ranks is local to one rank; "
                "use opt.backward(loss), or pass a closure to step."
            )
        for p in params:
            if replaced and (p.grad is None or not p.grad.requires_grad):
                raise CurvatureError(
                    f"{self.owner}: the gradient of a parameter of shape {tuple(p.shape)} was replaced after "
                    "opt.backward computed a product with it; modify gradients in place."
                )
            if p.grad is None or not p.grad.requires_grad:
                raise CurvatureError(
                    f"{self.owner}: a product is due and the gradient of a parameter of shape {tuple(p.shape)} has no "
                    "graph; use opt.backward(loss), or loss.backward(create_graph=opt.should_create_graph())."
                )


def _check_supplied(owner: str, pieces: Tensors, products: Any) -> None:
    """Raise `CurvatureError` unless there is a product of the right shape for each parameter."""
    shapes = [tuple(piece.shape) for piece in pieces]
    fits = isinstance(products, Sequence) and len(products) == len(pieces)
    if not fits or not all(map(_is_product, products, shapes)):
        raise CurvatureError(
            f"{owner}: probe must return a product (or None) for each parameter, of the shapes {shapes}, "
            f"got {products!r:.200}."
        )


def _is_product(x: Any, shape: tuple[int, ...]) -> bool:
    return x is None or (isinstance(x, Tensor) and tuple(x.shape) == shape)
