"""Who does a step: compiled kernels on the CPU, Inductor's programs on accelerators, else the eager engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dashpot._torch_private import foreach_add_
from dashpot.engine.blockwise import step_in_blocks
from dashpot.engine.eager import step_tensor
from dashpot.engine.fallback_warning import warn_uncompiled
from dashpot.engine.group_step import Step, TensorStep
from dashpot.engine.inductor import Inductor
from dashpot.engine.program import WHOLE_TENSOR, StepScalars
from dashpot.engine.rounding import stream
from dashpot.engine.sharding import ShardSpec
from dashpot.engine.stage_errors import wrap_stage_errors
from dashpot.engine.tensor_table import TensorTable
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Context

__all__ = ["MIN_ELEMENTS", "Backend"]

MIN_ELEMENTS = 1 << 20
"""Elements from which on `engine="auto"` compiles for an accelerator, where a compilation takes many seconds."""


class Backend:
    """The engine of one optimizer.

    Args:
        mode: "auto", "eager" or "compiled".
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.inductor = Inductor(mode, MIN_ELEMENTS)

    def fallback_reason(self) -> str | None:
        """Why no kernel shall be used at all, or None."""
        return "engine='eager' was asked for" if self.mode == "eager" else None

    def check(self, step: Step, tensor_table: TensorTable) -> None:
        """Compare kernels with this step's numbers and, before their first use, with the eager engine.

        Warns of what the user asked to be compiled and cannot be.
        """
        if self.mode == "compiled":
            for error in tensor_table.untraceable.values():
                warn_uncompiled(error)
        for table in tensor_table.kernel_args:
            for part in {id(part.scalars): part for part in table.parts(step)}.values():
                for scalars in part.scalars:
                    table.kernel.verify(part.recipe, table.active, scalars)

    def measure_gradients(
        self, step: Step, tensor_table: TensorTable
    ) -> Iterator[tuple[ShardSpec | None, float, bool, list[Tensor]]]:
        """For each way in which gradients are divided: (that way, sum of squares and finiteness of those that kernels
        measured, the gradients left to measure)."""
        left = set(range(len(step.grads)))
        found: dict[ShardSpec | None, tuple[float, bool]] = dict.fromkeys(step.sharding.specs, (0.0, True))
        for table in tensor_table.usable():
            squares, finite = found[table.spread]
            more, good = table.kernel.measure(table.rows, torch.get_num_threads())
            found[table.spread] = squares + more, finite and good
            left -= set(table.positions.tolist())
        rest = dict(step.sharding.group_by_spec(sorted(left)))
        for spread, (squares, finite) in found.items():
            grads = (step.grads[i] for i in rest.get(spread, ()))
            yield spread, squares, finite, [g for g in grads if g.numel()]

    def run_eager(self, step: Step, left: Sequence[int]) -> None:
        """Take the step of the parameters `left`, which no kernel takes."""
        contexts = step.sharding.contexts
        away = self.inductor.elements(step.params[i] for i in left) + step.sharding.remote_elements
        for part in step.parts:
            here = [i for i in left if part.start <= i < part.stop]
            works = [step.work(i) for i in here if i not in contexts]
            works = self.inductor.run(part.recipe, works, part.scalars, away) if away else works
            for work in step_in_blocks(part.recipe, works, part.scalars):
                _step_eagerly(part.recipe, work, part.scalars[work.scalars_index])
            for i in here:  # in one order in all processes, as they wait for each other
                if i in contexts:
                    work = step.work(i)
                    _step_eagerly(part.recipe, work, part.scalars[work.scalars_index], contexts[i])
        with torch.no_grad():
            foreach_add_([step.states[i]["step"] for i in left], 1)

    def run_kernels(self, tensor_table: TensorTable, step: Step) -> None:
        """Take the step of every other parameter. The tables have been checked, so nothing fails here."""
        threads = torch.get_num_threads()
        for table in tensor_table.usable():
            table.run(step, threads)


def _step_eagerly(recipe: Recipe, work: TensorStep, scalars: StepScalars, context: Context = WHOLE_TENSOR) -> None:
    if work.storage.is_stochastic:
        rng_key = torch.tensor(scalars.rng_key, dtype=torch.int32, device=work.p.device)
        scalars = scalars._replace(rng_key=stream(rng_key, work.rng_stream))
    with wrap_stage_errors(work.p.shape):
        step_tensor(recipe, work.storage, scalars, work.p, work.grad, work.state, context=context)
