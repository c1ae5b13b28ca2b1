"""Optimizers that learn curvature: when a product is due, how it is taken, and how it reaches the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature import routes
from dashpot.curvature.differences import central_difference, relative_step_for, step_length
from dashpot.curvature.double import product_of_gradients
from dashpot.curvature.draws import draws
from dashpot.curvature.following import evaluate
from dashpot.curvature.forward import moving_along
from dashpot.curvature.keeping import RandomState, buffers_kept, gradients_kept
from dashpot.curvature.pending import Pending, all_finite, averaged, several_processes
from dashpot.curvature.probing import Probing
from dashpot.curvature.stats import CurvatureStats, Stopwatch
from dashpot.engine.eager import observe_tensor, real_view
from dashpot.engine.mesh import any_dtensor, local
from dashpot.engine.parts import Part
from dashpot.engine.program import WHOLE_TENSOR
from dashpot.engine.rounding import stream
from dashpot.errors import ArgumentError, CurvatureError
from dashpot.optim import Optimizer
from dashpot.options import Options, Unpack
from dashpot.schedules import Schedule
from dashpot.stages.base import Observation

__all__ = ["SecondOrder"]

_OBSERVATION = 0x0B5E  # keeps the rounding of what a product changes apart from that of the step

Closure = Callable[[], Any]


class SecondOrder(Optimizer):
    """Base of the methods that divide by curvature: `dashpot.Optimizer` with Hessian-vector products.

    A product H v with a random probe v is taken in the first `d_warmup` steps, then every `update_d_every`, and at the
    next step wherever a parameter has none yet (which stays in place until then). It is the Hessian of the mean loss:
    clipping and loss scaling leave it as it is. Ways to give one its loss, in the order of convenience:

        opt.backward(loss); opt.step()                      # in place of loss.backward(), also per micro-batch
        loss.backward(create_graph=opt.should_create_graph()); opt.step()
        opt.step(closure)                                   # the closure zeroes gradients and calls backward
        opt.curvature_step(closure)                         # a product alone, say of a part of the batch; then step

    Any other step is that of an ordinary optimizer. A product that is not finite is dropped and counted
    (`curvature_stats`). Raises `CurvatureError` where a product cannot be taken in the way asked for, before anything
    changes.
    """

    _COUNTERS = ("steps_done", "product_at", "products", "products_skipped")

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        schedule: Schedule | Mapping[str, Schedule] | None,
        probing: Mapping[str, Any],
        **options: Unpack[Options],
    ) -> None:
        self._probing = Probing.of(type(self).__name__, probing)
        if self._observes() and options.get("capturable"):
            raise ArgumentError(
                f"{type(self).__name__}: capturable must be False: a recorded step cannot take products now and then."
            )
        if self._observes():
            defaults = {**defaults, "probe_seed": options.get("seed", 0)}
        super().__init__(params, defaults, schedule, **options)

    @property
    def probing(self) -> Probing:
        """When and how products are taken, complete."""
        return self._probing

    # ---- when -------------------------------------------------------------------------------------------------------

    def should_create_graph(self) -> bool:
        """True if the coming step wants gradients that carry a graph; asking changes nothing.

        >>> import torch, dashpot as dp
        >>> opt = dp.ESGD([torch.zeros(1, requires_grad=True)])
        >>> opt.should_create_graph(), opt.should_create_graph()
        (True, True)
        """
        return self._observes() and self._settled is None and (self._scheduled() or bool(self._lacking()))

    def _observes(self) -> bool:
        """True where some stage of the method learns from products."""
        return True

    def _scheduled(self) -> bool:
        last = self._counter("product_at")
        return self._probing.due(self.steps_done(), None if last < 0 else last)

    def _counter(self, name: str) -> int:
        """A count that the groups carry, so that it is saved with them."""
        return max((group.get(name, _FRESH[name]) for group in self.param_groups), default=_FRESH[name])

    def _lacking(self) -> set[Tensor]:
        """The parameters that have stepped without any product yet, or have a gradient for the first time."""
        newcomers = {p for p in self._params() if p.grad is not None and not self.state.get(p)}
        return newcomers | {p for p in self._waiting_ones() if p.requires_grad}

    def _waiting_ones(self) -> set[Tensor]:
        if self._waiting is None:  # after loading, the state tells
            self._waiting = {p for p, state in self.state.items() if _has_product(state) is False}
        return self._waiting

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def curvature_stats(self) -> CurvatureStats:
        """The route of the products, how many there were, and what they cost; see `CurvatureStats`.

        >>> import torch, dashpot as dp
        >>> w = torch.ones(1, requires_grad=True)
        >>> opt = dp.ESGD([w])
        >>> opt.backward((w**4).sum()); opt.step(); opt.curvature_stats[:4]
        ('closure', 'a loss was given', 1, 0)
        """
        skipped = self._counter("products_skipped")
        route, reason = self._route or (None, None)
        taken = self._counter("products") - skipped
        return CurvatureStats(route, reason, taken, skipped, *self._watch.medians(), self._watch.share())

    # ---- taking products --------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor, scaler: Any = None, **kwargs: Any) -> None:
        """`loss.backward()`, with the Hessian-vector product when one is due.

        Gradients and products add up over calls, so micro-batches work as they do with `backward`: divide each loss by
        their number.

        loss
            0-d tensor, the mean loss.
        scaler
            a `torch.amp.GradScaler`, or None: the loss is scaled here, the gradients carry the scale and the product
            does not.
        kwargs
            as for `torch.Tensor.backward`.
        """
        scale = 1.0
        if scaler is not None:
            loss = scaler.scale(loss)
            scale = float(scaler.get_scale())
        if not self.should_create_graph() or callable(self._probing.probe):
            loss.backward(**kwargs)
            return
        self._check_backward()
        params = self._params()
        self._gathered.forget(p for p in params if p.grad is None)
        self._note("closure", "a loss was given")
        self._differentiate(self._gathered, params, raw=scaler is None, scale=scale)(loss, kwargs)

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step; parameters without a gradient stay as they are.

        closure
            a function that clears the gradients, computes the loss, calls backward (once, or for each of several
            micro-batches, their losses divided by their number) and returns the loss. Where a product is due it is
            taken on the way. With `probe="differences"` the closure is called twice more, with the same random numbers;
            what it does to gradients and to buffers of modules is undone.
        """
        loss = None
        if closure is not None:
            if self.should_create_graph() and self._probing.probe != "graph" and not callable(self._probing.probe):
                loss = self._probed(closure)
            else:
                with torch.enable_grad():
                    loss = closure()
                if self.should_create_graph() and not any(_graph(p) for p in self._params()):
                    self._force(closure)
        self._untraced(self)
        return loss

    def curvature_step(self, closure: Closure) -> Any:
        """Take a product for the coming step, whether it is due or not; a second call before that step replaces it.

        Gradients, the buffers of modules and, but for one evaluation, torch's random state stay as they are.

        closure
            a function that returns the mean loss, not scaled, of a batch or a part of it. It may call backward itself,
            also for several micro-batches, their losses divided by their number.

        >>> import torch, dashpot as dp
        >>> w = torch.ones(2, requires_grad=True)
        >>> opt = dp.Sophia([w], lr=0.1)
        >>> for k in range(3):
        ...     if opt.should_create_graph():
        ...         loss = opt.curvature_step(lambda: (w**4).sum())
        ...     (w**4).sum().backward(); opt.step(); opt.zero_grad()
        >>> opt.curvature_stats.products
        1
        """
        if not self._observes():
            raise ArgumentError(f"{type(self).__name__}: no stage of the method learns from Hessian-vector products.")
        params, pending = self._params(), Pending()
        before, loss = RandomState(_devices(params)), None
        with gradients_kept(params) as keep_others, buffers_kept():
            if self._route_for_closure() != "differences":
                loss = self._evaluated(closure, pending, params, keep_others)
            if not pending.taken:
                loss = self._differences(closure, pending, params, before)
        self._settled = pending
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and the products that `backward` gathered with them."""
        super().zero_grad(set_to_none)
        self._gathered.clear()

    def _probed(self, closure: Closure) -> Any:
        """The closure's loss, its gradients, and products on the way or after it."""
        params, pending = self._params(), self._gathered
        pending.clear()
        before = RandomState(_devices(params))
        if self._route_for_closure() != "differences":
            loss = self._evaluated(closure, pending, params, None)
        else:
            with torch.enable_grad():
                loss = closure()
        if not pending.taken:
            found = Pending()  # the closure may clear the gathered ones
            with gradients_kept(params), buffers_kept():
                self._differences(closure, found, params, before)
            self._gathered = found
        return loss

    def _force(self, closure: Closure) -> None:
        """A product at once, for parameters that got their first gradient on a step without one."""
        if callable(self._probing.probe) or self._probing.probe == "graph":
            return
        after = RandomState(_devices(self._params()))
        self.curvature_step(closure)
        after.restore()

    def _evaluated(
        self, closure: Closure, pending: Pending, params: list[Tensor], keep_others: Callable[[Tensor], None] | None
    ) -> Any:
        """Evaluate a closure with products taken where it calls backward; in `curvature_step` (`keep_others`) the
        closure may also return a loss that nobody went backward from."""
        differentiate = self._differentiate(pending, params, raw=keep_others is None)
        may_return = keep_others is not None

        def on_backward(loss: Tensor, call: dict[str, Any]) -> None:
            if keep_others is not None:
                keep_others(loss)
            differentiate(loss, call)

        forward = self._probing.probe == "forward"
        self._in_closure = True
        try:
            with moving_along(params, self._probes(params)) if forward else nullcontext():
                return evaluate(type(self).__name__, closure, on_backward, may_return=may_return)
        finally:
            self._in_closure = False

    def _differentiate(
        self, pending: Pending, params: list[Tensor], *, raw: bool, scale: float = 1.0
    ) -> Callable[[Tensor, dict[str, Any]], None]:
        """What stands for `loss.backward()`: gradients as there, and a product into `pending`."""
        probes = self._probes(params)
        careful = several_processes(self._probing.process_group)
        route = routes.forward_pass if self._probing.probe == "forward" else routes.double_pass

        def differentiate(loss: Tensor, call: dict[str, Any]) -> None:
            if self._obstacle is not None:
                loss.backward(**call)
                return
            try:
                products = route(loss, call, params, probes, careful=careful, keep=self._may_fall_back())
            except CurvatureError as error:
                if not self._may_fall_back():
                    raise CurvatureError(f"{type(self).__name__}: {error}") from error
                self._obstacle = str(error).partition(";")[0]
                loss.backward(**call)
                return
            self._proven = True
            pending.add(params, products, raw=raw, scale=scale)

        return differentiate

    def _may_fall_back(self) -> bool:
        """True where "auto" tries double backward for the first time, inside a closure."""
        return self._probing.probe == "auto" and not self._proven and self._in_closure

    def _differences(self, closure: Closure, pending: Pending, params: list[Tensor], random: RandomState) -> Any:
        """Products from gradients at two more points. `random` is what both evaluations start from; the random state is
        left as after one of them. Returns the loss at the first of the points."""
        owner = type(self).__name__
        probes = self._probes(params)
        losses: list[Any] = []
        ordinary = several_processes(self._probing.process_group) or any_dtensor(params)

        def gradients_here() -> list[Tensor | None]:
            random.restore()
            sums = Pending()
            with gradients_kept(params) as keep_others, buffers_kept():

                def on_backward(loss: Tensor, call: dict[str, Any]) -> None:
                    if ordinary:
                        keep_others(loss)
                        loss.backward(**call)
                    else:
                        sums.add(params, routes.plain_gradients(loss, call, params), raw=False)

                losses.append(evaluate(owner, closure, on_backward, may_return=True))
                if ordinary:
                    return [None if p.grad is None else local(p.grad).detach().clone() for p in params]
            return [sums.held.get(p) for p in params]

        relative = self._probing.relative_step or relative_step_for(_coarsest(params))
        length = step_length(params, probes, relative)
        pending.add(params, central_difference(gradients_here, params, probes, length), raw=False)
        return losses[0]

    # ---- choosing a route -------------------------------------------------------------------------------------------

    def _route_for_closure(self) -> str:
        """The route for a closure, noted with its reason; `CurvatureError` where the one asked for cannot work."""
        asked, sharded = self._probing.probe, any_dtensor(self._params())
        if asked == "auto":
            if sharded:
                return self._note("differences", "parameters are sharded, and a graph ends at their pieces")
            if self._obstacle is not None:
                return self._note("differences", self._obstacle)
            return self._note("closure", "a closure was given")
        if sharded and asked != "differences":
            raise CurvatureError(
                f"{type(self).__name__}: probe={asked!r} cannot work with sharded parameters, whose graph ends at "
                "their pieces; use probe='differences' with a closure."
            )
        return self._note("closure" if asked == "graph" or callable(asked) else asked, "asked for")

    def _note(self, route: str, reason: str) -> str:
        self._route = route, reason
        return route

    def _check_backward(self) -> None:
        """Refuse `backward` on routes that need a closure."""
        owner, asked = type(self).__name__, self._probing.probe
        if asked in ("forward", "differences"):
            raise CurvatureError(
                f"{owner}: probe={asked!r} has to evaluate the loss itself; give step or curvature_step a closure, or "
                "use probe='auto'."
            )
        if any_dtensor(self._params()):
            raise CurvatureError(
                f"{owner}: the graph of a loss ends at the pieces of sharded parameters; call curvature_step with a "
                "closure, which takes differences of gradients."
            )

    def _probes(self, params: Sequence[Tensor]) -> list[Tensor]:
        """The probes of the coming product: the same in every process and after every interruption."""
        numbers = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        seed, number = self.param_groups[0]["probe_seed"], self._counter("products")
        return draws(self._probing.distribution, seed, number, params, [numbers[p] for p in params])

    # ---- the step ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if not self._observes():
            super()._step()
            return
        done = self.steps_done()
        stepping = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        attempted = self._prepare(stepping)
        try:
            super()._step()
        finally:
            ready, self._ready = self._ready, None
        self._gathered, self._settled = Pending(), None
        if self.steps_done() > done:
            self._conclude(done, stepping, attempted, ready)

    def _prepare(self, params: list[Tensor]) -> bool:
        """Settle which products this step takes in, and drop the graphs that gradients carry. True where there are
        products, finite or not."""
        pending = self._settled or self._gathered
        if params and not pending.taken:
            for p in params:
                self._check_gradient(p)
            pending = self._from_step(params)
        _drop_graphs(params, bool(self.defaults["differentiable"]))
        self._ready = self._finished(pending, params) if pending.taken and params else None
        return pending.taken

    def _conclude(
        self, done: int, stepped: list[Tensor], attempted: bool, ready: dict[Tensor, tuple[Tensor, Tensor]] | None
    ) -> None:
        """Count, after a step that was taken."""
        seen = (ready or {}).keys()
        if self._observed is None:
            self._observed = {p for p, state in self.state.items() if _has_product(state) is not False}
        self._observed |= seen
        self._waiting = {p for p in stepped if p not in self._observed}
        self._watch.lap(attempted)
        if not attempted:
            return
        counts = {"product_at": done, "products": self._counter("products") + 1}
        counts["products_skipped"] = self._counter("products_skipped") + (ready is None)
        for group in self.param_groups:
            group.update(counts)

    def _from_step(self, params: list[Tensor]) -> Pending:
        """A product that nothing but the gradients can give, or a user's function."""
        pending, graphs = Pending(), [_graph(p) for p in params]
        if not self.should_create_graph():
            return pending
        if callable(self._probing.probe):
            self._note("callable", "asked for")
            pending.add(params, self._probing.probe([local(p) for p in params], self._probes(params)), raw=False)
            return pending
        if not all(graphs) and not self._scheduled() and not self._waiting_ones() & set(params):
            return pending  # a newcomer stays in place, and the next step is due
        self._check_graphs(params, graphs)
        self._note("graph", "the gradients carry a graph")
        try:
            products = product_of_gradients([p.grad for p in params], params, self._probes(params))
        except CurvatureError as error:
            raise CurvatureError(f"{type(self).__name__}: {error}") from error
        pending.add(params, products, raw=True)
        return pending

    def _check_graphs(self, params: list[Tensor], graphs: list[bool]) -> None:
        owner, asked = type(self).__name__, self._probing.probe
        if asked not in ("auto", "graph"):
            raise CurvatureError(
                f"{owner}: probe={asked!r} needs a closure on this step: give it to step, or to curvature_step before."
            )
        if any_dtensor(params):
            raise CurvatureError(
                f"{owner}: gradients of sharded parameters carry no graph; call curvature_step with a closure before "
                "the step, which takes differences of gradients."
            )
        for p, has in zip(params, graphs, strict=True):
            if not has:
                raise CurvatureError(
                    f"{owner}: a product is due and the gradient of a parameter of shape {tuple(p.shape)} carries no "
                    "graph; use opt.backward(loss), or loss.backward(create_graph=opt.should_create_graph())."
                )
        if several_processes(self._probing.process_group):
            raise CurvatureError(
                f"{owner}: the graph of gradients that were averaged over processes is that of one process; use "
                "opt.backward(loss), or give step a closure."
            )

    def _finished(self, pending: Pending, params: list[Tensor]) -> dict[Tensor, tuple[Tensor, Tensor]] | None:
        """(probe, product) of each parameter with a gradient: averaged, of the unscaled loss, of what is minimised.

        None where the products are not finite.
        """
        scale = self._loss_scale() if pending.raw else None
        held = {p: pending.held.get(p) for p in params}
        products = {p: torch.zeros_like(local(p)) if hv is None else hv for p, hv in held.items()}
        if scale is not None:
            products = {p: hv / scale.to(hv.device, hv.dtype) for p, hv in products.items()}
        if several_processes(self._probing.process_group) and not callable(self._probing.probe):
            products = averaged(products, self._probing.process_group)
        if not all_finite(products):
            return None
        upside_down = {p for group in self.param_groups if self._ascends(group) for p in group["params"]}
        products = {p: -hv if p in upside_down else hv for p, hv in products.items()}
        return {p: (v, products[p]) for p, v in zip(params, self._probes(params), strict=True)}

    def _loss_scale(self) -> Tensor | None:
        """The factor that a gradient scaler left in the products."""
        scale, found = self._scaler()
        if scale is None and found is not None:
            raise CurvatureError(
                f"{type(self).__name__}: the scaler has unscaled the gradients but not the product, and its scale is "
                "not known here; use opt.backward(loss, scaler=scaler), or clip with max_norm in place of unscale_."
            )
        return scale if isinstance(scale, Tensor) or scale is None else torch.tensor(float(scale))

    def _observe(self, owners: Sequence[Tensor], part: Part) -> None:
        roster = part.roster
        for i, owner in enumerate(owners):
            if self._ready is None or owner not in self._ready:
                continue
            v, hv = self._ready[owner]
            numbers, storage = part.numbers[part.which[i]], roster.storages[i]
            if storage.draws:
                word = torch.tensor(numbers.word, dtype=torch.int32, device=v.device)
                numbers = numbers._replace(word=stream(word, roster.ordinals[i], _OBSERVATION))
            seen = Observation(real_view(v), real_view(hv), owner.dim())
            context = roster.division.contexts.get(i, WHOLE_TENSOR)
            observe_tensor(part.recipe, storage, numbers, part.params[i], seen, part.states[i], context)

    # ---- state ------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        super()._forget()
        self._gathered = Pending()
        self._settled: Pending | None = None
        self._ready: dict[Tensor, tuple[Tensor, Tensor]] | None = None
        self._waiting: set[Tensor] | None = None
        self._observed: set[Tensor] | None = None
        self._route: tuple[str, str] | None = None
        self._obstacle: str | None = None
        self._proven = self._in_closure = False
        self._watch = Stopwatch()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._waiting = self._observed = self._settled = None
        self._gathered.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_probing": self._probing}


_FRESH = {"product_at": -1, "products": 0, "products_skipped": 0}


def _has_product(state: Mapping[str, Any]) -> bool | None:
    """Whether a parameter has taken a product in; None for a method that does not count them."""
    return float(state["products"].detach()) > 0 if "products" in state else None


def _graph(p: Tensor) -> bool:
    return p.grad is not None and p.grad.requires_grad


def _drop_graphs(params: Sequence[Tensor], wanted: bool) -> None:
    """A gradient with a graph leads back to its parameter, which holds it: a circle that would keep the graph alive."""
    for p in params if not wanted else ():
        if p.grad is not None and p.grad.requires_grad:
            p.grad = p.grad.detach()


def _devices(params: Sequence[Tensor]) -> list[torch.device]:
    return list(dict.fromkeys(p.device for p in params))


def _coarsest(params: Sequence[Tensor]) -> torch.dtype:
    """The real dtype of the largest roundoff among the parameters."""
    real = {p.dtype.to_real() if p.dtype.is_complex else p.dtype for p in params}
    return max(real, key=lambda dtype: torch.finfo(dtype).eps)
