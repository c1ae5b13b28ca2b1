"""Weights of four exponential averages and of a sum at one step.

    q_t = keep q_{t-1} + add x_t,        average_t = hold q_{t-1} + direct x_t

| kind       | keep            | add           | average          | initial behaviour                            |
|------------|-----------------|---------------|------------------|----------------------------------------------|
| "debiased" | beta            | 1 - beta      | q_t/(1 - beta^t) | exactly unbiased (Adam)                      |
| "plain"    | beta            | 1 - beta      | q_t              | biased towards 0 for about 1/(1-beta) steps  |
| "first"    | beta (0 at t=1) | 1-beta (1)    | q_t              | initialized with the first sample            |
| "running"  | 1 - 1/min(t, N) | 1/min(t, N)   | q_t              | arithmetic mean until t = N = 1/(1-beta)     |
| "sum"      | beta            | 1             | q_t              | grows to 1/(1 - beta) times the average      |

For the sum, `beta` may be 1: the sum of all samples, which does not approach a limit.

Sources: Kingma and Ba, arXiv 1412.6980 ("debiased"); the TTIC 31230 lecture notes ("running"); Duchi et al., JMLR 12
(2011) ("sum").
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dashpot.constraints import Scalar
from dashpot.utils.scalars import minimum, where

AVERAGES = ("debiased", "plain", "first", "running")
SUM = "sum"


class Weights(NamedTuple):
    """Weights of one averaging step: `keep` and `add` update the state; `hold` and `direct` define the average."""

    keep: Scalar
    add: Scalar
    hold: Scalar
    direct: Scalar


def weights(kind: str, beta: Scalar, t: Any) -> Weights:
    """Return the weights at step `t` = 1, 2, ... for a pole `beta` in [0, 1), or in [0, 1] for the sum.

    >>> weights("debiased", 0.5, 1)
    Weights(keep=0.5, add=0.5, hold=1.0, direct=1.0)
    >>> weights("running", 0.5, 3)
    Weights(keep=0.5, add=0.5, hold=0.5, direct=0.5)
    """
    if kind == SUM:
        return Weights(beta, 1.0, beta, 1.0)
    keep, add = beta, 1 - beta
    if kind == "debiased":
        return Weights(keep, add, keep / (1 - beta**t), add / (1 - beta**t))
    if kind == "first":
        keep, add = where(t > 1, keep, 0.0), where(t > 1, add, 1.0)
    if kind == "running":
        keep = running_pole(beta, t)
        add = 1 - keep
    return Weights(keep, add, keep, add)


def correction(kind: str, beta: Scalar, t: Any) -> Scalar:
    """Return the ratio of the average to the state at step `t` = 1, 2, ...

    >>> correction("debiased", 0.5, 1), correction("plain", 0.5, 1)
    (2.0, 1.0)
    """
    return 1 / (1 - beta**t) if kind == "debiased" else 1.0


def running_pole(beta: Scalar, t: Any) -> Scalar:
    """Return the pole 1 - 1/min(t, N): an arithmetic mean until t = N = 1/(1 - beta)."""
    return 1 - 1 / minimum(t, 1 / (1 - beta))
