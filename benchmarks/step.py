"""Time of one optimizer step, as a ratio to torch in the same process: interleaved rounds, median of the ratios.

    python benchmarks/step.py            # both cases
    python benchmarks/step.py large      # one of them

`large` is 25.2 million parameters in 24 (1024, 1024) and 50 (1024,) tensors, `small` the 18 tensors of the
Fashion-MNIST network. The reference is torch.optim.AdamW(fused=True). Nothing here is part of the tests.
"""

import platform
import statistics
import sys
import time

import torch

import dashpot as dp
from dashpot.comparison.environment import machine

CASES = {
    "large": ([(1024, 1024)] * 24 + [(1024,)] * 50, 9, 1),
    "small": (
        [(c, k, s, s) for c, k, s in ((8, 1, 5), (16, 8, 3), (32, 16, 3), (64, 32, 3), (10, 64, 3))]
        + [(c,) for c in (8, 16, 32, 64) for _ in range(3)]
        + [(10,)],
        21,
        20,
    ),
}
METHODS = {
    "torch AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "torch AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "torch AdamW loop": lambda p: torch.optim.AdamW(p, foreach=False),
    "dashpot SGD momentum": lambda p: dp.SGD(p, lr=1e-3, momentum=0.9),
    "dashpot AdamW": dp.AdamW,
    "dashpot AutoSGM 0": lambda p: dp.AutoSGM(p, numerator=0),
    "dashpot AutoSGM 1": lambda p: dp.AutoSGM(p, numerator=1),
    "dashpot AutoSGM 2": lambda p: dp.AutoSGM(p, numerator=2),
    "dashpot AutoSGM 3": lambda p: dp.AutoSGM(p, numerator=3),
}
REFERENCE = "torch AdamW fused"


def parameters(shapes):
    """Fresh parameters with gradients."""
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def seconds(optimizer, repeats):
    """Seconds of one step, averaged over `repeats`."""
    start = time.perf_counter()
    for _ in range(repeats):
        optimizer.step()
    return (time.perf_counter() - start) / repeats


def measure(shapes, rounds, repeats):
    """For each method the median seconds of a step and the median ratio to the reference in the same round."""
    optimizers = {name: make(parameters(shapes)) for name, make in METHODS.items()}
    for optimizer in optimizers.values():
        optimizer.step()
    table = [{name: seconds(optimizer, repeats) for name, optimizer in optimizers.items()} for _ in range(rounds)]
    return {
        name: (
            statistics.median(row[name] for row in table),
            statistics.median(row[name] / row[REFERENCE] for row in table),
        )
        for name in METHODS
    }


def main(names):
    """Measure the named cases and print a table for each."""
    about = machine()
    print(f"{about['processor']}, {about['threads']} of {about['cores']} cores, {about['system']}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}")
    for name in names:
        torch.manual_seed(0)
        shapes, rounds, repeats = CASES[name]
        print(
            f"\n{name}: {len(shapes)} tensors, {sum(torch.Size(s).numel() for s in shapes)} parameters, {rounds} rounds"
        )
        print(f"{'method':<24}{'ms a step':>12}{'ratio':>8}")
        for method, (time_s, ratio) in measure(shapes, rounds, repeats).items():
            print(f"{method:<24}{time_s * 1e3:>12.3f}{ratio:>8.2f}")


if __name__ == "__main__":
    main(sys.argv[1:] or CASES)
