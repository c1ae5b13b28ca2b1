"""Base class of the second-order optimizers, which schedules, computes and applies Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from dashpot.constraints import ARGUMENTS, check
from dashpot.curvature.accumulated import AccumulatedProducts, PendingProducts, any_rank, reduced_products
from dashpot.curvature.backward_capture import check_loss
from dashpot.curvature.graph import leaves
from dashpot.curvature.hvp import HvpComputer
from dashpot.curvature.hvp_options import Probing
from dashpot.curvature.probes import draw_probes, scaled_probes
from dashpot.curvature.sharded import check_spatial_sharding
from dashpot.curvature.state_guards import RngSnapshot
from dashpot.curvature.stats import CurvatureStats, StepTimer
from dashpot.engine.eager import observe_tensor, real_view
from dashpot.engine.group_step import Step
from dashpot.engine.program import WHOLE_TENSOR
from dashpot.engine.rounding import stream
from dashpot.engine.tensor_table import step_count
from dashpot.errors import ArgumentError, CurvatureError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options
from dashpot.stages.base import Observation
from dashpot.utils.scalars import read

_OBSERVATION = 0x0B5E  # RNG stream for rounding in observations, separate from the stream of the step

Closure = Callable[[], Any]


class SecondOrder(Optimizer):
    """Base class of the second-order methods: `dashpot.Optimizer` with Hessian-vector products.

    A Hessian-vector product H v with a random probe v is computed in each of the first `d_warmup` steps and then every
    `update_d_every` steps. If a parameter does not have a product yet, one is also computed in the next step, and the
    parameter is not updated until then. H is the Hessian of the mean loss, without clipping and loss scaling. The loss
    can be provided in several ways; the most convenient way is listed first:

        opt.backward(loss); opt.step()                      # in place of loss.backward(), also per micro-batch
        loss.backward(create_graph=opt.should_create_graph()); opt.step()
        opt.step(closure)                                   # the closure zeroes gradients and calls backward
        opt.curvature_step(closure); opt.step()             # computes only the product, for example on part of a batch

    Steps without a product are identical to steps of a first-order optimizer. A product that contains nan or inf is
    skipped and counted in `curvature_stats`.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        defaults: Default settings of the groups.
        probing: Options for probing, see `dashpot.curvature.ProbingOptions`.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.
        CurvatureError: If a product cannot be computed in the requested way. Weights and state are then unchanged.
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
            stored = {name: getattr(self._probing, name) for name in _STORED}
            defaults = {**defaults, **stored, "probe_seed": options.get("seed", 0)}
        super().__init__(params, defaults, **options)

    @property
    def probing(self) -> Probing:
        """The resolved probing options."""
        return self._current_probing() if self._observes() else self._probing

    # ---- scheduling of Hessian-vector products -----------------------------------------------------------------------

    def should_create_graph(self) -> bool:
        """Return True if the next step requires gradients with an autograd graph. This call has no side effects.

        Example:
            >>> import torch, dashpot as dp
            >>> opt = dp.ESGD([torch.zeros(1, requires_grad=True)])
            >>> opt.should_create_graph(), opt.should_create_graph()
            (True, True)
        """
        return (
            self._observes()
            and self._pending.from_curvature_step is None
            and (self._is_scheduled() or bool(self._due_params()))
        )

    def _observes(self) -> bool:
        """Return True if a stage of the method uses Hessian-vector products."""
        return True

    def _is_scheduled(self) -> bool:
        last = self._counter("product_at")
        return self._current_probing().due(self.steps_done(), None if last < 0 else last)

    def _current_probing(self) -> Probing:
        """Return the probing options, with the values that the first group currently contains."""
        group, values = self.param_groups[0], {}
        for name in _STORED:
            values[name] = read(group.get(name, getattr(self._probing, name)))
            check(type(self).__name__, name, values[name], ARGUMENTS[name])
        return self._probing._replace(**values)

    def _counter(self, name: str) -> int:
        """Return a counter stored in the groups."""
        lowest = _INITIAL_COUNTERS[name]
        return max((self._count(group, name, lowest) for group in self.param_groups if name in group), default=lowest)

    def _due_params(self) -> set[Tensor]:
        """Return the parameters without a Hessian-vector product that have or previously had a gradient."""
        return {p for p in self._without_product() if p.requires_grad and (p.grad is not None or self._has_stepped(p))}

    def _has_stepped(self, p: Tensor) -> bool:
        return step_count(self.state.get(p, {})) > 0

    def _without_product(self) -> set[Tensor]:
        """Return the parameters that do not have a Hessian-vector product yet."""
        every = [p for group in self.param_groups for p in group["params"]]
        if self._pending.unobserved is None:  # read from the state at the start and after loading
            self._pending.unobserved = {p for p in every if not _has_product(self.state.get(p, {}))}
        return self._pending.unobserved | {
            p for p in every if p not in self.state
        }  # the user may have cleared the state

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def curvature_stats(self) -> CurvatureStats:
        """Statistics of the Hessian-vector products: route, number and cost, see `dashpot.curvature.CurvatureStats`.

        Example:
            >>> import torch, dashpot as dp
            >>> w = torch.ones(1, requires_grad=True)
            >>> opt = dp.ESGD([w])
            >>> opt.backward((w**4).sum()); opt.step(); opt.curvature_stats[:4]
            ('closure', 'a loss was passed', 1, 0)
        """
        skipped = self._counter("products_skipped")
        route, reason = self._hvp.route or (None, None)
        taken = self._counter("products") - skipped
        return CurvatureStats(route, reason, taken, skipped, *self._watch.medians(), self._watch.share())

    # ---- computation of Hessian-vector products ----------------------------------------------------------------------

    def backward(self, loss: Tensor, scaler: Any = None, **kwargs: Any) -> None:
        """Call `loss.backward()` and compute the Hessian-vector product if one is due.

        Gradients and Hessian-vector products accumulate over calls. With micro-batches, divide each loss by the number
        of micro-batches.

        Args:
            loss: The mean loss, a 0-d tensor.
            scaler: A `torch.amp.GradScaler`, or None. This method scales the loss, so pass the unscaled loss. The
                gradients are then scaled, but the Hessian-vector product is not.
            kwargs: Keyword arguments of `torch.Tensor.backward`.

        Raises:
            CurvatureError: If the product cannot be computed.
        """
        if self._hvp.inside is not None:
            if scaler is not None:
                raise CurvatureError(f"{type(self).__name__}: scaler must be None inside a closure.")
            loss.backward(**kwargs)
            return
        params, scale = self._params(), 1.0
        if scaler is not None:
            loss, scale = scaler.scale(loss), float(scaler.get_scale())
        if not self._accumulates(loss, params):
            loss.backward(**kwargs)
            return
        self._hvp.check_backward(params)
        probes, rest = scaled_probes(self._probes(self._pending.from_gradients, params), scale)
        self._hvp.differentiate(self._pending.from_gradients, params, probes, raw=scaler is None, scale=rest)(
            loss, kwargs
        )
        self._pending.from_gradients.stamp(params)

    def _scale_products(self, factor: Any) -> None:
        """Multiply the products accumulated by `backward`, after the gradients were multiplied by the same factor."""
        self._pending.from_gradients.multiply(factor)

    def _accumulates(self, loss: Tensor, params: list[Tensor]) -> bool:
        """Return True if backward passes of this step accumulate products. The first micro-batch decides this."""
        from_gradients = self._pending.from_gradients
        fresh = [p for p in params if p.grad is None]
        if len(fresh) == len(params):
            from_gradients.clear()
        from_gradients.forget(fresh)
        if from_gradients.due is None:
            from_gradients.due = (
                self._observes() and self._pending.from_curvature_step is None and not callable(self._probing.probe)
            )
            if from_gradients.due and not self._is_scheduled():
                waiting = self._due_params()
                from_gradients.due = bool(waiting) and self._any_rank(not waiting.isdisjoint(leaves(loss)))
        return from_gradients.due

    def _any_rank(self, wanted: bool) -> bool:
        """Return True if any rank requires a Hessian-vector product, in which case all ranks compute one."""
        return any_rank(wanted, self._probing.process_group, self._params())

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step. Parameters without a gradient are not updated.

        Args:
            closure: A function that zeroes the gradients, computes the loss, calls backward (once, or once for each
                micro-batch, with losses divided by the number of micro-batches) and returns the loss. If a
                Hessian-vector product is due, it is computed from the closure. With `probe="differences"`, the closure
                is called twice more, with the same random numbers and without an effect on gradients and module
                buffers. A closure without a backward pass and a return value, as in Lightning's manual optimization, is
                ignored.

        Returns:
            The return value of the closure, or None without a closure.
        """
        loss = None
        if closure is not None:
            takes = self._probing.probe != "graph" and not callable(self._probing.probe)
            if takes and self._observes() and self._pending.from_curvature_step is None and self._is_scheduled():
                params, pending = self._params(), AccumulatedProducts()
                loss = self._hvp.with_gradients(closure, pending, params, self._probes(pending, params))
                if pending.taken:
                    self._pending.from_gradients = (
                        pending  # assigned after the call, because the closure clears accumulated products
                    )
            else:
                with torch.enable_grad():
                    loss = closure()
                if takes and self._observes() and loss is not None:
                    check_loss(type(self).__name__, loss)
                    if self._pending.from_curvature_step is None and self._without_product():
                        self._late_product(closure)
        self._untraced(self)
        return loss

    def _late_product(self, closure: Closure) -> None:
        """Compute a Hessian-vector product if a parameter gets its first gradient in a step without a product."""
        missing = self._without_product() - self._pending.from_gradients.held.keys()
        if self._any_rank(any(p.grad is not None and p.requires_grad for p in missing)):
            random_state = RngSnapshot(self._params())
            self.curvature_step(closure)
            random_state.restore()

    def curvature_step(self, closure: Closure) -> Any:
        """Compute the Hessian-vector product of the next step, even if none is due, and replace any earlier product.

        Gradients and module buffers are unchanged. torch's RNG advances as in a single evaluation of the closure.

        Args:
            closure: A function that returns the unscaled mean loss of a batch or of a part of it. It may call backward
                itself, even for several micro-batches, with losses divided by the number of micro-batches.

        Returns:
            The loss returned by the closure.

        Raises:
            ArgumentError: If no stage of the method uses Hessian-vector products.
            CurvatureError: If the product cannot be computed.

        Example:
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
            raise ArgumentError(
                f"{type(self).__name__}: curvature_step requires a stage that uses Hessian-vector products."
            )
        params, pending = self._params(), AccumulatedProducts()
        loss = self._hvp.without_gradients(closure, pending, params, self._probes(pending, params))
        self._pending.from_curvature_step = pending
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients and the Hessian-vector products that `backward` has accumulated."""
        super().zero_grad(set_to_none)
        self._pending.from_gradients.clear()
        if self._hvp.inside is not None:
            self._hvp.inside.restart()

    def _probes(self, pending: AccumulatedProducts, params: Sequence[Tensor]) -> list[Tensor]:
        """Return the probes of the next Hessian-vector product. They are identical on every rank and after resuming."""
        if missing := [p for p in params if p not in pending.probes]:
            indices = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
            seed, number = self.param_groups[0]["probe_seed"], self._counter("products")
            drawn = draw_probes(self._probing.distribution, seed, number, missing, [indices[p] for p in missing])
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
                group.update({name: group.get(name, initial) for name, initial in _INITIAL_COUNTERS.items()})
            return
        done = self.steps_done()
        stepping = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        missing, attempted = self._without_product(), self._select_products(stepping)
        try:
            super()._step()
        finally:
            ready, self._pending.ready = self._pending.ready, None
        self._pending.from_gradients, self._pending.from_curvature_step = AccumulatedProducts(), None
        if self.steps_done() > done:
            self._pending.unobserved = missing - (ready or {}).keys()
            self._update_counters(done, attempted, ready)

    def _is_state_init_step(self) -> bool:
        """Return False if Hessian-vector products were computed for this step."""
        from_curvature_step, from_gradients = self._pending.from_curvature_step, self._pending.from_gradients
        return from_curvature_step is None and not from_gradients.taken and super()._is_state_init_step()

    def _select_products(self, params: list[Tensor]) -> bool:
        """Select the Hessian-vector products of this step, detach the gradients, and return whether any exist."""
        if replaced := self._pending.from_gradients.stale():  # the gradients of these products were cleared
            self._pending.from_gradients.clear()
        pending = self._pending.from_curvature_step or self._pending.from_gradients
        if params and not pending.taken:
            for p in params:
                self._check_gradient(p)
            pending = self._product_from_gradients(params, replaced)
        for group in self.param_groups if pending.taken else ():
            check_spatial_sharding(type(self).__name__, group["params"], self._recipe_of(group))
        if not self.defaults["differentiable"]:
            _detach_gradients(params)
        self._pending.ready = self._reduced_products(pending, params) if pending.taken and params else None
        return pending.taken

    def _product_from_gradients(self, params: list[Tensor], replaced: bool) -> AccumulatedProducts:
        """Compute a Hessian-vector product from gradients with an autograd graph, or with the user's function."""
        pending, missing = AccumulatedProducts(), self._without_product() & set(params)
        if not self._is_scheduled() and not missing:
            return pending
        if callable(self._probing.probe):
            self._hvp.supplied(pending, params, self._probes(pending, params))
            return pending
        has_graphs = all(p.grad is not None and p.grad.requires_grad for p in params)
        if not has_graphs and not self._is_scheduled() and not any(map(self._has_stepped, missing)):
            return pending  # new parameters are not updated until the next step, which computes a product
        scale, _ = self._scaler()
        probes, rest = scaled_probes(self._probes(pending, params), 1.0 if scale is None else float(scale))
        self._hvp.from_gradients(pending, params, probes, raw=scale is None, scale=rest, replaced=replaced)
        return pending

    def _reduced_products(
        self, pending: AccumulatedProducts, params: list[Tensor]
    ) -> dict[Tensor, tuple[Tensor, Tensor]] | None:
        """Return the pair (probe, product) for each parameter with a gradient, or None if any product is not finite."""
        scale, found = self._scaler()
        if pending.raw and scale is None and found is not None:
            raise CurvatureError(
                f"{type(self).__name__}: scaler.unscale_ unscaled the gradients but not the product, whose scale is "
                "unknown; use opt.backward(loss, scaler=scaler), or clip with max_norm in place of unscale_."
            )
        negated = {p for group in self.param_groups if self._maximizes(group) for p in group["params"]}
        averaging = False if callable(self._probing.probe) else self._probing.process_group
        products = reduced_products(pending, params, scale, averaging, negated)
        if products is None:
            return None
        reached = list(products)
        return {p: (v, products[p]) for p, v in zip(reached, self._probes(pending, reached), strict=True)}

    def _has_products(self) -> bool:
        return bool(self._pending.ready)

    def _observe_products(self, step: Step) -> None:
        ready, groups = self._pending.ready or {}, step.group_of()
        for i, owner in enumerate(step.owners):
            if owner not in ready:
                continue
            (v, hv), tensor = ready[owner], step.tensor_step(i)
            scalars = groups[i].scalars[tensor.scalars_index]
            if tensor.storage.is_stochastic:
                rng_key = torch.tensor(scalars.rng_key, dtype=torch.int32, device=v.device)
                scalars = scalars._replace(rng_key=stream(rng_key, tensor.rng_stream, _OBSERVATION))
            seen = Observation(real_view(v), real_view(hv), owner.dim())
            context, recipe = step.sharding.contexts.get(i, WHOLE_TENSOR), groups[i].plan.recipe
            observe_tensor(recipe, tensor.storage, scalars, tensor.p, seen, tensor.state, context)

    def _update_counters(self, done: int, attempted: bool, ready: dict[Tensor, tuple[Tensor, Tensor]] | None) -> None:
        """Update the counters of products after a step that was not skipped."""
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
        self._pending = PendingProducts()
        self._hvp = HvpComputer(type(self).__name__, self._probing)
        self._watch = StepTimer()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._pending.unobserved = None

    def _check_capturable(self, capturable: bool) -> None:
        if capturable and self._observes():
            raise ArgumentError(
                f"{type(self).__name__}: capturable must be False: a CUDA graph cannot record products at intervals."
            )
        super()._check_capturable(capturable)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._pending.unobserved = self._pending.from_curvature_step = None
        self._pending.from_gradients.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_probing": self._probing}


_STORED = ("update_d_every", "d_warmup")  # stored in all groups and in checkpoints; the values of the first group apply

_INITIAL_COUNTERS = {"product_at": -1, "products": 0, "products_skipped": 0}


def _has_product(state: Mapping[str, Any]) -> bool:
    """Return whether a parameter has a product or, if stages do not count products, whether it has taken a step."""
    return float(state["products"].detach()) > 0 if "products" in state else step_count(state) > 0


def _detach_gradients(params: Sequence[Tensor]) -> None:
    """Detach gradients, because a gradient with an autograd graph is in a reference cycle that keeps it alive."""
    for p in params:
        if p.grad is not None and p.grad.requires_grad:
            p.grad = p.grad.detach()
