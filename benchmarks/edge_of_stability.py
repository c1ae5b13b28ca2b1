"""Compare measured eigenvalues of the preconditioned Hessian with the stability edge that the settings predict.

    python benchmarks/edge_of_stability.py [--quick] [--methods plain,Adam] [--networks MLP] [--output FILE]

Six methods train four networks on the first 200 digits, full batch, in float32, with a linear warm-up over 100 steps.
The loss is half the squared error of the outputs against one-hot targets: sum over classes, mean over examples. The
largest eigenvalue of A^(1/2) H A^(1/2)/edge is measured before every 20th step, with the rates A of this step. Training
sharpens the loss until this ratio is about 1, the edge of stability, and keeps it there.

Protocol, fixed before the measured runs: the learning rates `RATES` were chosen in runs with seed 1, so that the ratio
reaches 1 within some hundred steps; the table uses seed 0. Each cell is the mean over the measurements of the last
third of the steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from edge_networks import NETWORKS
from processor import stamp
from table import table
from torch import Tensor, nn

import dashpot as dp
from dashpot.curvature import eigenvalues
from dashpot.data import digits
from dashpot.watching import preconditioned_hessian

METHODS = {
    "plain": dp.SGD,
    "heavy ball": lambda params, lr: dp.HeavyBall(params, lr, 0.9),
    "NAG": lambda params, lr: dp.NAG(params, lr, 0.9),
    "RMSProp": lambda params, lr: dp.RMSprop(params, lr, 0.99, 1e-7),
    "Adam": lambda params, lr: dp.Adam(params, lr, (0.9, 0.99), 1e-7),
    "AutoSGM 0": lambda params, lr: dp.AutoSGM(params, lr=lr, numerator=0, pole=0.9, beta_a=0.99, eps=1e-7),
}
RATES = {
    "MLP": {"plain": 0.1, "heavy ball": 0.15, "NAG": 0.05, "RMSProp": 3e-4, "Adam": 2e-3, "AutoSGM 0": 2e-3},
    "CNN, BatchNorm": {"plain": 0.2, "heavy ball": 0.5, "NAG": 0.15, "RMSProp": 3e-4, "Adam": 3e-3, "AutoSGM 0": 3e-3},
    "transformer": {"plain": 0.05, "heavy ball": 0.08, "NAG": 0.028, "RMSProp": 2e-4, "Adam": 2e-3, "AutoSGM 0": 2e-3},
    "residual": {"plain": 0.08, "heavy ball": 0.15, "NAG": 0.04, "RMSProp": 2e-4, "Adam": 2e-3, "AutoSGM 0": 2e-3},
}
"""Learning rates by network and method."""
STEPS = {"MLP": 1500, "CNN, BatchNorm": 1200, "transformer": 800, "residual": 800}
EVERY, WARMUP = 20, 100
EXAMPLES = 200


def data() -> tuple[Tensor, Tensor]:
    """Return the images and one-hot targets."""
    found = digits.load()
    images = torch.from_numpy(found.train_images[:EXAMPLES]).float().div_(8).sub_(1).unsqueeze(1)
    return images, nn.functional.one_hot(torch.from_numpy(found.train_labels[:EXAMPLES]).long(), 10).float()


class Measured(NamedTuple):
    """Loss and largest eigenvalues at a step, in units of the edge."""

    step: int
    loss: float
    ratios: tuple[float, ...]
    products: int


def train(method: str, network: str, lr: float, steps: int, seed: int = 0, count: int = 1) -> dict[str, Any]:
    """Train, and return the measurements with the time and the number of parameters."""
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    images, targets = data()
    optimizer = METHODS[method](model.parameters(), lr)

    def closure() -> Tensor:
        return (model(images) - targets).square().sum(1).mean() / 2

    start, rows, began = None, [], time.perf_counter()
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, step / WARMUP)
        optimizer.zero_grad()
        loss = closure()
        loss.backward()
        if not bool(loss.isfinite()):
            break
        if step % EVERY == 0:
            with preconditioned_hessian(optimizer, closure) as operator:
                found = eigenvalues(operator, count, start=start, tolerance=0.02)
            start = found.vectors
            rows.append(Measured(step, float(loss.detach()), found.values, found.iterations))
        optimizer.step()
    return {
        "rows": rows,
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def summary(found: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return the mean ratio over the last third, its spread and the first step with a ratio of at least 0.95."""
    rows = found["rows"]
    late = [row.ratios[0] for row in rows if row.step > steps * 2 / 3]
    reached = next((row.step for row in rows if row.ratios[0] >= 0.95), None)
    if len(late) < 2:  # diverged
        return {"ratio": None, "spread": None, "reached": reached, "loss": None}
    return {
        "ratio": statistics.fmean(late),
        "spread": statistics.stdev(late),
        "reached": reached,
        "loss": rows[-1].loss,
    }


def verdict(ratio: float | None) -> str:
    """Return the limit that the deviation from 1 satisfies."""
    if ratio is None:
        return "**diverged**"
    return "aim" if abs(ratio - 1) <= 0.1 else "must" if abs(ratio - 1) <= 0.2 else "**missed**"


def main() -> None:
    """Run the cells, print a row of JSON per cell, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="MLP with plain gradient descent only")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--networks", default=";".join(RATES), help="names separated by semicolons")
    parser.add_argument("--rates", type=float, nargs="*", help="try these learning rates instead of RATES")
    parser.add_argument("--count", type=int, default=1, help="number of eigenvalues; several are printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path, help="file to which rows of JSON are appended")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    methods = ["plain"] if asked.quick else asked.methods.split(",")
    networks = ["MLP"] if asked.quick else asked.networks.split(";")
    results = []
    for network in networks:
        for method in methods:
            for lr in asked.rates or [RATES[network][method]]:
                steps = asked.steps or STEPS[network]
                found = train(method, network, lr, steps, asked.seed, asked.count)
                row = {"network": network, "method": method, "lr": lr, "steps": steps, **summary(found, steps)}
                row |= {"seconds": found["seconds"], "parameters": found["parameters"]}
                print(json.dumps(row), flush=True)
                if asked.rates or asked.count > 1:
                    for each in found["rows"]:
                        print(f"  step {each.step}: {', '.join(f'{ratio:.2f}' for ratio in each.ratios)}")
                    print(f"  {statistics.fmean(each.products for each in found['rows']):.1f} products on average")
                results.append(row)
                if asked.output:
                    with asked.output.open("a") as file:
                        file.write(json.dumps({**row, "rows": found["rows"]}) + "\n")
    print(stamp())
    heads = ["network", "method", "lr", "steps", "reached 0.95", "mean ratio", "sd", "final loss", "verdict"]
    print(table(heads, (_cells(row) for row in results)))


def _cells(row: dict[str, Any]) -> list[str]:
    reached = "never" if row["reached"] is None else str(row["reached"])
    forms = {"ratio": ".3f", "spread": ".3f", "loss": ".2g"}
    numbers = ["" if row[key] is None else format(row[key], form) for key, form in forms.items()]
    return [
        row["network"],
        row["method"],
        f"{row['lr']:g}",
        str(row["steps"]),
        reached,
        *numbers,
        verdict(row["ratio"]),
    ]


if __name__ == "__main__":
    main()
