"""The verdict in words, which names the first deviating tensor and step, and possible causes of the deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dashpot.verification.paired_run import PairedRun
from dashpot.verification.result import Checkpoint, number

_IGNORED_KEYS = {"params", "param_names", "foreach", "fused", "capturable", "differentiable", "initial_lr", "seed"}


def format_verdict(
    names: Sequence[str],
    run: PairedRun,
    checkpoints: Sequence[Checkpoint],
    float64_run: PairedRun | None,
    low_precision_run: PairedRun | None,
) -> str:
    """Return the verdict in a few sentences.

    Args:
        names: Names of the optimizer and of the reference.
        run: The run on which the verdict is based.
        checkpoints: Results of the runs resumed from the checkpoints of `run`.
        float64_run: Repetition of `run` in float64 after a deviation; None if `run` was not repeated.
        low_precision_run: If `run` is a repetition in float64 that agrees, the original run in the model's dtype, which
            deviates; otherwise None.
    """
    ours, theirs = names
    first = run.main.first
    sentences = [
        f"{ours} agrees with {theirs} within {number(run.main.ulps)} ulps."
        if first is None
        else f"{ours} disagrees with {theirs}: after step {first.step}, {first.name} differs by {number(first.ulps)} "
        f"ulps (tolerance {number(first.allowed)})."
    ]
    if low_precision_run is not None:
        sentences.append(
            f"Compared in float64: in {dtype_name(low_precision_run)}, training amplifies rounding errors to "
            f"{number(max(check.ulps for check in low_precision_run.checks))} ulps, which exceeds the tolerance."
        )
    if first is not None:
        sentences += _float64_sentences(float64_run)
    sentences += [
        f"{checkpoint.target} resumed from a checkpoint of {checkpoint.source} does not reproduce its run."
        for checkpoint in checkpoints
        if checkpoint.outcome == "fails" or (checkpoint.outcome == "deviates" and first is None)
    ]
    if first is None:
        sentences += _movement_sentences(run)
    if run.diverged is not None:
        diverged = " and ".join(name for name, nonfinite in zip(names, run.nonfinite, strict=True) if nonfinite)
        sentences.append(f"After step {run.diverged} the weights of {diverged} are no longer finite.")
    return " ".join(sentences)


def dtype_name(run: PairedRun) -> str:
    """Return the names of the dtypes of the weights."""
    return " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in run.replicas[1].params.values()}))


def _movement_sentences(run: PairedRun) -> list[str]:
    """Return warnings if weights have moved so little that the tolerance may hide a different method."""
    deviations = {name: distance.ulps for name, distance in run.main.distances.items()}
    count = sum(0 < ulps <= run.tolerance and 10 * deviations[name] > ulps for name, ulps in run.moved.items())
    if not count:
        return []
    advice = "" if dtype_name(run) == "float64" else "; use float64"
    return [
        f"{count} of {len(run.moved)} tensors moved by less than the tolerance, so the comparison is inconclusive "
        f"for them{advice}."
    ]


def _float64_sentences(float64_run: PairedRun | None) -> list[str]:
    if float64_run is None:
        return []
    if float64_run.main.first is None:
        return [f"In float64 they agree within {number(float64_run.main.ulps)} ulps, so this is rounding error."]
    worst = max(distance.relative for distance in float64_run.main.distances.values())
    return [f"In float64 they differ as well, by a relative {number(worst)}, so the method or its settings differ."]


def mismatched_settings(run: PairedRun) -> tuple[str, ...]:
    """Return the parameter-group settings whose values differ, such as "eps 0.001 and 1e-08", as text."""
    ours, theirs = (replica.optimizer.param_groups for replica in run.replicas)
    texts = []
    for index, (a, b) in enumerate(zip(ours, theirs)):  # noqa: B905  the number of groups may differ
        where = f" of group {index}" if len(theirs) > 1 else ""
        texts += [f"{name}{where} {a[name]!r} and {b[name]!r}" for name in a if _differs(name, a, b)]
    return tuple(texts)


def _differs(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if name in _IGNORED_KEYS or name not in b:
        return False
    x, y = ([value.tolist() if isinstance(value, torch.Tensor) else value for value in (g[name],)] for g in (a, b))
    return x != y
