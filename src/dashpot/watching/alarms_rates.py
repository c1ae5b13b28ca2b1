"""Measured rates of false alarms of the warnings, with binomial intervals."""

from __future__ import annotations

import math

STEPS = 400
"""Length of the healthy runs."""
FALSE_ALARMS: dict[str, tuple[int, int]] = {
    "growing gradients": (1, 100),
    "growing roughness": (0, 100),
    "growing updates": (1, 100),
    "bad batch": (2, 100),
    "rate jump": (0, 100),
    "non-finite": (0, 100),
    "dead": (0, 100),
    "stalled": (0, 100),
    "large ratio": (0, 100),
}
"""Number of healthy runs with a warning of each kind, and of all healthy runs, as in docs/watching.md."""
_Z = 1.959964  # 0.975 quantile of the normal distribution


def confidence(kind: str) -> str:
    """Return the measured rate of false alarms of a kind of warnings in words."""
    if kind not in FALSE_ALARMS:
        return "rate of false alarms not measured"
    count, runs = FALSE_ALARMS[kind]
    low, high = wilson_interval(count, runs)
    return (
        f"false alarms in {count} of {runs} healthy runs of {STEPS} steps, "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    )


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of Wilson for a binomial probability.

    The interval consists of all p with |count/total - p| <= z sqrt(p (1 - p)/total), z = 1.96.

    Args:
        count: Number of successes; 0 to `total`.
        total: Number of trials; >= 1.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    share, widening = count / total, _Z**2 / total
    center = (share + widening / 2) / (1 + widening)
    half = math.sqrt(share * (1 - share) * widening + widening * widening / 4) / (1 + widening)
    return max(0.0, center - half), min(1.0, center + half)
