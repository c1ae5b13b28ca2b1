"""Problems and settings of the files in `tests/golden/compat`, shared by `make_stored.py` and the tests that read them.

Data and initial weights are multiples of 1/16, random numbers come only from `torch.rand`, and models are float64. The
only remaining differences between processors are the order of sums and the last bit of exp, log and sqrt.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dashpot as dp
from dashpot import tasks
from dashpot.__main__ import main
from dashpot.data import Batches
from dashpot.schedules import Cosine, Exponential, Plateau
from dashpot.tasks import Problem
from dashpot.training import (
    EMA,
    SWA,
    Accumulate,
    Callback,
    CancelFit,
    ClipGradients,
    EarlyStopping,
    Engine,
    Learner,
    NonFinite,
    Recorder,
    Schedule,
    read_newest,
)

STORED = Path(__file__).parents[1] / "golden" / "compat"
SHAPES = ((3, 2), (4,), (), (2, 3, 3, 3))
STEPS_BEFORE, STEPS_AFTER = 4, 3


def numbers(shape, index=0, step=0):
    """Return multiples of 1/16 in [-11/16, 11/16]."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count) * 7 + 11 * step + 3 * index) % 23 - 11).double() / 16).view(shape)


def distance(found, expected):
    """Return the largest |a - b| / max(1, |b|) over the tensors of two sequences of equal length."""
    pairs = [(a.detach().double(), b.double()) for a, b in zip(found, expected, strict=True)]
    return max(((a - b).abs() / b.abs().clamp_min(1)).max().item() for a, b in pairs if a.numel())


# ---- recipes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredSign(dp.Stage):
    """A stage defined outside dashpot, with settings and with elementwise and per-tensor state."""

    damping: float = 0.5
    mode: str = "smooth"
    slots = (dp.elementwise("last"), dp.per_tensor("turned", "turned_share"))

    def apply(self, x, s, c, ctx):
        sign = x.v.sign()
        turned = (sign * s.last < 0).to(sign.dtype)
        return x._replace(v=sign * (1 - c.damping * turned)), s._replace(last=sign, turned=ctx.mean(turned))


def recipes() -> dict[str, dp.Recipe]:
    """Return recipes of several methods and of custom combinations of stages."""
    w = [torch.zeros(2, requires_grad=True)]
    cosine = Cosine(40, floor=0.1)
    return {
        "adamw": dp.AdamW(w, weight_decay=0.1).recipe,
        "adamw-scheduled": dp.AdamW(w, schedule={"lr": cosine, "weight_decay": Exponential(0.9)}).recipe,
        "adam-amsgrad": dp.Adam(w, betas=(0.8, 0.9), weight_decay=0.1, amsgrad=True).recipe,
        "sgd-nesterov": dp.SGD(w, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, schedule=cosine).recipe,
        "nadam": dp.NAdam(w, momentum_decay=0.01).recipe,
        "rmsprop-centered": dp.RMSprop(w, centered=True, alpha=0.9, eps=0.1).recipe,
        "adagrad": dp.Adagrad(w, lr_decay=0.1, initial_accumulator_value=0.5, weight_decay=0.1).recipe,
        "esgd-0": dp.ESGD(w, version=0, lr_warmup=0.5).recipe,
        "qhadam": dp.QHAdam(w, betas=(0.9, 0.99), nus=(0.7, 0.8)).recipe,
        "centered-adam": dp.CenteredAdam(w, mean="direction", eps=0.1).recipe,
        "autosgm": dp.AutoSGM(w, numerator=2, beta_n=0.9, zero=0.3, decay="change", weight_decay=0.05).recipe,
        "esgd": dp.ESGD(w, v=0.7, lr_warmup=0.9, weight_decay=0.1).recipe,
        "sophia": dp.Sophia(w).recipe,
        "all-stages": dp.Recipe(
            dp.CoupledDecay(0.01),
            dp.Filter(0.9, zero=-0.5),
            dp.SecondMoment(0.9, 1e-3, average="first"),
            dp.DecoupledDecay(0.002, "schedule"),
            dp.HuberClip(0.99),
            dp.Parcor(0.9),
            lr=0.02,
            schedule={"lr": cosine, "zero": Exponential(0.9)},
        ),
        "custom-stage": dp.Recipe(dp.Filter(0.5), StoredSign(0.25, mode="sharp"), lr=0.02),
    }


