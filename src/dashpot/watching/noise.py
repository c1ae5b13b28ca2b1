"""Gradient noise scale of a watched run: from micro-batches, from ranks, or from halves of the batch."""

from __future__ import annotations

import math
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot.curvature.accumulated import is_multiprocess
from dashpot.engine.dtensor import has_dtensor, local
from dashpot.engine.eager import real_view
from dashpot.watching.noise_halves import HalvesMode, Pair, pair_of_halves
from dashpot.watching.noise_pieces import (
    SPARSE,
    ExtraPasses,
    Gradients,
    PieceRecorder,
    Squares,
    inner_product,
)
from dashpot.watching.noise_scale import MINIMUM, NoiseSample, noise_scale
from dashpot.watching.probe import MeasurementError, Moment, Probe

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

_MEMORY = 20
"""Number of measurements over which the weights of older ones decay by a factor of e."""
_LIMIT = 6 * _MEMORY
_EARLY = 20
"""Number of steps between measurements at the start of a run, before there are enough for an estimate."""
_LARGE_SCALE = 8
"""Exponent of a factor that is more likely due to a gradient scaler than to clipping."""
_CHANGED = "The gradients of the backward passes do not add up to the gradient of the step."


class NoiseProbe(Probe):
    """Noise scale of the gradients, plain and weighted by the elementwise rates of the method.

    The gradients of one step are recorded by hooks, which are installed after the step before. With several backward
    passes (gradient accumulation) or ranks (DDP), these are the pieces of the batch; otherwise the halves of the batch
    are, through the function `sliced` of `Watcher.observe`.

    Args:
        every: Number of steps between measurements.
    """

    kind: ClassVar[str] = "noise"
    communicates: ClassVar[bool] = True
    prior: float = 1.0

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self._recorder: PieceRecorder | None = None
        self._recorded_step = 0
        self._squares: Squares | None = None
        self._why_plain: str | None = None
        self._samples: deque[tuple[int, NoiseSample, NoiseSample | None]] = deque(maxlen=_LIMIT)
        self._halves = HalvesMode()
        self._loss_scale = 1.0
        self._scale_is_known, self._is_clipped = True, False

    # ---- schedule ---------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return self._recorder is not None

    def is_due(self, step: int) -> bool:
        if self._recorder is not None and step != self._recorded_step:
            self._discard()  # a resumed run has set the number of steps
        return self.pending or self._measures(step + 1)

    def _measures(self, step: int) -> bool:
        early = step < MINIMUM * _EARLY and step % min(_EARLY, self.every) == 2 % min(_EARLY, self.every)
        return step >= 2 and (early or step % self.every == 2 % self.every)

    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()
            watcher.record.add(self.kind, self._row(watcher, moment, recorder))
        # The rates of this step weigh the gradients of the next one, so that the weights are independent of the noise.
        self._squares = None
        if recorder is None or self._measures(moment.step + 1):
            self._squares, self._why_plain = _squares(watcher)

    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        if self._squares is not None:
            self._recorder = PieceRecorder(watcher.names, self._squares)
            self._recorded_step, self._squares = moment.step + 1, None

    def close(self) -> None:
        self._discard()

    def _discard(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
        self._recorder = None

    # ---- rows -------------------------------------------------------------------------------------------------------

    def _row(self, watcher: Watcher, moment: Moment, recorder: PieceRecorder) -> dict[str, Any]:
        row: dict[str, Any] = {"step": moment.step, "source": None, "sample": None}
        reason = None
        try:
            pair = self._pair(watcher, moment, recorder)
        except MeasurementError as error:
            reason = str(error)
        else:
            row["source"] = pair.source
            samples = [_sample(pair, index) for index in (0, 1)]
            if not all(map(math.isfinite, samples[0])):
                reason = "A norm of a gradient is not finite."
            else:
                row["sample"] = samples[0]._asdict()
                self._samples.append((moment.step, samples[0], samples[1] if recorder.squares.rates else None))
        return {**row, **self._estimates(moment.step, reason)}

    def _estimates(self, step: int, reason: str | None) -> dict[str, Any]:
        """Return the running estimates; `reason` is that of a failed measurement."""
        used = self._window(step)
        found = noise_scale([sample for _, sample, _ in used], _MEMORY)
        weighted = [sample for _, _, sample in used if sample is not None]
        second = noise_scale(weighted, _MEMORY)
        why = self._why_plain if self._why_plain and not weighted else second.reason
        known = ("scale", "low", "high", "grad_square", "trace")
        preconditioned = {**{name: getattr(second, name) for name in known}, "reason": why}
        row = {**found.to_dict(), "preconditioned": preconditioned, "reason": reason or found.reason}
        if not self._scale_is_known:  # the ratios do not depend on the unknown factor of scaled and clipped gradients
            unknown = {"grad_square": None, "trace": None}
            row |= {**unknown, "sample": None, "preconditioned": {**preconditioned, **unknown}}
        return row

    def _window(self, step: int) -> list[tuple[int, NoiseSample, NoiseSample | None]]:
        """Return the measurements of the last two thirds of the run, at least the last few.

        The gradients of the first steps are often so large that they would dominate the means for long.
        """
        samples = list(self._samples)
        recent = sum(1 for at, *_ in samples if 3 * at >= step)
        return samples[-max(MINIMUM, recent) :]

    # ---- sources ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _pair(self, watcher: Watcher, moment: Moment, recorder: PieceRecorder) -> Pair:
        if recorder.sparse:
            raise MeasurementError(SPARSE)
        if moment.size is None:
            raise MeasurementError("The number of examples is unknown: pass `size` to `observe`.")
        sharded = has_dtensor(list(watcher.names))
        if sharded and not watcher.ranks.together:
            raise MeasurementError(watcher.ranks.reason or "The parameters are sharded, and not all ranks watch.")
        if not sharded and watcher.ranks.together and _is_replicated(watcher):
            pair = self._from_ranks(watcher, moment, recorder)
            if pair is not None:
                return pair
        if recorder.passes > 1 and self._adds_up(watcher, recorder.total):
            total = recorder.squares.of_all(recorder.total)
            return self._unscaled(Pair(recorder.sum_of_squares(), total, recorder.passes, moment.size, "microbatches"))
        if moment.sliced is not None and (moment.examples or 0) > 1:
            return self._from_halves(watcher, moment, recorder)
        if recorder.passes > 1:
            raise MeasurementError(_CHANGED)
        if moment.sliced is not None:
            raise MeasurementError("The batch has a single example.")
        raise MeasurementError("There are no micro-batches and no ranks: pass `sliced` to `observe`.")

    def _from_ranks(self, watcher: Watcher, moment: Moment, recorder: PieceRecorder) -> Pair | None:
        """Return the measurement of the passes of all ranks, or None if the ranks do not average their gradients.

        This is a collective.
        """
        dist = torch.distributed
        total = {p: recorder.total.get(p, torch.zeros_like(real_view(p))).clone() for p in _trainable(watcher)}
        for g in total.values():
            dist.all_reduce(g)
        counts = torch.tensor([float(recorder.passes)], dtype=torch.float64)
        sums = torch.cat([counts, recorder.sum_of_squares()]).to(next(iter(total.values())).device)
        dist.all_reduce(sums)
        ranks = dist.get_world_size()
        if not self._adds_up(watcher, {p: g / ranks for p, g in total.items()}):
            return None
        squares, pieces = sums[1:].cpu() / ranks**2, round(float(sums[0]))
        square = recorder.squares.of_all(total) / ranks**2
        return self._unscaled(Pair(squares, square, pieces, float(moment.size or 0), "ranks"))

    def _adds_up(self, watcher: Watcher, total: Gradients) -> bool:
        """Return whether the recorded gradients are proportional to those of the step, and update the loss scale.

        The factor is a power of 2 for a gradient scaler. Otherwise it is due to clipping, possibly of gradients that
        had been scaled.
        """
        grads = {p: real_view(local(p.grad)) for p in total if p.grad is not None}
        product, own, its = (inner_product(x, y) for x, y in ((total, grads), (total, total), (grads, grads)))
        if not (own > 0 and its > 0 and math.isfinite(own * its)) or product / math.sqrt(own * its) < 1 - 1e-4:
            return False
        power = math.log2(own / its) / 2
        self._is_clipped = abs(power - round(power)) > 1e-4
        if not self._is_clipped:
            self._loss_scale, self._scale_is_known = 2.0 ** round(power) * watcher.grad_scale, True
        elif power > _LARGE_SCALE and self._loss_scale == 1:
            self._scale_is_known = False
        return True

    def _unscaled(self, pair: Pair) -> Pair:
        factor = self._loss_scale**-2
        return pair._replace(squares=pair.squares * factor, total=pair.total * factor)

    def _from_halves(self, watcher: Watcher, moment: Moment, recorder: PieceRecorder) -> Pair:
        assert moment.sliced is not None
        assert moment.examples is not None
        params = list(_trainable(watcher))
        whole = None
        if recorder.passes == 1 and not is_multiprocess(None) and self._adds_up(watcher, recorder.total):
            certain = self._loss_scale == 1 or not self._is_clipped  # a scaler may have changed an earlier scale
            whole = {p: g / self._loss_scale for p, g in recorder.total.items()} if certain else None
        self._scale_is_known = True
        passes = ExtraPasses(params, moment.sliced)
        halves = self._halves.gradients(passes, moment.examples, whole)
        replicas = torch.distributed.get_world_size() if has_dtensor(params) else 1
        return pair_of_halves(halves, moment.examples, replicas, recorder.squares)


def _sample(pair: Pair, index: int) -> NoiseSample:
    return NoiseSample.of_sums(float(pair.squares[index]), float(pair.total[index]), pair.pieces, pair.batch)


def _trainable(watcher: Watcher) -> list[Tensor]:
    return [p for p in watcher.names if p.requires_grad]


def _is_replicated(watcher: Watcher) -> bool:
    """Return whether all ranks have parameters of the same shapes. This is a collective."""
    params = list(watcher.names)
    shapes = zlib.crc32(repr([tuple(p.shape) for p in params]).encode())
    smallest, largest = watcher.ranks.least([shapes, -shapes], params[0].device)
    return smallest == -largest


def _squares(watcher: Watcher) -> tuple[Squares, str | None]:
    """Return the norms with the elementwise rates of the current step, or the reason why there are no rates."""
    if has_dtensor(list(watcher.names)):
        return Squares(None), "The elementwise rates of sharded parameters are unknown."
    view = watcher.rates()
    if view.reason is not None:
        return Squares(None), view.reason
    groups = enumerate(watcher.optimizer.param_groups)
    found = {p: view.tensor(index, p) for index, group in groups for p in group["params"]}
    rates = {p: rate.rate for p, rate in found.items() if rate is not None}
    if not any(bool((rate > 0).any()) for rate in rates.values()):
        return Squares(None), "The learning rate is 0."
    return Squares(rates), None
