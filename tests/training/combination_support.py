"""Random combinations of features of a fit, as learners of a small model."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

import numpy as np
import torch
from interval_support import INPUTS, LABELS, UnsizedIterable, UnsizedStream, batches, shuffled
from plain_support import Saved
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.schedules import Cosine, Plateau
from dashpot.tasks import WholeEpoch, accuracy
from dashpot.training import (
    CSV,
    EMA,
    SWA,
    Accumulate,
    Callback,
    CancelBatch,
    CancelEpoch,
    Checkpoints,
    ClipGradients,
    EarlyStopping,
    Engine,
    ForOptimizer,
    Freeze,
    JSONLines,
    Learner,
    Recorder,
    Schedule,
    one_cycle,
)

STEP_LR = partial(torch.optim.lr_scheduler.StepLR, step_size=2)


def sum_and_count(output, y):
    return nn.functional.cross_entropy(output, y, reduction="sum"), (y != 0).sum() + 1


def squared_and_entropy(output, y):
    return output.float().square().mean() + nn.functional.cross_entropy(output, y)


def spread(output, y):
    return output.float().std().item() + y.float().mean().item()


FEATURES: dict[str, list[Any]] = {
    "length": [{"epochs": 3}, {"epochs": 3, "max_time": 1e4}, {"epochs": 3, "evaluate_every": 2}, {"steps": 9},
               {"steps": 8, "evaluate_every": 3}],
    "data": ["Batches", "loader", "list", "dicts", "iterable", "stream"],
    "loss": ["mean", "sum and count", "weight", "mapping"],
    "optimizer": [torch.optim.SGD, dp.AdamW, dp.ESGD, Saved],
    "accumulate": [1, 1, 2, 3],
    "average": [None, lambda: EMA(0.9), lambda: EMA(0.9, buffers="average"), lambda: SWA(first_epoch=1)],
    "schedule": [None, one_cycle, lambda: Schedule(Plateau(factor=0.5, patience=0)), lambda: Schedule(STEP_LR),
                 lambda: Schedule(Cosine, per="epoch")],
    "clip": [None, lambda: ClipGradients(norm=0.5), lambda: ClipGradients(value=0.05)],
    "freeze": [None, lambda: Freeze("body.0.*", until_epoch=1, batchnorm="eval"), lambda: Freeze("head.bias")],
    "early": [None, partial(EarlyStopping, patience=1), partial(EarlyStopping, patience=1, restore_best=True)],
    "metrics": [{}, {"accuracy": accuracy}, {"accuracy": accuracy, "spread": WholeEpoch(spread)}],
    "precision": ["fp32", "fp32", "bf16", "fp16"],
    "evaluated": [True, True, False],
    "logged_at": [None, "after_batch", "after_step", "after_epoch"],
    "cancelled": [None, None, CancelBatch, CancelEpoch],
    "interrupted": ["before_batch", "after_loss", "after_backward", "after_step", "after_batch", "before_epoch",
                    "after_epoch"],
    "evaluated_at": ["before_batch", "after_backward", "after_step", "after_batch", "before_epoch", "cleanup_epoch"],
}  # fmt: skip


def drawn(seed: int) -> dict[str, Any]:
    """Return a combination of features; those that no fit supports together are replaced."""
    draw = random.Random(seed)
    chosen = {name: draw.choice(options) for name, options in FEATURES.items()}
    chosen["after"] = draw.randint(3, 9)  # calls of `interrupted` before the interruption
    if chosen["loss"] == "mapping":
        chosen["accumulate"] = 1
    if chosen["accumulate"] == 3 and chosen["cancelled"] is CancelEpoch:  # every epoch would end before its first step
        chosen["cancelled"] = None
    if chosen["optimizer"] is Saved:  # requires every gradient
        chosen["freeze"] = None
    if chosen["data"] in ("iterable", "stream") and "epochs" in chosen["length"]:
        chosen["length"] = {"steps": 8, "evaluate_every": 3}
    if chosen["length"] == {"steps": 9} and chosen["data"] in ("iterable", "stream"):
        chosen["length"] = {"steps": 9, "evaluate_every": 4}  # SWA begins in the second interval
    return chosen


class Net(nn.Module):
    """Model with batch norm and dropout, and with a child for each of two optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(6, 3)

    def forward(self, features, part="head"):
        return self.head(self.body(features)) * (1 if part == "head" else 2)


class Logged(Callback):
    """Log a value at one event, and cancel the second batch of training."""

    def __init__(self, event, cancel):
        self.cancel = cancel
        if event is not None:
            setattr(self, event, lambda learner: learner.log("value", learner.steps))

    def after_loss(self, learner):
        if self.cancel is not None and learner.training and learner.batch.index == 1:
            raise self.cancel


def combined(chosen: dict[str, Any], folder: Any) -> tuple[Learner, Recorder]:
    """Return a learner with the chosen features, which writes logs and checkpoints to `folder`, and its recorder."""
    torch.manual_seed(5)
    model = Net()
    torch.manual_seed(6)
    random.seed(6)
    np.random.seed(6)
    several = chosen["loss"] == "mapping"
    make, options = chosen["optimizer"], {}
    if chosen["loss"] == "weight":
        options["weight"] = lambda output, y: (y + 1.0).sum()
    losses = {"mapping": {"body": squared_and_entropy, "head": nn.functional.cross_entropy},
              "sum and count": sum_and_count}  # fmt: skip

    def of_part(make_callback, part):
        return [] if make_callback is None else [ForOptimizer(part, make_callback()) if several else make_callback()]

    recorder = Recorder("lr", "grad_norm", step=lambda learner: learner.steps)
    callbacks: list[Callback] = [
        *([Accumulate(chosen["accumulate"])] if chosen["accumulate"] > 1 else []),
        *of_part(chosen["schedule"], "body"),
        *of_part(chosen["clip"], "head"),
        *of_part(lambda: recorder, "body"),
        *(make_callback() for name in ("average", "freeze") if (make_callback := chosen[name])),
        *([] if chosen["early"] is None else [chosen["early"](phase="eval" if chosen["evaluated"] else "train")]),
        Logged(chosen["logged_at"], chosen["cancelled"]),
        JSONLines(folder / "log.jsonl", every=2),
        CSV(folder / "log.csv", every=1),
        Checkpoints(folder / "checkpoints", every_steps=1),
    ]
    data = {
        "Batches": lambda: Batches(INPUTS, LABELS, 4, shuffle=True),
        "loader": shuffled,
        "list": batches,
        "dicts": lambda: [({"features": x}, y) for x, y in batches()],
        "iterable": UnsizedIterable,
        "stream": UnsizedStream,
    }[chosen["data"]]()
    fitted = Learner(
        model, data, Batches(INPUTS, LABELS, 8) if chosen["evaluated"] else None,
        loss=losses.get(chosen["loss"], nn.functional.cross_entropy),
        optimizer={"body": make, "head": torch.optim.SGD} if several else make, lr=0.02, metrics=chosen["metrics"],
        callbacks=callbacks, engine=Engine("cpu", precision=chosen["precision"]), **options,
    )  # fmt: skip
    return fitted, recorder


def logs(folder: Any) -> Any:
    """Return the lines of the logs without the measured times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    timed = rows[0].index("seconds")
    return [
        [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
        [row[:timed] + row[timed + 1 :] for row in rows],
    ]