def recipe_weights(recipe: dp.Recipe) -> list[torch.Tensor]:
    """Return the weights after 5 steps with fixed gradients in float64."""
    params = [numbers(shape, index).requires_grad_() for index, shape in enumerate(SHAPES)]
    probing = {"probe": products, "distribution": "rademacher"} if recipe.observes() else {}
    advance(dp.SGM.from_recipe(params, recipe, engine="eager", **probing), params, range(5))
    return [p.detach() for p in params]


def products(weights, probes):
    """Return Hessian-vector products for a diagonal Hessian, which is 1.5 for positive weights and 1 for others."""
    return [torch.where(w.detach() > 0, 1.5, 1.0).to(v.dtype) * v for w, v in zip(weights, probes, strict=True)]


# ---- optimizers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A configured optimizer: its class, the dtype of the weights and the tolerance for a resumed run."""

    cls: Any
    options: dict[str, Any]
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-12
    """Relative tolerance; 0 if there are only elementwise sums and products, which all processors round identically."""
    quartic: bool = False
    """Whether the gradients are those of a loss, for Hessian-vector products by double backward."""

    def make(self, params) -> dp.Optimizer:
        half = len(params) // 2
        groups = [{"params": params[:half]}, {"params": params[half:], "lr": self.options["lr"] / 2}]
        return self.cls(groups, engine="eager", **self.options)

    def params(self) -> list[torch.Tensor]:
        return [numbers(shape, index).to(self.dtype).requires_grad_() for index, shape in enumerate(SHAPES)]


