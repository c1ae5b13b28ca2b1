"""Noise scale of a run on the digits against the gradients of all single examples.

    python benchmarks/noise_digits.py [--quick]

A network of one hidden layer is trained by AdamW on random batches of 50 of the 1500 training digits, and the noise
scale is measured from halves of the batch every 20 steps. At the same steps, the gradients of all examples give the
exact trace of their covariance and |G|^2, also weighted by the rates of the method. First table: the running estimate
compared with the ratio of the exact values, averaged over the same measurements with the same weights.

Second table: at the weights after some of the steps, coverage of the 95 % interval in simulations that draw batches of
50 from the gradients of all examples, for 5 and 20 measurements of halves.
"""

from __future__ import annotations

import argparse
import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from processor import stamp
from table import table
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import dashpot as dp
from dashpot.data import digits
from dashpot.watching import NoiseSample, NoiseScale, noise_scale, watch
from dashpot.watching.noise import NoiseProbe

BATCH, EVERY, SHOWN = 50, 20, (102, 202, 402, 602)
Array = NDArray[np.float64]


class Exact:
    """Gradients of all examples at the current weights, one row for each example."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        weights = {name: p.detach() for name, p in model.named_parameters()}

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(functional_call(model, weights, (x[None],)), y[None])

        found = vmap(grad(loss), (None, 0, 0))(weights, x, y)
        self.rows = torch.cat([g.flatten(1) for g in found.values()], 1).double()

    def sample(self, rates: Tensor | None = None) -> NoiseSample:
        """Return |G|^2 and the trace of the covariance; `batch` is infinite, so that `square` is |G|^2."""
        rows = self.rows if rates is None else self.rows * rates.double().sqrt()
        mean = rows.mean(0)
        return NoiseSample(float(mean @ mean), float((rows - mean).square().sum() / len(rows)), math.inf)

    def gram(self) -> Array:
        """Return the inner products of the gradients."""
        return (self.rows @ self.rows.T).numpy()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def train(steps: int) -> tuple[list[list[str]], dict[int, Exact]]:
    """Return the rows of the first table, and the exact gradients at the shown steps."""
    data = digits.load()
    x, y = torch.tensor(data.train_images).float().div(8).sub(1), torch.tensor(data.train_labels).long()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    watcher = watch(optimizer, model, budget=1.0)
    probe = NoiseProbe(EVERY)
    watcher.probes = [probe]
    generator = torch.Generator().manual_seed(0)
    truth: list[tuple[NoiseSample, NoiseSample]] = []
    rows, kept, inside, seen = [], {}, [0, 0], 0
    for step in range(1, steps + 1):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        loss = lambda first, last, i=chosen: cross_entropy(model(x[i[first:last]]), y[i[first:last]])  # noqa: E731
        optimizer.zero_grad()
        loss(0, BATCH).backward()
        watcher.observe(sliced=loss, size=BATCH)
        if probe._recorder is not None:
            rates = probe._recorder.squares.rates or {}
            exact = Exact(model, x, y)
            truth.append((exact.sample(), exact.sample(torch.cat([rates[p].flatten() for p in model.parameters()]))))
            if step in SHOWN:
                kept[step] = exact
        optimizer.step()
        row = watcher.record.rows("noise").last
        if row is not None and row["step"] == step and row["low"] is not None:
            count = row["samples"]
            results = []
            for index, found in enumerate((row, row["preconditioned"])):
                true = _ratio([pair[index] for pair in truth[-count:]])
                inside[index] += (found["low"] or math.inf) <= true <= (found["high"] or math.inf)
                results += [_shown(found), f"{true:.3g}"]
            seen += 1
            if step in SHOWN:
                rows.append([str(step), str(count), *results])
    rows.append(["inside", "", f"{inside[0]} of {seen}", "", f"{inside[1]} of {seen}", ""])
    return rows, kept


def _ratio(samples: list[NoiseSample]) -> float:
    """Return the ratio of the averages that `noise_scale` estimates in the probe."""
    found: NoiseScale = noise_scale([sample._replace(batch=1e30) for sample in samples], memory=20)
    assert found.scale is not None
    return found.scale


def _shown(row: dict[str, float | None]) -> str:
    scale, low, high = ("none" if row[name] is None else f"{row[name]:.3g}" for name in ("scale", "low", "high"))
    return f"{scale} ({low} to {high})"


def coverage(exact: Exact, count: int, simulations: int) -> float:
    """Return the coverage in percent for batches drawn from the gradients of all examples."""
    rng, gram, half = np.random.default_rng(0), exact.gram(), BATCH // 2
    known = exact.sample()
    true, covered = known.trace / known.square, 0
    for _ in range(simulations):
        i = rng.integers(len(gram), size=(count, BATCH))
        blocks = gram[i[:, :, None], i[:, None, :]].reshape(count, 2, half, 2, half).sum((2, 4)) / half**2
        square = blocks.sum((1, 2)) / 4
        trace = BATCH / 4 * (blocks[:, 0, 0] + blocks[:, 1, 1] - 2 * blocks[:, 0, 1])
        found = noise_scale(map(NoiseSample, square, trace, itertools.repeat(BATCH)))
        covered += found.low is not None and found.low <= true <= (math.inf if found.high is None else found.high)
    return 100 * covered / simulations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="202 steps and 200 simulations")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, kept = train(SHOWN[1] if given.quick else SHOWN[-1])
    print(f"{stamp()} dashpot {dp.__version__}, torch {torch.__version__}.\n")
    print(table(["step", "measurements", "noise scale", "exact", "preconditioned", "exact"], rows), "\n")
    covered = []
    for step, exact in kept.items():
        known = exact.sample()
        norms = exact.rows.square().sum(1)
        ratio = float(norms.square().mean() / norms.mean() ** 2)
        shares = [f"{coverage(exact, count, 200 if given.quick else 2000):.1f}" for count in (5, 20)]
        covered.append([str(step), f"{known.trace / known.square:.3g}", f"{ratio:.3g}", *shares])
    heads = ["step", "exact scale", "mean of |g_i|^4/mean^2", "5 measurements", "20 measurements"]
    print(table(heads, covered))


if __name__ == "__main__":
    main()
