"""Backend selection: compiled kernels on the CPU, Inductor on accelerators, and the eager engine otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dashpot._torch_private import foreach_add_
from dashpot.engine.blockwise import step_in_blocks
from dashpot.engine.eager import step_tensor
from dashpot.engine.group_step import Step, TensorStep
from dashpot.engine.inductor import Inductor
from dashpot.engine.native.untraceable import UntraceableError
from dashpot.engine.program import WHOLE_TENSOR, StepScalars
from dashpot.engine.rounding import stream
from dashpot.engine.sharding import ShardSpec
from dashpot.engine.stage_errors import wrap_stage_errors
from dashpot.engine.tensor_table import TensorTable
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Context
from dashpot.utils.warn import warn

MIN_ELEMENTS = 1 << 20
"""Minimum number of elements on an accelerator for `engine="auto"` to compile. Compilation takes many seconds."""

_warned: set[str] = set()


class Backend:
    """The execution engine of one optimizer.

    Args:
        mode: "auto", "eager" or "compiled".

    Attributes:
        tensor_table: The tensors that kernels support, with their kernel arguments.
        inductor: The compiled steps on accelerators.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.tensor_table = TensorTable()
        self.inductor = Inductor(mode, MIN_ELEMENTS)

    def prepare(self, step: Step, complete_state: Callable[[int], None]) -> None:
        """Update the tensor table for a step; see `TensorTable.update`."""
        reason = "engine='eager'" if self.mode == "eager" else None
        recorded = "step recorded by autograd" if torch.is_grad_enabled() else None
        self.tensor_table.update(step, complete_state, recorded or reason)

    def check(self, step: Step) -> None:
        """Check the scalars that kernels read, and compare each kernel with the eager engine before its first use.

        Warns if a recipe has no kernel despite `engine="compiled"`.
        """
        if self.mode == "compiled":
            for error in self.tensor_table.untraceable.values():
                _warn_uncompiled(error)
        for args in self.tensor_table.kernel_args:
            for group in {id(group.scalars): group for group in args.groups(step)}.values():
                for scalars in group.scalars:
                    args.kernel.verify(group.plan.recipe, args.active, scalars)

    def measure_gradients(self, step: Step) -> Iterator[tuple[ShardSpec | None, tuple[float, bool, list[Tensor]]]]:
        """Measure gradients with kernels.

        Yields:
            For each distinct sharding, the pair (sharding, (sum of squares, whether all elements are finite, gradients
            that were not measured)).
        """
        left = set(range(len(step.grads)))
        found: dict[ShardSpec | None, tuple[float, bool]] = dict.fromkeys(step.sharding.specs, (0.0, True))
        for args in self.tensor_table.usable():
            total, finite = found[args.spec]
            squares, all_finite = args.kernel.measure(args.rows, torch.get_num_threads())
            found[args.spec] = total + squares, finite and all_finite
            left -= set(args.positions.tolist())
        rest = dict(step.sharding.group_by_spec(sorted(left)))
        for spec, (squares, finite) in found.items():
            grads = (step.grads[i] for i in rest.get(spec, ()))
            yield spec, (squares, finite, [g for g in grads if g.numel()])

    def run_eager(self, step: Step, positions: Sequence[int]) -> None:
        """Step the parameters at `positions` without kernels."""
        contexts = step.sharding.contexts
        elements = self.inductor.elements(step.params[i] for i in positions) + step.sharding.remote_elements
        for group in step.groups:
            recipe, scalars = group.plan.recipe, group.scalars
            members = [i for i in positions if group.start <= i < group.stop]
            tensors = [step.tensor_step(i) for i in members if i not in contexts]
            tensors = self.inductor.run(recipe, tensors, scalars, elements) if elements else tensors
            for tensor in step_in_blocks(recipe, tensors, scalars):
                _step_eager(recipe, tensor, scalars)
            for i in members:  # collectives must run in the same order on every rank
                if i in contexts:
                    _step_eager(recipe, step.tensor_step(i), scalars, contexts[i])
        with torch.no_grad():
            foreach_add_([step.states[i]["step"] for i in positions], 1)

    def run_kernels(self, step: Step) -> None:
        """Step the parameters that have a kernel. The kernel arguments are already validated, so this cannot fail."""
        threads = torch.get_num_threads()
        for args in self.tensor_table.usable():
            args.run(step, threads)


def _step_eager(
    recipe: Recipe, tensor: TensorStep, scalars: Sequence[StepScalars], context: Context = WHOLE_TENSOR
) -> None:
    own = scalars[tensor.scalars_index]
    if tensor.storage.is_stochastic:
        rng_key = torch.tensor(own.rng_key, dtype=torch.int32, device=tensor.p.device)
        own = own._replace(rng_key=stream(rng_key, tensor.rng_stream))
    with wrap_stage_errors(tensor.p.shape):
        step_tensor(recipe, tensor.storage, own, tensor.p, tensor.grad, tensor.state, context=context)


def _warn_uncompiled(error: UntraceableError) -> None:
    """Warn that a recipe has no kernel, once per process for each cause."""
    where = f" ({error.frame})" if error.frame else ""
    cause = f"{error}{where} cannot be compiled"
    if cause not in _warned:
        _warned.add(cause)
        warn(
            f'{cause}, so engine="compiled" steps these parameters in the slower eager engine, with the same results; '
            f'{error.hint}, or use engine="auto". dashpot.explain_engine(optimizer) lists the engine of every tensor.',
            RuntimeWarning,
        )
