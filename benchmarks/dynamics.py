"""Measurements of docs/dynamics.md: time of a recorded step, error of the published form, and a run on Fashion-MNIST.

    python benchmarks/dynamics.py [cost] [published] [fashion-mnist]    # default: all, about three minutes

The runs use seed 0 and one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch
from table import table
from torch import nn

import dashpot as dp
from dashpot import tasks
from dashpot.analysis import Dynamics, TensorDynamics, dynamics, record_steps
from dashpot.training import Callback, Engine, Learner, StepDynamics

ZERO = 0.5528  # of AutoSGM
PUBLISHED_STEPS = (1, 2, 3, 4, 12)
ALPHA_STEPS = (1, 10, 100, 354)
LAYER = "3.weight"  # second convolution


# ---- time of a step --------------------------------------------------------------------------------------------------


class Timer(Callback):
    """Callback that records the CPU time at the end of each step."""

    order = 99

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_step(self, learner: Learner) -> None:
        del learner
        self.times.append(time.process_time())


def milliseconds(callbacks: Sequence[Callback]) -> float:
    """Return the mean CPU time of 60 steps of AdamW on digits, after 60 others, in milliseconds."""
    timer = Timer()
    learner = Learner.of(tasks.get("digits", validation_size=0).build(0), dp.AdamW, lr=0.01, engine=Engine("cpu"))
    learner.fit(4, evaluate=False, callbacks=[*callbacks, timer])
    return 1e3 * (timer.times[-1] - timer.times[-61]) / 60


def cost() -> str:
    """Return the table of step times."""
    kinds = {"none": [], "`StepDynamics()`": [StepDynamics()], "`StepDynamics(every=10)`": [StepDynamics(every=10)]}
    rows = ([name, f"{milliseconds(callbacks):.1f}"] for name, callbacks in kinds.items())
    return table(["recorder", "CPU time of a step, ms"], rows)


# ---- published form --------------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[..., dp.Optimizer]] = {
    "AdamW, pole .9": dp.AdamW,
    "AutoSGM, pole .9, zero .5528, debiased": partial(dp.AutoSGM, zero=ZERO),
    "the same without debiasing, first output unscaled": partial(
        dp.AutoSGM, zero=ZERO, debias=False, quirks=("first_step_unscaled_zero",)
    ),
    "AutoSGM without debiasing, zero 0, change-level decay .01": partial(
        dp.AutoSGM, debias=False, decay="change", weight_decay=0.01
    ),
    "HeavyBall, pole .9": partial(dp.HeavyBall, pole=0.9),
}


def published() -> str:
    """Return the table of errors of the published form in the first layer, per largest change of the step."""
    rows = []
    for name, method in METHODS.items():
        errors = published_errors(on_digits(method)["0.weight"])
        rows.append([name, *(f"{errors[step - 1]:.2g}" for step in PUBLISHED_STEPS)])
    return table(["method", *(f"step {step}" for step in PUBLISHED_STEPS)], rows)


def on_digits(method: Callable[..., dp.Optimizer]) -> Dynamics:
    """Return the dynamics of the first steps on digits in float64 at lr .01."""
    problem = tasks.get("digits", validation_size=0).build(0)
    model = problem.model.double()
    optimizer = method(model.named_parameters(), lr=0.01)
    with record_steps(optimizer) as recording:
        for x, y in islice(problem.train, PUBLISHED_STEPS[-1]):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x.double()), y).backward()
            optimizer.step()
    return dynamics(recording)


def published_errors(found: TensorDynamics) -> np.ndarray:
    sizes = found.statistics["dw"]["sup"]
    return found.published_residual * sizes.max() / sizes


# ---- Fashion-MNIST ---------------------------------------------------------------------------------------------------

RUNS: dict[str, Callable[..., dp.Optimizer]] = {
    "AdamW": dp.AdamW,
    "AutoSGM": partial(dp.AutoSGM, zero=ZERO, numerator=1, decay="change", weight_decay=0.01),
}


def fashion_mnist() -> str:
    """Return the table of runs of 3 epochs in float32 at lr .001."""
    columns = {}
    for name, method in RUNS.items():
        learner = Learner.of(
            tasks.get("fashion-mnist", validation_size=0).build(0), method, lr=1e-3, engine=Engine("cpu")
        )
        recorder = StepDynamics(elements=256)
        learner.fit(3, callbacks=[recorder])
        accuracy = learner.history[-1]["eval"]["accuracy"]
        columns[name] = {**described(recorder.dynamics), "accuracy on the evaluation images": f"{accuracy:.3f}"}
    names = next(iter(columns.values()))
    return table(["", *columns], ([name, *(column[name] for column in columns.values())] for name in names))


def described(found: Dynamics) -> dict[str, str]:
    """Return the quantities of a run by description."""
    tensors = list(found.tensors.values())
    alpha = {step: np.quantile(found[LAYER].alpha[step - 1], [0.05, 0.5, 0.95]) for step in ALPHA_STEPS}
    spreads = [high / low for low, _, high in alpha.values()]
    restarts = {name: int(tensor.restarts.sum()) for name, tensor in found.tensors.items() if tensor.restarts.any()}
    largest = max(found.tensors, key=lambda name: found[name].statistics["alpha"]["sup"].max())
    return {
        "steps": str(len(tensors[0].steps)),
        "error of the recursion": f"{found.residual:.1e}",
        "rounding of the weights": f"{max(t.resolution.max() for t in tensors):.1e}",
        "largest error of the published form": f"{found.published_residual:.2f}",
        "largest change": f"{max(t.statistics['dw']['sup'].max() for t in tensors):.3g}",
        "changes above their bound": "none" if found.bound_holds else "some",
        **{
            f"alpha in `{LAYER}` at step {step}: 5 %, median, 95 %": ", ".join(f"{value:.2g}" for value in values)
            for step, values in alpha.items()
        },
        "95 % over 5 %": f"{min(spreads):.2g} to {max(spreads):.2g}",
        "largest alpha": f"{found[largest].statistics['alpha']['sup'].max():.2g} in `{largest}`",
        "restarts": ", ".join(f"{count} in `{name}`" for name, count in restarts.items()) or "none",
    }


PARTS = {"cost": cost, "published": published, "fashion-mnist": fashion_mnist}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts or PARTS:
        print(f"{part}\n\n{PARTS[part]()}\n", flush=True)


if __name__ == "__main__":
    main()
