"""Measure stalled weights and the applied learning rate of bfloat16 weights by rounding mode.

    python benchmarks/watch_resolution.py    # about 20 seconds

A 64-64-10 tanh network on the digits with AdamW, batch 64, all weights in bfloat16, seed 0, 402 steps. The share of
stalled elements, and the learning rate that the changes of the stored weights correspond to, are those of the first
layer at the last step; the loss is the mean over the last 50 batches.
"""

from __future__ import annotations

import torch
from processor import stamp
from table import table
from torch import nn

import dashpot as dp
from dashpot.experiments.stacked_network import digit_vectors
from dashpot.watching import watch
from dashpot.watching.dynamics import DynamicsProbe

STEPS = 402


def row(lr: float, rounding: str) -> list[str]:
    """Return a row of the table."""
    inputs, labels, _, _ = digit_vectors()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).bfloat16()
    optimizer = dp.AdamW(model.parameters(), lr=lr, rounding=rounding)
    losses = []
    with watch(optimizer, model, budget=1.0) as watcher:
        watcher.probes = [DynamicsProbe(every=50)]
        for _ in range(STEPS):
            index = torch.randint(len(labels), (64,))
            loss = nn.functional.cross_entropy(model(inputs[index].bfloat16()).float(), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    last = watcher.record.rows("dynamics").last
    assert last is not None
    share, rate = last["tensors"]["0.weight"]["stalled"], last["rates"]["0.weight"]["measured"]
    return [f"{lr:g}", rounding, f"{share:.1%}", f"{rate:.2g}", f"{sum(losses[-50:]) / 50:.3f}"]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(stamp())
    rows = [row(lr, rounding) for lr in (1e-3, 1e-4) for rounding in ("nearest", "stochastic", "kahan")]
    print(table(["lr", "rounding", "stalled", "applied lr", "loss"], rows))


if __name__ == "__main__":
    main()