BF16 = {"state_dtype": torch.bfloat16}
BF16_ULP = 2.0**-7  # a square root that differs in its last bit may be rounded to a different bfloat16 number
CASES = {
    "adamw": Case(dp.AdamW, {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    "adamw-amsgrad-maximize": Case(dp.AdamW, {"lr": 0.05, "amsgrad": True, "maximize": True}),
    "adamw-scheduled": Case(dp.AdamW, {"lr": 0.05, "schedule": Cosine(10, floor=0.1)}),
    "nadam": Case(dp.NAdam, {"lr": 0.05, "weight_decay": 0.1}),
    "autosgm": Case(dp.AutoSGM, {"lr": 0.02, "numerator": 1, "beta_n": 0.9, "zero": 0.3, "weight_decay": 0.05}),
    "autosgm-clipped": Case(dp.AutoSGM, {"lr": 0.02, "numerator": 4, "beta_n": 0.99, "adaptive": False}),
    "esgd": Case(
        dp.ESGD, {"lr": 0.1, "probe": products, "distribution": "rademacher", "update_d_every": 3, "d_warmup": 2}
    ),
    "esgd-double-backward": Case(
        dp.ESGD, {"lr": 0.1, "distribution": "rademacher", "update_d_every": 2, "seed": 9}, quartic=True
    ),
    "sophia": Case(
        dp.Sophia, {"lr": 0.01, "probe": products, "distribution": "rademacher", "update_d_every": 2, "seed": 3}
    ),
    "sgd-momentum": Case(dp.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, tolerance=0),
    "sgd-nesterov-float32": Case(dp.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.float32, 0),
    "sgd-bf16-state": Case(dp.SGD, {"lr": 0.1, "momentum": 0.9, "seed": 7, **BF16}, torch.float32, 0),
    "sgd-kahan": Case(dp.SGD, {"lr": 0.1, "momentum": 0.9, "rounding": "kahan", **BF16}, torch.bfloat16, 0),
    "sgd-stochastic": Case(
        dp.SGD, {"lr": 0.1, "momentum": 0.9, "rounding": "stochastic", "seed": 5}, torch.bfloat16, 0
    ),
    "adamw-kahan": Case(dp.AdamW, {"lr": 0.05, "rounding": "kahan", **BF16}, torch.bfloat16, BF16_ULP),
}


def advance(optimizer, params, steps, quartic=False) -> None:
    """Take steps with fixed gradients, or with the gradients of a quartic loss that differs from step to step."""
    for step in steps:
        optimizer.zero_grad()
        slopes = [numbers(p.shape, index, step).to(p.dtype) for index, p in enumerate(params)]
        if quartic:
            loss = sum((slope * p + p * p * (1 + p * p)).sum() for slope, p in zip(slopes, params, strict=True))
            optimizer.backward(loss)
        else:
            for p, slope in zip(params, slopes, strict=True):
                p.grad = slope
        optimizer.step()


# ---- a fit -----------------------------------------------------------------------------------------------------------

EPOCHS = 3
STOP = (1, 7)
"""Epoch and batch after which the stored fit ended."""


class Mask(nn.Module):
    """Dropout layer that draws its mask with `torch.rand`."""

    def forward(self, x):
        return x * (torch.rand(x.shape, dtype=x.dtype) < 0.75) if self.training else x


def learner() -> Learner:
    """Return a learner for 200 digits in 10 batches per epoch; each step uses two batches."""
    data = tasks.get("digits", validation_size=0).build(seed=0)  # as stored by earlier versions
    x, y = data.train.x[:300].double(), data.train.y[:300]
    layers = nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), Mask(), nn.Linear(12, 10)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for index, p in enumerate(model.parameters()):
            p.copy_(numbers(p.shape, index))
    train, evaluation = Batches(x[:200], y[:200], 20, shuffle=True, seed=3), Batches(x[200:], y[200:], 100)
    problem = Problem(model, train, nn.functional.cross_entropy, evaluation, {"accuracy": tasks.accuracy})

    def optimizer(params, **options):
        return dp.AdamW(params, engine="eager", max_norm=1.0, **options)

    return Learner.of(problem, optimizer, lr=0.03, engine=Engine("cpu"))


def averaged() -> list[Callback]:
    return [Accumulate(2), EMA(0.9), Schedule(lambda steps: Cosine(steps, floor=0.1)), EarlyStopping(patience=2)]


def watched() -> list[Callback]:
    plateau = Schedule(Plateau(patience=0, threshold=0.9), per="epoch")
    stopping = EarlyStopping("accuracy", mode="max", patience=3, restore_best=True)
    return [SWA(first_epoch=0), plateau, stopping, ClipGradients(norm=0.5), NonFinite(), Recorder("lr", "grad_norm")]


FITS = {"learner": averaged, "callbacks": watched}
"""Return the callbacks of each stored fit."""


def fit_result(learner: Learner, callbacks: list[Callback]) -> dict[str, Any]:
    """Return the weights, history and recorded values of a finished fit."""
    recorded = {name: value for c in callbacks if isinstance(c, Recorder) for name, value in c.values.items()}
    return {"model": learner.model.state_dict(), "history": learner.history, "recorded": recorded}


class StopAt(Callback):
    """Callback that ends the fit after a given batch."""

    order = 1000
    essential = False

    def after_batch(self, learner):
        if learner.training and learner.loop.position == STOP:
            raise CancelFit


# ---- the command line ------------------------------------------------------------------------------------------------

TRAIN = (
    "train task.py:build --optimizer adamw --lr 0.1 --schedule 1cycle --epochs 3 --seed 3 --accumulate 2 --max-norm 1 "
    "--ema 0.9 --patience 2 --checkpoint-every 2 --keep 1 --log csv,jsonl --accelerator cpu --threads 1 "
    "--set betas=0.8,0.99 weight_decay=0.1 --out run"
)
COMPARE = (
    "compare task.py:build --methods sgd,adam,autosgm-1 --seeds 1 --epochs 3 --schedule cosine --threads 1 --out study "
    "--lr sgd=0.1 adam=0.05 autosgm-1=0.01"
)
COSTS = ("cpu_s", "wall_s", "memory_bytes")


def command(monkeypatch, words: str) -> int:
    """Run a dashpot command in this process and return its exit code."""
    monkeypatch.setenv("DASHPOT_ENGINE", "eager")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # without this variable, the command restarts the process
    monkeypatch.setattr(sys, "argv", ["dashpot", *words.split()])
    return main()


def measured(record: Path) -> dict[str, Any]:
    """Return all numbers of a record except for times and memory."""
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "steps"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    return {
        "loss": [value for line in steps for value in line["loss"]],
        "lr": [line["lr"] for line in steps],
        "epochs": [{key: value for key, value in line.items() if key not in COSTS} for line in epochs],
        "end": {key: value for key, value in lines[-1].items() if key not in COSTS},
    }


def run_result(folder: Path) -> dict[str, Any]:
    """Return the record and the final weights of a run folder."""
    model = read_newest(folder / "checkpoints")["model"]
    weights = {name: value.double().flatten().tolist() for name, value in model.items()}
    return {"record": measured(folder / "run.jsonl"), "weights": weights}


def study_result(folder: Path) -> dict[str, Any]:
    """Return the records of a comparison."""
    return {path.stem: measured(path) for path in sorted((folder / "runs").glob("*.jsonl"))}
