"""Coverage of the interval of the noise scale, in simulations and for gradients of the digits."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from dashpot.data import digits
from dashpot.watching import watch
from dashpot.watching.noise import NoiseProbe

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import noise_coverage
import noise_digits


def test_tables_have_a_row_for_each_condition():
    cells = [noise_coverage.Cell("halves", tail, "2", 32.0, 5) for tail in noise_coverage.TAILS]
    results = {cell: noise_coverage.coverage(cell, 10, 0) for cell in cells}
    assert noise_coverage.coverage_table(results).count("\n") == 1 + 3
    assert noise_coverage.method_table(results).count("\n") == 1 + 3 * len(noise_coverage.METHODS)


@pytest.mark.parametrize("dimension", ["2", "1000"])
def test_simulated_measurements_have_the_true_scale(dimension):
    cell = noise_coverage.Cell("sizes 4, 12, 16", "t", dimension, 32.0, 20)
    square, trace = noise_coverage.simulate(noise_coverage.np.random.default_rng(0), cell, 400)
    total = noise_coverage.SPECTRA[dimension].sum()
    for values, expected in ((trace, total), (square - trace / 32, total / 32)):
        # Four standard errors of independent measurements.
        assert abs(values.mean() - expected) < 4 * values.std() / values.size**0.5


@pytest.mark.slow
@pytest.mark.parametrize("tail", noise_coverage.TAILS[:2])
@pytest.mark.parametrize("layout", noise_coverage.LAYOUTS)
def test_interval_covers_in_2000_simulations(layout, tail):
    for seed, cell in enumerate(noise_coverage.cells(quick=True)):
        if (cell.layout, cell.tail) == (layout, tail):
            found, _ = noise_coverage.coverage(cell, 2000, 1000 + seed)
            assert 92 <= found["noise_scale"] <= 98, (cell, found)


def test_estimate_on_digits_agrees_with_the_gradients_of_all_examples():
    data = digits.load()
    x = torch.tensor(data.train_images[:300]).float().div(8).sub(1)
    y = torch.tensor(data.train_labels[:300]).long()
    model = noise_digits.network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    watcher = watch(optimizer, model, budget=1.0)
    watcher.probes = [NoiseProbe(1)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        chosen = torch.randint(len(x), (32,), generator=generator)
        loss = lambda first, last, i=chosen: cross_entropy(model(x[i[first:last]]), y[i[first:last]])  # noqa: E731
        optimizer.zero_grad()
        loss(0, 32).backward()
        watcher.observe(sliced=loss, size=32)
        optimizer.step()
    row = watcher.record.rows("noise").last
    known = noise_digits.Exact(model, x, y).sample()
    assert row["low"] < known.trace / known.square < row["high"]
    assert row["trace"] == pytest.approx(known.trace, rel=0.1)  # relative standard error .02 of about 27 measurements
    assert row["preconditioned"]["reason"] == "The learning rate is 0."
