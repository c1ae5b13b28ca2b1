"""Who does a step: compiled kernels where they are to be had and pay, the eager engine otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dashpot.engine.division import Spread
from dashpot.engine.eager import step_tensor
from dashpot.engine.inductor import Inductor, Work
from dashpot.engine.native.build import BuildError
from dashpot.engine.native.kernel import Kernel
from dashpot.engine.parts import Part
from dashpot.engine.program import WHOLE_TENSOR, Numbers
from dashpot.engine.rounding import stream
from dashpot.recipe import Recipe
from dashpot.stages.base import Context

__all__ = ["LARGE", "LOOKS", "MANY", "START", "Engine"]

LARGE, MANY = 1 << 20, 256
"""Elements, or tensors, from which on `engine="auto"` compiles before the first step: the eager engine needs about a
tenth of a millisecond for each small tensor, a compiler half a second once."""
START, LOOKS = 20, 100
"""Below that many, it starts a compiler beside the program at step START, and looks for the result at steps LOOKS,
2 LOOKS, 4 LOOKS, ... of the optimizer. The engine thus follows from the step count, not from the cache or the clock."""

_warned: set[str] = set()


class Engine:
    """The engine of one optimizer.

    mode
        "auto", "eager" or "compiled".
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.inductor = Inductor(mode, LARGE)
        self.shared = False
        """True where several processes hold pieces of the parameters."""
        self._away = 0  # elements of the present step that are not on the CPU
        self._running: set[Kernel] = set()
        self._known: set[Kernel] = set()

    def refusal(self) -> str | None:
        """Why no kernel shall be used at all, or None."""
        return "engine='eager' was asked for" if self.mode == "eager" else None

    def prepare(self, parts: list[Part], done: int) -> None:
        """Get kernels ready as far as the rule asks for it, before anything is written."""
        elsewhere = sum(part.roster.division.elsewhere for part in parts)
        self.shared = any(part.roster.division.kinds != (None,) for part in parts)
        tables = [table for part in parts for table in part.roster.tables]
        elements = sum(table.elements() for table in tables) + elsewhere
        large = elements >= LARGE or sum(len(table.positions) for table in tables) >= MANY
        away = self.inductor.elements(part.params[i] for part in parts for i in part.roster.others)
        self._away = away + elsewhere
        for part in parts:
            part.roster.refresh(part.grads)
            for table in part.roster.tables:
                self._decide(table.kernel, large, done)

    def _decide(self, kernel: Kernel, large: bool, done: int) -> None:
        if kernel.failed or kernel in self._running:
            return
        try:
            if self.mode == "compiled" or large:
                kernel.wait()
                self._running.add(kernel)
            elif done >= START and not self.shared:  # a compiler may be ready in one process and not in another
                kernel.start()
                if self._looks(kernel, done) and kernel.ready():
                    self._running.add(kernel)
        except BuildError as error:
            kernel.failed = str(error)
            _warn_once(str(error))

    def _looks(self, kernel: Kernel, done: int) -> bool:
        """True at the steps at which a finished compilation is taken up; after a resume, at the first one."""
        new = kernel not in self._known
        self._known.add(kernel)
        rounds, rest = divmod(done, LOOKS)
        return rounds > 0 and (new or (rest == 0 and rounds & (rounds - 1) == 0))

    def runs(self, kernel: Kernel) -> bool:
        """True where a kernel, not the eager engine, does the steps."""
        return kernel in self._running

    def _proven(self, kernel: Kernel, recipe: Recipe, numbers: Numbers) -> bool:
        """True for a kernel that runs and is right; one that is not runs no more."""
        if kernel not in self._running:
            return False
        if not kernel.proves(recipe, numbers):
            self._running.discard(kernel)
            _warn_once(str(kernel.failed))
            return False
        return True

    def measured(self, part: Part) -> Iterator[tuple[Spread | None, float, bool, list[Tensor]]]:
        """For each way in which gradients are divided: (that way, sum of squares and finiteness of those that kernels
        measured, the gradients left to measure)."""
        roster, left = part.roster, set(range(len(part.grads)))
        found: dict[Spread | None, tuple[float, bool]] = dict.fromkeys(roster.division.kinds, (0.0, True))
        for table in roster.tables:
            if self.runs(table.kernel):
                squares, finite = found[table.spread]
                more, good = table.kernel.measure(table.rows, torch.get_num_threads())
                found[table.spread] = squares + more, finite and good
                left -= set(table.positions.tolist())
        rest = dict(roster.division.parted(sorted(left)))
        for spread, (squares, finite) in found.items():
            grads = (part.grads[i] for i in rest.get(spread, ()))
            yield spread, squares, finite, [g for g in grads if g.numel()]

    def run(self, part: Part, scale: Any) -> None:
        """Take the step of one part, with its gradients multiplied by `scale`."""
        numbers = [n._replace(scale=(-scale if part.ascends else scale)) for n in part.numbers]
        eager = set(part.roster.others)
        for table in part.roster.tables:
            if self._proven(table.kernel, part.recipe, numbers[0]):
                table.rows[:, 1] = part.which[table.positions]
                table.kernel.step(part.recipe, table.rows, numbers, torch.get_num_threads())
                torch.autograd.graph.increment_version(table.written)
            else:
                eager |= set(table.positions.tolist())
        contexts = part.roster.division.contexts
        works = [_work(part, i) for i in sorted(eager - contexts.keys())]
        for work in self.inductor.run(part.recipe, works, numbers, self._away):
            _step_eagerly(part.recipe, work, numbers[work.row])
        for i, context in contexts.items():  # in one order in all processes, as they wait for each other
            _step_eagerly(part.recipe, _work(part, i), numbers[part.which[i]], context)
        part.roster.steps += 1


def _work(part: Part, i: int) -> Work:
    roster = part.roster
    return Work(roster.storages[i], roster.ordinals[i], part.params[i], part.grads[i], part.states[i], part.which[i])


def _step_eagerly(recipe: Recipe, work: Work, numbers: Numbers, context: Context = WHOLE_TENSOR) -> None:
    if work.storage.draws:
        word = torch.tensor(numbers.word, dtype=torch.int32, device=work.p.device)
        numbers = numbers._replace(word=stream(word, work.ordinal))
    step_tensor(recipe, work.storage, numbers, work.p, work.grad, work.state, context=context)


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(
            f"dashpot runs its slower eager engine, with the same results. {reason}", RuntimeWarning, stacklevel=6
        )
