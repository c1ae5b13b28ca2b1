"""Taking Hessian-vector products: which route, and what to say where it cannot work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature import routes
from dashpot.curvature.differences import central_difference, relative_step_for, step_length
from dashpot.curvature.double import product_of_gradients
from dashpot.curvature.following import BackwardCall, evaluate
from dashpot.curvature.forward import moving_along
from dashpot.curvature.keeping import RandomState, buffers_kept, gradients_kept
from dashpot.curvature.pending import Pending, several_processes
from dashpot.curvature.probing import Probing
from dashpot.engine.mesh import any_dtensor, local
from dashpot.errors import CurvatureError

__all__ = ["Taker"]

Tensors = Sequence[Tensor]


class Taker:
    """Takes products for one optimizer, called `owner` in sentences.

    `route` is (route, reason) of the last product. `obstacle` says why "auto" gave double backward up.
    """

    def __init__(self, owner: str, probing: Probing) -> None:
        self.owner, self.probing = owner, probing
        self.route: tuple[str, str] | None = None
        self.obstacle: str | None = None
        self._proven = self._in_closure = False

    # ---- from a closure ---------------------------------------------------------------------------------------------

    def train(self, closure: Callable[[], Any], pending: Pending, params: Tensors, probes: Tensors) -> Any:
        """The loss of a closure that goes backward, with products into `pending`; gradients, buffers and random state
        as the closure leaves them."""
        before = RandomState(params)
        if self._route_for_closure(params) != "differences":
            loss = self._evaluated(closure, pending, params, probes, None)
        else:
            with torch.enable_grad():
                loss = closure()
        if not pending.taken:
            with gradients_kept(params), buffers_kept():
                self._differences(closure, pending, params, probes, before)
        return loss

    def look(self, closure: Callable[[], Any], pending: Pending, params: Tensors, probes: Tensors) -> Any:
        """The loss of a closure, with products into `pending`; gradients and buffers stay as they are."""
        before, loss = RandomState(params), None
        with gradients_kept(params) as keep_others, buffers_kept():
            if self._route_for_closure(params) != "differences":
                loss = self._evaluated(closure, pending, params, probes, keep_others)
            if not pending.taken:
                loss = self._differences(closure, pending, params, probes, before)
        return loss

    def _evaluated(
        self,
        closure: Callable[[], Any],
        pending: Pending,
        params: Tensors,
        probes: Tensors,
        keep_others: Callable[[Tensor], None] | None,
    ) -> Any:
        """Evaluate a closure, with products taken where it goes backward. Where gradients are not to be kept, which
        `keep_others` is for, it may also return a loss that nobody went backward from."""
        only_looking = keep_others is not None
        differentiate = self.differentiate(pending, params, probes, raw=not only_looking)

        def on_backward(loss: Tensor, call: dict[str, Any]) -> None:
            if keep_others is not None:
                keep_others(loss)
            differentiate(loss, call)

        self._in_closure = True
        try:
            with moving_along(params, probes) if self.probing.probe == "forward" else nullcontext():
                return evaluate(self.owner, closure, on_backward, may_return=only_looking)
        finally:
            self._in_closure = False

    def differentiate(
        self, pending: Pending, params: Tensors, probes: Tensors, *, raw: bool, scale: float = 1.0
    ) -> BackwardCall:
        """What stands for `loss.backward()`: gradients as there, and a product into `pending`."""
        careful = several_processes(self.probing.process_group)
        route = routes.forward_pass if self.probing.probe == "forward" else routes.double_pass

        def differentiate(loss: Tensor, call: dict[str, Any]) -> None:
            may_fall_back = self._may_fall_back()
            if self.obstacle is None:
                try:
                    products = route(loss, call, params, probes, careful=careful, keep=may_fall_back)
                except CurvatureError as error:
                    if not may_fall_back:
                        raise CurvatureError(f"{self.owner}: {error}") from error
                    self.obstacle = str(error).partition(";")[0]
                else:
                    self._proven = True
                    pending.add(params, products, raw=raw, scale=scale)
                    return
            loss.backward(**call)

        return differentiate

    def _may_fall_back(self) -> bool:
        """True where "auto" tries double backward for the first time, inside a closure that can be called again."""
        return self.probing.probe == "auto" and not self._proven and self._in_closure

    def _differences(
        self,
        closure: Callable[[], Any],
        pending: Pending,
        params: Tensors,
        probes: Tensors,
        random: RandomState,
    ) -> Any:
        """Products from gradients at two more points, and the loss at the first of them.

        Both evaluations start from the same random state, which is left as after one of them.
        """
        if self.obstacle is not None:
            self._note("differences", self.obstacle)
        losses: list[Any] = []

        def gradients_here() -> list[Tensor | None]:
            random.restore()
            loss, grads = self._gradients(closure, params)
            losses.append(loss)
            return grads

        length = step_length(params, probes, self.probing.relative_step or relative_step_for(_coarsest(params)))
        pending.add(params, central_difference(gradients_here, params, probes, length), raw=False)
        return losses[0]

    def _gradients(self, closure: Callable[[], Any], params: Tensors) -> tuple[Any, list[Tensor | None]]:
        """(loss, gradients) of a closure at the present weights: the pieces in this process."""
        ordinary = several_processes(self.probing.process_group) or any_dtensor(params)
        sums = Pending()
        with gradients_kept(params) as keep_others, buffers_kept():

            def on_backward(loss: Tensor, call: dict[str, Any]) -> None:
                if ordinary:  # others wait for the hooks of a whole backward pass
                    keep_others(loss)
                    loss.backward(**call)
                else:
                    sums.add(params, routes.plain_gradients(loss, call, params), raw=False)

            loss = evaluate(self.owner, closure, on_backward, may_return=True)
            if ordinary:
                return loss, [None if p.grad is None else local(p.grad).detach().clone() for p in params]
        return loss, [sums.held.get(p) for p in params]

    # ---- from what there is -----------------------------------------------------------------------------------------

    def from_gradients(self, pending: Pending, params: Tensors, probes: Tensors) -> None:
        """Products of gradients that carry a graph; `CurvatureError` where they do not, or it is not the right one."""
        self._check_graphs(params)
        self._note("graph", "the gradients carry a graph")
        try:
            products = product_of_gradients([p.grad for p in params], params, probes)
        except CurvatureError as error:
            raise CurvatureError(f"{self.owner}: {error}") from error
        pending.add(params, products, raw=True)

    def supplied(self, pending: Pending, params: Tensors, probes: Tensors) -> None:
        """Products from the user's own function."""
        assert callable(self.probing.probe)
        self._note("callable", "asked for")
        pieces = [local(p) for p in params]
        products = self.probing.probe(pieces, probes)
        _check_supplied(self.owner, pieces, products)
        pending.add(params, products, raw=False)

    # ---- choosing a route -------------------------------------------------------------------------------------------

    def _route_for_closure(self, params: Tensors) -> str:
        """The route for a closure, noted with its reason; `CurvatureError` where the one asked for cannot work."""
        asked, sharded = self.probing.probe, any_dtensor(params)
        if asked == "auto":
            if sharded:
                return self._note("differences", "parameters are sharded, and a graph ends at their pieces")
            if self.obstacle is not None:
                return self._note("differences", self.obstacle)
            return self._note("closure", "a closure was given")
        if sharded and asked != "differences":
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} cannot work with sharded parameters, whose graph ends at their pieces; "
                "use probe='differences' with a closure."
            )
        return self._note("closure" if asked == "graph" or callable(asked) else asked, "asked for")

    def _note(self, route: str, reason: str) -> str:
        self.route = route, reason
        return route

    def check_backward(self, params: Tensors) -> None:
        """Refuse a loss where the route needs a closure."""
        asked = self.probing.probe
        if asked in ("forward", "differences"):
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} has to evaluate the loss itself; give step or curvature_step a "
                "closure, or use probe='auto'."
            )
        if any_dtensor(params):
            raise CurvatureError(
                f"{self.owner}: the graph of a loss ends at the pieces of sharded parameters; call curvature_step with "
                "a closure, which takes differences of gradients."
            )
        self._note("closure", "a loss was given")

    def _check_graphs(self, params: Tensors) -> None:
        asked = self.probing.probe
        if asked not in ("auto", "graph"):
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} needs a closure on this step: give it to step, or to curvature_step "
                "before."
            )
        if any_dtensor(params):
            raise CurvatureError(
                f"{self.owner}: gradients of sharded parameters carry no graph; call curvature_step with a closure "
                "before the step, which takes differences of gradients."
            )
        for p in params:
            if p.grad is None or not p.grad.requires_grad:
                raise CurvatureError(
                    f"{self.owner}: a product is due and the gradient of a parameter of shape {tuple(p.shape)} carries "
                    "no graph; use opt.backward(loss), or loss.backward(create_graph=opt.should_create_graph())."
                )
        if several_processes(self.probing.process_group):
            raise CurvatureError(
                f"{self.owner}: the graph of gradients that were averaged over processes is that of one process; use "
                "opt.backward(loss), or give step a closure."
            )


def _check_supplied(owner: str, pieces: Tensors, products: Any) -> None:
    """Refuse what is no product for each parameter."""
    shapes = [tuple(piece.shape) for piece in pieces]
    fits = isinstance(products, Sequence) and len(products) == len(pieces)
    if not fits or any(x is not None and tuple(x.shape) != shape for x, shape in zip(products, shapes, strict=True)):
        raise CurvatureError(
            f"{owner}: probe must return a product (or None) for each parameter, of the shapes {shapes}, "
            f"got {products!r:.200}."
        )


def _coarsest(params: Tensors) -> torch.dtype:
    """The real dtype of the largest roundoff among the parameters."""
    real = {p.dtype.to_real() if p.dtype.is_complex else p.dtype for p in params}
    return max(real, key=lambda dtype: torch.finfo(dtype).eps)
