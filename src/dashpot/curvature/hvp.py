"""Taking Hessian-vector products: which route, and what to say where it cannot work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature import routes
from dashpot.curvature.accumulated import Pending, several_processes
from dashpot.curvature.backward_capture import BackwardCall, Evaluation, coarser, evaluate
from dashpot.curvature.double_backward import product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.forward_over_reverse import moving_along
from dashpot.curvature.hvp_options import Probing
from dashpot.curvature.sharded import pieces_of_gradients, weights_gathered_anew
from dashpot.curvature.state_guards import RandomState, buffers_kept, gradients_kept, hooks_silenced
from dashpot.curvature.unsupported import refuse_blind_functions, refuse_sparse
from dashpot.engine.dtensor import has_dtensor, local
from dashpot.errors import CurvatureError

__all__ = ["Taker"]

Tensors = Sequence[Tensor]
Closure = Callable[[], Any]


class Taker:
    """Takes products for one optimizer, called `owner` in sentences.

    `route` is (route, reason) of the last product. `obstacle` says why "auto" gave double backward up. `inside` is
    where products go while a closure is evaluated.
    """

    def __init__(self, owner: str, probing: Probing) -> None:
        self.owner, self.probing = owner, probing
        self.route: tuple[str, str] | None = None
        self.obstacle: str | None = None
        self.inside: Pending | None = None
        self._proven = False
        self._seen: torch.dtype | None = None

    # ---- from a closure ---------------------------------------------------------------------------------------------

    def train(self, closure: Closure, pending: Pending, params: Tensors, probes: Tensors) -> Any:
        """The loss of a closure that goes backward, with products into `pending`; gradients, buffers and random state
        as the closure leaves them. None from one that did nothing."""
        before, route = RandomState(params), self.route
        with self._inside(pending):
            if self._route_for_closure(params) != "differences":
                found = self._evaluated(closure, pending, params, probes, None)
            else:
                found = evaluate(closure, routes.ordinary, may_return=False)
                self._look_at(found)
            if found.loss is None:
                self.route = route
            elif not pending.taken:
                self._differences(closure, pending, params, probes, before)
        return found.loss

    def look(self, closure: Closure, pending: Pending, params: Tensors, probes: Tensors) -> Any:
        """The loss of a closure, with products into `pending`; gradients and buffers stay as they are."""
        before, found = RandomState(params), None
        with self._inside(pending), gradients_kept(params) as keep_others, buffers_kept():
            if self._route_for_closure(params) != "differences":
                found = self._evaluated(closure, pending, params, probes, keep_others)
            if not pending.taken:
                found = self._differences(closure, pending, params, probes, before)
        assert found is not None
        return found.loss

    @contextmanager
    def _inside(self, pending: Pending) -> Iterator[None]:
        """While open, `inside` is what the closure's products go into. Errors get the owner's name."""
        self.inside = pending
        try:
            yield
        except CurvatureError as error:
            raise self._mine(error) from error
        finally:
            self.inside = None

    def _mine(self, error: CurvatureError) -> CurvatureError:
        text = str(error)
        return error if text.startswith(f"{self.owner}: ") else CurvatureError(f"{self.owner}: {text}")

    def _evaluated(
        self,
        closure: Closure,
        pending: Pending,
        params: Tensors,
        probes: Tensors,
        keep_others: Callable[[Tensor], set[Tensor]] | None,
    ) -> Evaluation:
        """Evaluate a closure, with products taken where it goes backward. Where gradients are not to be kept, which
        `keep_others` is for, it may also return a loss that nobody went backward from."""
        differentiate = self.differentiate(pending, params, probes, raw=keep_others is None, keep_others=keep_others)
        with moving_along(params, probes) if self.probing.probe == "forward" else nullcontext():
            found = evaluate(closure, differentiate, may_return=keep_others is not None)
        self._look_at(found)
        return found

    def differentiate(
        self,
        pending: Pending,
        params: Tensors,
        probes: Tensors,
        *,
        raw: bool,
        scale: float = 1.0,
        keep_others: Callable[[Tensor], set[Tensor]] | None = None,
    ) -> BackwardCall:
        """What stands for `loss.backward()`: a product over `scale` into `pending`, and the gradients as there.

        With `keep_others` nobody wants the gradients; a backward pass is then made only for other processes, which wait
        for it.
        """
        several = several_processes(self.probing.process_group)
        route = routes.forward if self.probing.probe == "forward" else routes.double

        def ordinary(loss: Tensor, call: dict[str, Any]) -> None:
            with hooks_silenced(() if keep_others is None else keep_others(loss)):
                routes.ordinary(loss, call)

        def differentiate(loss: Tensor, call: dict[str, Any]) -> None:
            if keep_others is None:
                pending.forget(p for p in params if p.grad is None)
            wait = several or (keep_others is None and routes.others_wait(loss, call, params))
            if several:  # first, as DDP takes the first pass of all for the one that it waits for
                ordinary(loss, {**call, "retain_graph": True})
            keep = (wait and not several) or bool(call.get("retain_graph"))
            found = self._found(route, loss, call, params, probes, keep=keep, raw=raw)
            if found is not None:
                pending.add(params, found.products, raw=raw, scale=scale)
            if several or keep_others is not None:
                return
            if found is None or wait:
                ordinary(loss, call)
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
        """What a route gives; None where "auto" has to fall back to differences."""
        if self.obstacle is not None and self.inside is not None:
            return None
        may_fall_back = self._may_fall_back()
        try:
            with hooks_silenced(params):
                found = route(loss, call, params, probes, keep=keep or may_fall_back, raw=raw)
        except CurvatureError as error:
            if not may_fall_back:
                raise self._mine(error) from error
            self.obstacle = str(error).partition(";")[0]
            return None
        self._proven = True
        return found

    def _may_fall_back(self) -> bool:
        """True where "auto" tries double backward for the first time, inside a closure that can be called again."""
        return self.probing.probe == "auto" and not self._proven and self.inside is not None

    def _differences(
        self, closure: Closure, pending: Pending, params: Tensors, probes: Tensors, random: RandomState
    ) -> Evaluation:
        """Products from gradients at two more points, and what the closure returned at the first of them.

        Both evaluations start from the same random state, which is left as after one of them.
        """
        if self.obstacle is not None:
            self._note("differences", self.obstacle)
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
                break  # else the closure computes more coarsely than its weights tell, and wants a longer step
        pending.add(params, products, raw=False)
        return found[0]

    def _gradients(self, closure: Closure, params: Tensors) -> tuple[Evaluation, list[Tensor | None]]:
        """What a closure returns and its gradients at the present weights: the pieces in this process."""
        grads: list[Tensor | None] = [None] * len(params)
        with gradients_kept(params) as keep_others, buffers_kept(), weights_gathered_anew():

            def on_backward(loss: Tensor, call: dict[str, Any]) -> None:
                with hooks_silenced({*params, *keep_others(loss)}):
                    loss.backward(**call)
                grads[:] = pieces_of_gradients(self.owner, params)  # at once, as the closure may clip them

            found = evaluate(closure, on_backward, may_return=True)
        refuse_sparse(grads)
        self._look_at(found)
        return found, grads

    def _look_at(self, found: Evaluation) -> None:
        """Remember the coarsest arithmetic seen: weights do not tell what autocast does."""
        if found.coarsest is not None:
            self._seen = coarser(self._seen, found.coarsest)

    def _coarsest(self, params: Tensors) -> torch.dtype:
        """The real dtype of the largest roundoff among the parameters and what was computed with them."""
        coarsest = self._seen
        for p in params:
            coarsest = coarser(coarsest, p.dtype.to_real() if p.dtype.is_complex else p.dtype)
        assert coarsest is not None
        return coarsest

    # ---- from what there is -----------------------------------------------------------------------------------------

    def from_gradients(
        self, pending: Pending, params: Tensors, probes: Tensors, *, raw: bool, scale: float, replaced: bool
    ) -> None:
        """Products over `scale` of gradients that carry a graph; `CurvatureError` where they do not, or it is not the
        right one. `replaced`: they have taken the place of others, which had products."""
        self._check_graphs(params, replaced)
        self._note("graph", "the gradients carry a graph")
        grads = [p.grad for p in params]
        try:
            refuse_blind_functions([g for g in grads if g is not None])
            with hooks_silenced(params):
                products = product_of_gradients(grads, params, probes, patient=raw)
        except CurvatureError as error:
            raise self._mine(error) from error
        zeros = [torch.zeros_like(p) if hv is None else hv for p, hv in zip(params, products, strict=True)]
        pending.add(params, zeros, raw=raw, scale=scale)

    def supplied(self, pending: Pending, params: Tensors, probes: Tensors) -> None:
        """Products from the user's own function."""
        assert callable(self.probing.probe)
        self._note("callable", "asked for")
        pieces = [local(p) for p in params]
        products = self.probing.probe(pieces, probes)
        _check_supplied(self.owner, pieces, products)
        zeros = [torch.zeros_like(piece) if hv is None else hv for piece, hv in zip(pieces, products, strict=True)]
        pending.add(params, zeros, raw=False)

    # ---- choosing a route -------------------------------------------------------------------------------------------

    def _route_for_closure(self, params: Tensors) -> str:
        """The route for a closure, noted with its reason; `CurvatureError` where the one asked for cannot work."""
        asked, sharded = self.probing.probe, has_dtensor(params)
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
        if has_dtensor(params):
            raise CurvatureError(
                f"{self.owner}: the graph of a loss ends at the pieces of sharded parameters; call curvature_step with "
                "a closure, which takes differences of gradients."
            )
        self._note("closure", "a loss was given")

    def _check_graphs(self, params: Tensors, replaced: bool) -> None:
        asked = self.probing.probe
        if asked not in ("auto", "graph"):
            raise CurvatureError(
                f"{self.owner}: probe={asked!r} needs a closure on this step: give it to step, or to curvature_step "
                "before."
            )
        if has_dtensor(params):
            raise CurvatureError(
                f"{self.owner}: gradients of sharded parameters carry no graph; call curvature_step with a closure "
                "before the step, which takes differences of gradients."
            )
        if several_processes(self.probing.process_group):
            raise CurvatureError(
                f"{self.owner}: a product is due, and the graph of gradients that are averaged over processes is that "
                "of one process; use opt.backward(loss), or give step a closure."
            )
        for p in params:
            if replaced and (p.grad is None or not p.grad.requires_grad):
                raise CurvatureError(
                    f"{self.owner}: the gradient of a parameter of shape {tuple(p.shape)} was replaced after "
                    "opt.backward had taken a product with it; change gradients in place."
                )
            if p.grad is None or not p.grad.requires_grad:
                raise CurvatureError(
                    f"{self.owner}: a product is due and the gradient of a parameter of shape {tuple(p.shape)} carries "
                    "no graph; use opt.backward(loss), or loss.backward(create_graph=opt.should_create_graph())."
                )


def _check_supplied(owner: str, pieces: Tensors, products: Any) -> None:
    """Refuse what is no product for each parameter."""
    shapes = [tuple(piece.shape) for piece in pieces]
    fits = isinstance(products, Sequence) and len(products) == len(pieces)
    if not fits or not all(map(_is_product, products, shapes)):
        raise CurvatureError(
            f"{owner}: probe must return a product (or None) for each parameter, of the shapes {shapes}, "
            f"got {products!r:.200}."
        )


def _is_product(x: Any, shape: tuple[int, ...]) -> bool:
    return x is None or (isinstance(x, Tensor) and tuple(x.shape) == shape)
