"""Workloads, tiers and filters of the reproduction of AutoSGM, which the command line checks before it loads torch."""

from __future__ import annotations

from collections.abc import Sequence

from dashpot.constraints import Interval, check, unknown
from dashpot.errors import ArgumentError

WORKLOADS = ("digits", "fashion-mnist", "cifar10-resnet", "cifar10-vit", "shakespeare-char", "wikitext")
TIERS = ("smoke", "cpu", "gpu")
"""Sizes of a workload: seconds, minutes per run on two cores, and the published setting."""
NO_FILTER = "none"
"""Name of the unfiltered gradient in place of a zero."""
_ZERO = Interval(-1, 1)
_NUMERATOR = Interval(0, 4, "both", integer=True)


def parse_workloads(text: str) -> tuple[str, ...]:
    """Return comma-separated workloads.

    >>> parse_workloads("digits,wikitext")
    ('digits', 'wikitext')
    """
    names = parse_names("--workload", text)
    for name in names:
        if name not in WORKLOADS:
            raise unknown("workload", name, WORKLOADS)
    return names


def check_tier(tier: str) -> None:
    """Check the name of a tier."""
    if tier not in TIERS:
        raise unknown("tier", tier, TIERS)


def parse_zeros(text: str) -> tuple[str, ...]:
    """Return comma-separated zeros with their shortest exact text.

    >>> parse_zeros("-0,.47,0.12345678,none")
    ('0', '0.47', '0.12345678', 'none')
    """
    return _unique("--zeros", tuple(map(_zero, parse_names("--zeros", text))))


def _zero(text: str) -> str:
    if text == NO_FILTER:
        return text
    try:
        value = float(text)
    except ValueError as error:
        raise ArgumentError(f"reproduce: --zeros must be numbers in (-1, 1) or none, got {text!r}.") from error
    check("reproduce", "--zeros", value, _ZERO)
    return repr(value + 0.0).removesuffix(".0")  # -0.0 + 0.0 is 0.0


def parse_numerators(text: str) -> tuple[int, ...]:
    """Return comma-separated numerators.

    >>> parse_numerators("0,1")
    (0, 1)
    """
    parts = parse_names("--numerators", text)
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ArgumentError(f"reproduce: --numerators must be integers in [0, 4], got {text!r}.")
    for part in parts:
        check("reproduce", "--numerators", int(part), _NUMERATOR)
    return tuple(map(int, _unique("--numerators", [str(int(part)) for part in parts])))


def parse_names(option: str, text: str) -> tuple[str, ...]:
    """Return comma-separated names without repetition.

    >>> parse_names("--rows", "published, best")
    ('published', 'best')
    """
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ArgumentError(f"reproduce: {option} must be comma-separated names, got {text!r}.")
    return _unique(option, parts)


def _unique(option: str, parts: Sequence[str]) -> tuple[str, ...]:
    for part in parts:
        if parts.count(part) > 1:
            raise ArgumentError(f"reproduce: {option} must name each value once, got {part} twice.")
    return tuple(parts)
