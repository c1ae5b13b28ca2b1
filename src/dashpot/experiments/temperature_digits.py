"""Measurements of the experiment `temperature` on the digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dashpot.experiments.intervals import compared, mean_interval
from dashpot.experiments.loss_levels import loss_levels
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.result import Finding
from dashpot.experiments.snapshots import snapshots

TOLERANCE = 0.05
"""Relative tolerance of the predicted excess loss: the quadratic form around the minimum is an approximation."""


def level_findings(seeds: Sequence[int], quick: bool, claim: int) -> tuple[list[Finding], dict[str, Any]]:
    """Compare the levels of the loss of softmax regression at three rates with the prediction."""
    phase, every = (8, 2) if quick else (1500, 25)
    report_progress("digits, independent examples")
    levels = loss_levels(seeds, phase=phase, every=every)
    report_progress("digits, shuffled epochs")
    shuffled = loss_levels(seeds, phase=phase, every=every, replace=False)
    findings = []
    for index, rate in enumerate(levels.rates):
        above = (levels.measured[:, index] - levels.minimum).tolist()
        statement = f"training loss above its minimum, softmax regression on the digits, lr {rate:g}"
        predicted = levels.predicted[index] - levels.minimum
        findings.append(compared(f"level-{rate:g}", statement, above, predicted, tolerance=TOLERANCE, claim=claim))
    ratios = (shuffled.measured[:, -1] - shuffled.minimum) / (levels.measured[:, -1] - levels.minimum)
    mean, low, high = mean_interval(ratios.tolist())
    statement = "loss above the minimum with a new order every epoch, relative to independent examples"
    limits = "the prediction requires independent batches; a new order every epoch cancels noise and lowers the loss"
    findings.append(Finding("shuffled", statement, mean, low, high, None, mean < 1, limits, claim))
    data = {
        "step": list(levels.steps),
        "train": _means(levels.train),
        "validation": _means(levels.validation),
        "minimum": levels.minimum,
        "predicted": list(levels.predicted),
        "rates": list(levels.rates),
        "phase": phase,
    }
    return findings, data


def snapshot_findings(seeds: Sequence[int], quick: bool, claim: int) -> tuple[list[Finding], dict[str, Any]]:
    """Measure whether snapshots of networks at the end of each cycle differ, at a usual and at a high rate."""
    length = 5 if quick else 300
    findings: list[Finding] = []
    data: dict[str, Any] = {}
    for name, lr in tracked([("usual", 0.5), ("high", 8.0)], "snapshots"):
        result = snapshots(seeds, cycling=True, lr=lr, length=length, every=5 if quick else 20)
        words = f"{name} rate {lr:g}"
        gains = result.ensemble - result.last
        for key, statement, values in (
            (
                "disagreement",
                "share of evaluation digits that successive snapshots classify differently",
                result.disagreement,
            ),
            ("barrier", "training loss between successive snapshots above that of the snapshots", result.barrier),
            ("gain", "accuracy of the ensemble of snapshots minus that of the last one", gains),
        ):
            mean, low, high = mean_interval(values.tolist())
            findings.append(
                Finding(f"{key}-{name}", f"{statement}, {words}", mean, low, high, None, low > 0, "", claim)
            )
        mean, low, high = mean_interval(result.last.tolist())
        statement = f"accuracy of the last snapshot, {words}"
        findings.append(Finding(f"accuracy-{name}", statement, mean, low, high, claim=claim))
        data[name] = {"lr": lr, "step": list(result.steps), "loss": _means(result.curve)}
    return findings, data


def _means(values: Tensor) -> list[float]:
    return values.mean(0).tolist()
