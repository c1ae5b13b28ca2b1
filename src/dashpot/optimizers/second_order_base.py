"""Optimizers that learn curvature: when a product is due, how it is taken, and how it reaches the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import ARGUMENTS, check
from dashpot.curvature.accumulated import Between, Pending, any_process, finished
from dashpot.curvature.backward_capture import check_loss
from dashpot.curvature.graph import leaves
from dashpot.curvature.hvp import Taker
from dashpot.curvature.hvp_options import Probing
from dashpot.curvature.probes import draws, shrunk
from dashpot.curvature.sharded import check_windows
from dashpot.curvature.state_guards import RandomState
from dashpot.curvature.stats import CurvatureStats, StepTimer
from dashpot.engine.eager import observe_tensor, real_view
from dashpot.engine.group_step import Step
from dashpot.engine.program import WHOLE_TENSOR
from dashpot.engine.rounding import stream
from dashpot.engine.tensor_table import step_count
from dashpot.errors import ArgumentError, CurvatureError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options, Unpack
from dashpot.stages.base import Observation
from dashpot.utils.scalars import read

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
    (`curvature_stats`). Raises `CurvatureError` where a product cannot be taken in the way asked for, before weights or
    state change.
    """

    _FLAGS = (*Optimizer._FLAGS, "update_d_every", "d_warmup")
    _SAVED_COUNTERS = ("steps_done", "product_at", "products", "products_skipped")
    _OPTIONS = (*Optimizer._OPTIONS, *Probing._fields)
    _SHARED = ("update_d_every", "d_warmup", "probe_seed")

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        probing: Mapping[str, Any],
        **options: Unpack[Options],
    ) -> None:
        self._probing = Probing.of(type(self).__name__, probing)
        if self._observes():
            saved = {name: getattr(self._probing, name) for name in _SAVED}
            defaults = {**defaults, **saved, "probe_seed": options.get("seed", 0)}
        super().__init__(params, defaults, **options)

    @property
    def probing(self) -> Probing:
        """When and how products are taken, complete."""
        return self._in_force_now() if self._observes() else self._probing

    # ---- when -------------------------------------------------------------------------------------------------------

    def should_create_graph(self) -> bool:
        """True if the coming step wants gradients that carry a graph; asking changes nothing.

        >>> import torch, dashpot as dp
        >>> opt = dp.ESGD([torch.zeros(1, requires_grad=True)])
        >>> opt.should_create_graph(), opt.should_create_graph()
        (True, True)
        """
        return self._observes() and self._between.settled is None and (self._scheduled() or bool(self._waiting()))

    def _observes(self) -> bool:
        """True where some stage of the method learns from products."""
        return True

    def _scheduled(self) -> bool:
        last = self._counter("product_at")
        return self._in_force_now().due(self.steps_done(), None if last < 0 else last)

    def _in_force_now(self) -> Probing:
        """`probing`, with what the first group says of it now."""
        group, values = self.param_groups[0], {}
        for name in _SAVED:
            values[name] = read(group.get(name, getattr(self._probing, name)))
            check(type(self).__name__, name, values[name], ARGUMENTS[name])
        return self._probing._replace(**values)

    def _counter(self, name: str) -> int:
        """A count that the groups carry, so that it is saved with them."""
        lowest = _FRESH[name]
        return max((self._count(group, name, lowest) for group in self.param_groups if name in group), default=lowest)

    def _waiting(self) -> set[Tensor]:
        """The parameters without any product that have a gradient, or had one at some step."""
        return {p for p in self._lacking() if p.requires_grad and (p.grad is not None or self._has_stepped(p))}

    def _has_stepped(self, p: Tensor) -> bool:
        return step_count(self.state.get(p, {})) > 0

    def _lacking(self) -> set[Tensor]:
        """The parameters that have not taken a product in yet."""
        every = [p for group in self.param_groups for p in group["params"]]
        if self._between.unobserved is None:  # at first, and after loading, the state tells
            self._between.unobserved = {p for p in every if not _has_product(self.state.get(p, {}))}
        return self._between.unobserved | {p for p in every if p not in self.state}  # state may have been cleared

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
        route, reason = self._taker.route or (None, None)
        taken = self._counter("products") - skipped
        return CurvatureStats(route, reason, taken, skipped, *self._watch.medians(), self._watch.share())

    # ---- taking products --------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor, scaler: Any = None, **kwargs: Any) -> None:
        """`loss.backward()`, with the Hessian-vector product when one is due.

        Gradients and products add up over calls, so micro-batches work as they do with `backward`: divide each loss by
        their number.

        Args:
            loss: 0-d tensor, the mean loss.
            scaler: A `torch.amp.GradScaler`, or None: the loss is scaled here, the gradients carry the scale and the
                product does not.
            kwargs: As for `torch.Tensor.backward`.
        """
        if self._taker.inside is not None:
            if scaler is not None:
                raise CurvatureError(f"{type(self).__name__}: backward takes no scaler inside a closure.")
            loss.backward(**kwargs)
            return
        params, scale = self._params(), 1.0
        if scaler is not None:
            loss, scale = scaler.scale(loss), float(scaler.get_scale())
        if not self._takes(loss, params):
            loss.backward(**kwargs)
            return
        self._taker.check_backward(params)
        probes, rest = shrunk(self._probes(self._between.gathered, params), scale)
        self._taker.differentiate(self._between.gathered, params, probes, raw=scaler is None, scale=rest)(loss, kwargs)
        self._between.gathered.stamp(params)

    def _takes(self, loss: Tensor, params: list[Tensor]) -> bool:
        """True where products are gathered with this step's gradients: decided once, at the first micro-batch."""
        gathered = self._between.gathered
        fresh = [p for p in params if p.grad is None]
        if len(fresh) == len(params):
            gathered.clear()
        gathered.forget(fresh)
        if gathered.due is None:
            gathered.due = self._observes() and self._between.settled is None and not callable(self._probing.probe)
            if gathered.due and not self._scheduled():
                waiting = self._waiting()
                gathered.due = bool(waiting) and self._agreed(not waiting.isdisjoint(leaves(loss)))
        return gathered.due

    def _agreed(self, wanted: bool) -> bool:
        """True where any process wants a product; all then take it, or none."""
        return any_process(wanted, self._probing.process_group, self._params())

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step; parameters without a gradient stay as they are.

        Args:
            closure: A function that clears the gradients, computes the loss, calls backward (once, or for each of
                several micro-batches, their losses divided by their number) and returns the loss. Where a product is
                due it is taken on the way. With `probe="differences"` the closure is called twice more, with the same
                random numbers; what it does to gradients and to buffers of modules is undone. One that neither goes
                backward nor returns anything, as Lightning gives in manual optimization, counts as none.
        """
        loss = None
        if closure is not None:
            takes = self._probing.probe != "graph" and not callable(self._probing.probe)
            if takes and self._observes() and self._between.settled is None and self._scheduled():
                params, pending = self._params(), Pending()
                loss = self._taker.train(closure, pending, params, self._probes(pending, params))
                if pending.taken:
                    self._between.gathered = pending  # only now, as the closure clears what was gathered before
            else:
                with torch.enable_grad():
                    loss = closure()
                if takes and self._observes() and loss is not None:
                    check_loss(type(self).__name__, loss)
                    if self._between.settled is None and self._lacking():
                        self._look_again(closure)
        self._untraced(self)
        return loss

    def _look_again(self, closure: Closure) -> None:
        """A product at once where a parameter got its first gradient on a step without one."""
        lacking = self._lacking() - self._between.gathered.held.keys()
        if self._agreed(any(p.grad is not None and p.requires_grad for p in lacking)):
            after = RandomState(self._params())
            self.curvature_step(closure)
            after.restore()

    def curvature_step(self, closure: Closure) -> Any:
        """Take a product for the coming step, whether it is due or not; a second call before that step replaces it.

        Gradients, the buffers of modules and, but for one evaluation, torch's random state stay as they are.

        Args:
            closure: A function that returns the mean loss, not scaled, of a batch or a part of it. It may call backward
                itself, also for several micro-batches, their losses divided by their number.

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
        loss = self._taker.look(closure, pending, params, self._probes(pending, params))
        self._between.settled = pending
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and the products that `backward` gathered with them."""
        super().zero_grad(set_to_none)
        self._between.gathered.clear()
        if self._taker.inside is not None:
            self._taker.inside.restart()

    def _probes(self, pending: Pending, params: Sequence[Tensor]) -> list[Tensor]:
        """The probes of the coming product: the same in every process and after every interruption."""
        if missing := [p for p in params if p not in pending.probes]:
            indices = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
            seed, number = self.param_groups[0]["probe_seed"], self._counter("products")
            drawn = draws(self._probing.distribution, seed, number, missing, [indices[p] for p in missing])
            pending.probes.update(zip(missing, drawn, strict=True))
        return [pending.probes[p] for p in params]

    # ---- the step ---------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if not self._observes():
            super()._step()
            return
        if self._is_state_init_step():
            super()._step()
            for group in self.param_groups:
                group.update({name: group.get(name, fresh) for name, fresh in _FRESH.items()})
            return
        done = self.steps_done()
        stepping = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        lacking, attempted = self._lacking(), self._prepare(stepping)
        try:
            super()._step()
        finally:
            ready, self._between.ready = self._between.ready, None
        self._between.gathered, self._between.settled = Pending(), None
        if self.steps_done() > done:
            self._between.unobserved = lacking - (ready or {}).keys()
            self._conclude(done, attempted, ready)

    def _is_state_init_step(self) -> bool:
        """Not where products were taken for this step."""
        settled, gathered = self._between.settled, self._between.gathered
        return settled is None and not gathered.taken and super()._is_state_init_step()

    def _prepare(self, params: list[Tensor]) -> bool:
        """Settle which products this step takes in, and drop the graphs that gradients carry. True where there are
        products, finite or not."""
        if replaced := self._between.gathered.stale():  # somebody cleared the gradients that these products came with
            self._between.gathered.clear()
        pending = self._between.settled or self._between.gathered
        if params and not pending.taken:
            for p in params:
                self._check_gradient(p)
            pending = self._from_step(params, replaced)
        for group in self.param_groups if pending.taken else ():
            check_windows(type(self).__name__, group["params"], self._recipe_of(group))
        _drop_graphs(params, bool(self.defaults["differentiable"]))
        self._between.ready = self._finished(pending, params) if pending.taken and params else None
        return pending.taken

    def _from_step(self, params: list[Tensor], replaced: bool) -> Pending:
        """A product that the gradients themselves can give, or a user's function."""
        pending, lacking = Pending(), self._lacking() & set(params)
        if not self._scheduled() and not lacking:
            return pending
        if callable(self._probing.probe):
            self._taker.supplied(pending, params, self._probes(pending, params))
            return pending
        has_graphs = all(p.grad is not None and p.grad.requires_grad for p in params)
        if not has_graphs and not self._scheduled() and not any(map(self._has_stepped, lacking)):
            return pending  # a newcomer stays in place, and the next step is due
        scale, _ = self._scaler()
        probes, rest = shrunk(self._probes(pending, params), 1.0 if scale is None else float(scale))
        self._taker.from_gradients(pending, params, probes, raw=scale is None, scale=rest, replaced=replaced)
        return pending

    def _finished(self, pending: Pending, params: list[Tensor]) -> dict[Tensor, tuple[Tensor, Tensor]] | None:
        """(probe, product) of each parameter with a gradient; None where the products are not finite."""
        scale, found = self._scaler()
        if pending.raw and scale is None and found is not None:
            raise CurvatureError(
                f"{type(self).__name__}: the scaler has unscaled the gradients but not the product, and its scale is "
                "not known here; use opt.backward(loss, scaler=scaler), or clip with max_norm in place of unscale_."
            )
        upside_down = {p for group in self.param_groups if self._maximizes(group) for p in group["params"]}
        averaging = False if callable(self._probing.probe) else self._probing.process_group
        products = finished(pending, params, scale, averaging, upside_down)
        if products is None:
            return None
        reached = list(products)
        return {p: (v, products[p]) for p, v in zip(reached, self._probes(pending, reached), strict=True)}

    def _has_products(self) -> bool:
        return bool(self._between.ready)

    def _observe_products(self, step: Step) -> None:
        ready, parts = self._between.ready or {}, step.part_of()
        for i, owner in enumerate(step.owners):
            if owner not in ready:
                continue
            (v, hv), work, recipe = ready[owner], step.work(i), parts[i].recipe
            scalars = parts[i].scalars[work.scalars_index]
            if work.storage.is_stochastic:
                rng_key = torch.tensor(scalars.rng_key, dtype=torch.int32, device=v.device)
                scalars = scalars._replace(rng_key=stream(rng_key, work.rng_stream, _OBSERVATION))
            seen = Observation(real_view(v), real_view(hv), owner.dim())
            context = step.division.contexts.get(i, WHOLE_TENSOR)
            observe_tensor(recipe, work.storage, scalars, work.p, seen, work.state, context)

    def _conclude(self, done: int, attempted: bool, ready: dict[Tensor, tuple[Tensor, Tensor]] | None) -> None:
        """Count, after a step that was taken."""
        self._watch.lap(attempted)
        if not attempted:
            return
        counts = {"product_at": done, "products": self._counter("products") + 1}
        counts["products_skipped"] = self._counter("products_skipped") + (ready is None)
        for group in self.param_groups:
            group.update(counts)

    # ---- state ------------------------------------------------------------------------------------------------------

    def _reset_caches(self) -> None:
        super()._reset_caches()
        self._between = Between()
        self._taker = Taker(type(self).__name__, self._probing)
        self._watch = StepTimer()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._between.unobserved = None

    def _check_capturable(self, capturable: bool) -> None:
        if capturable and self._observes():
            raise ArgumentError(
                f"{type(self).__name__}: capturable must be False: a recorded step cannot take products now and then."
            )
        super()._check_capturable(capturable)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._between.unobserved = self._between.settled = None
        self._between.gathered.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_probing": self._probing}


_SAVED = ("update_d_every", "d_warmup")  # kept in the groups, and so in checkpoints; the first group's are in force

_FRESH = {"product_at": -1, "products": 0, "products_skipped": 0}


def _has_product(state: Mapping[str, Any]) -> bool:
    """Whether a parameter has taken a product in; where a user's stages do not count them, whether it has stepped."""
    return float(state["products"].detach()) > 0 if "products" in state else step_count(state) > 0


def _drop_graphs(params: Sequence[Tensor], wanted: bool) -> None:
    """A gradient with a graph leads back to its parameter, which holds it: a circle that would keep the graph alive."""
    for p in params if not wanted else ():
        if p.grad is not None and p.grad.requires_grad:
            p.grad = p.grad.detach()
