"""Compare the predicted with the measured temperature of watched runs: a quadratic, and softmax regression on digits.

    python benchmarks/watch_temperature.py [--quick]    # about five minutes

Quadratic: 20 weights with curvatures from .2 to 1 and normal gradient noise; Hessian and covariance are known. The
prediction is that of `dashpot.watching.temperature_estimates` from the elementwise rates of the last step; the
measurement is the loss without batch noise over 20 000 steps.

Digits: softmax regression with the penalty .03 |w|^2/2 in the loss, batches of 10 independent examples at a constant
rate. All predicted numbers are those of the watcher: excess loss from the measured gradient noise, fluctuation of the
batch loss from noise, curvature and parts of batches. The excess loss is compared with the mean over the second half of
the run of the loss of all examples above its minimum, which L-BFGS finds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from processor import stamp
from table import table
from torch import Tensor, nn

from dashpot.experiments.stacked_network import digit_vectors
from dashpot.watching import watch
from dashpot.watching.curvature import CurvatureProbe
from dashpot.watching.noise import NoiseProbe
from dashpot.watching.pulse import PulseProbe
from dashpot.watching.rates import RateView
from dashpot.watching.spectrum import SpectrumProbe
from dashpot.watching.temperature import TemperatureProbe
from dashpot.watching.temperature_estimates import directions, excess_loss, rate_correction, virial

PENALTY, BATCH = 0.03, 10
QUADRATIC: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD lr .05": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD lr .5": lambda p: torch.optim.SGD(p, lr=0.5),
    "heavy ball lr .005": lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9),
    "Nesterov lr .005": lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9, nesterov=True),
    "Adam lr .01": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW lr .01, decay .1": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
DIGITS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD lr .1": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD lr .025": lambda p: torch.optim.SGD(p, lr=0.025),
    "heavy ball lr .01": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "Adam lr .002": lambda p: torch.optim.Adam(p, lr=0.002),
}


# ---- quadratic -------------------------------------------------------------------------------------------------------


def quadratic(make: Callable[[Any], torch.optim.Optimizer], steps: int) -> list[str]:
    """Return predicted and measured excess loss, deviation of the loss and virial."""
    generator = torch.Generator().manual_seed(0)
    h = torch.logspace(0, -0.7, 20, dtype=torch.float64)
    noise, batch = h.sqrt() * torch.linspace(1, 2, 20, dtype=torch.float64), 4
    w = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    optimizer = make([w])
    weights, gradients = [], []
    for t in range(steps + 2000):
        draw = torch.randn(20, generator=generator, dtype=torch.float64)
        w.grad = h * w.detach() + noise / math.sqrt(batch) * draw
        if t >= 2000:
            weights.append(w.detach().clone())
            gradients.append(w.grad)
        optimizer.step()
    path = torch.stack(weights)
    losses = (h * path**2).sum(1) / 2
    view = RateView(optimizer)
    form, found = view.group(0).form, view.tensor(0, w)
    assert form.filter is not None
    assert found is not None
    rate = found.rate * torch.ones(20)
    gain = form.filter.dc_gain
    excess = excess_loss(float((rate * noise**2).sum()), batch, gain)
    heat = (rate * noise**2).numpy()
    correction = float(np.average([rate_correction(form.filter, float(a)) for a in rate * h], weights=heat))
    number = directions(heat) or 1.0
    heats = virial(torch.stack(gradients).numpy(), path.numpy(), (gain * rate).numpy(), form.shrink or 0.0)
    assert heats is not None
    return _row(
        excess, correction, float(losses.mean()), math.sqrt(2 / number) * excess, float(losses.std()), heats.ratio
    )


def _row(excess: float, correction: float, measured: float, spread: float, deviation: float, ratio: float) -> list[str]:
    shares = [measured / excess, measured / (excess * correction), deviation / spread]
    return [f"{excess:.4f}", f"{measured:.4f}", *(f"{share:.3f}" for share in shares), f"{ratio:.3f}"]


# ---- digits ----------------------------------------------------------------------------------------------------------


def digits(make: Callable[[Any], torch.optim.Optimizer], steps: int, lowest: float) -> list[str]:
    """Return predicted and measured excess loss, and deviation of the batch loss."""
    inputs, labels, _, _ = digit_vectors()
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    nn.init.zeros_(model.weight)
    optimizer = make(model.parameters())
    watcher = watch(optimizer, model, budget=1.0)
    watcher.probes = [
        PulseProbe(),
        NoiseProbe(every=20),
        CurvatureProbe(every=500),
        SpectrumProbe(every=520, start=steps // 2),
        TemperatureProbe(every=10),
    ]
    excess: list[float] = []
    for step in range(1, steps + 1):
        index = torch.randint(len(labels), (BATCH,))
        x, y = inputs[index], labels[index]

        def sliced(first: int, last: int, x: Tensor = x, y: Tensor = y) -> Tensor:
            return objective(model, x[first:last], y[first:last])

        loss = sliced(0, BATCH)
        optimizer.zero_grad()
        loss.backward()
        watcher.observe(loss, closure=lambda s=sliced: s(0, BATCH), sliced=sliced, size=BATCH)
        optimizer.step()
        if step > steps // 2 and step % 10 == 0:
            with torch.no_grad():
                excess.append(float(objective(model, inputs, labels)) - lowest)
    return _digits_row(watcher.record, excess)


def _digits_row(record: Any, excess: list[float]) -> list[str]:
    rows = [row for row in record.rows("temperature") if row["predicted"] is not None][-20:]
    if not rows:
        return [str(record.rows("temperature").last["reason"])]
    predicted = _mean([row["excess"] for row in rows])
    ratios = [
        row["virial"]["ratio"] for row in record.rows("spectrum") if row["virial"] is not None and row["steps"] > 500
    ]
    measured, total = _mean([row["measured"] for row in rows]), _mean([row["predicted"] for row in rows])
    sampling = _mean([row["parts"]["sampling"] for row in rows]), _mean([row["expected"]["sampling"] for row in rows])
    weights = _mean([row["parts"]["weights"] for row in rows]), _mean([row["expected"]["weights"] for row in rows])
    deviation = float(np.std(excess))
    numbers = [predicted, _mean(excess), total, measured, sampling[1], sampling[0], weights[1], weights[0], deviation]
    return [*(f"{number:.4f}" for number in numbers), f"{_mean(ratios):.2f}"]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def objective(model: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy with the penalty."""
    penalty = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
    return nn.functional.cross_entropy(model(x), y) + PENALTY / 2 * penalty


def minimum() -> float:
    """Return the smallest loss of all training examples."""
    inputs, labels, _, _ = digit_vectors()
    model = nn.Linear(64, 10)
    solver = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        loss = objective(model, inputs, labels)
        loss.backward()
        return float(loss.detach())

    solver.step(closure)
    return closure()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs, whose numbers are inaccurate")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(stamp())
    heads = ["quadratic", "excess, predicted", "measured", "ratio", "ratio at finite rate", "deviation ratio", "virial"]
    print(table(heads, [[name, *quadratic(make, 2000 if quick else 20000)] for name, make in QUADRATIC.items()]))
    heads = ["digits", "excess, predicted", "measured", "deviation, predicted", "measured", "of sampling, predicted"]
    heads += ["measured", "of weights, upper bound", "measured", "of the loss of all examples", "virial"]
    lowest = minimum()
    print(table(heads, [[name, *digits(make, 2000 if quick else 8000, lowest)] for name, make in DIGITS.items()]))


if __name__ == "__main__":
    main()
