"""Forms of the lines of a file of measurements: the containers and texts on which reports depend.

Single values need no form, since reports ignore values that are not finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashpot.constraints import FLAG, Interval, OneOf
from dashpot.utils.schema import COUNT, PLAIN, TEXT, ListOf, MapOf, Maybe, Record, Rule, extended, require

FORMAT = 1
TEXTS = frozenset({"series", "kind", "tensor", "text", "advice", "reason", "source", "module", "model", "name"})
"""Keys of texts and names, which may be words such as "inf"."""
_NUMBER = Maybe(Interval(-1e300, 1e300, "both"))
_SIZE = Maybe(Interval(0, 2**53))
_NUMBERS = Maybe(ListOf(_NUMBER))
_VALUES = Maybe(MapOf(PLAIN))
_TENSORS = Maybe(MapOf(MapOf(PLAIN)))
_HEADER = Record(
    {"kind": OneOf(("header",)), "format": OneOf((FORMAT,))},
    {
        "optimizer": TEXT,
        "tensors": MapOf(Maybe(ListOf(COUNT))),
        "groups": ListOf(MapOf(PLAIN)),
        "dtype": ListOf(TEXT),
        "device": ListOf(TEXT),
        "versions": MapOf(TEXT),
        "adaptive": Maybe(FLAG),
        **dict.fromkeys(("module", "method", "explain", "model"), Maybe(TEXT)),
        **dict.fromkeys(("batch", "budget", "steps", "ranks"), _SIZE),
    },
)
_ROW = Record({"series": TEXT, "step": COUNT}, {"reason": Maybe(TEXT), "tensors": _TENSORS})
_KINDS: Mapping[str, Mapping[str, Rule]] = {
    "norms": {"lr": _NUMBERS},
    "dynamics": {"rates": _TENSORS, "effective_lr": _VALUES, "meaning": TEXT},
    "noise": {"preconditioned": _VALUES, "sample": _VALUES, "batch": _SIZE, "source": Maybe(TEXT)},
    "curvature": {"eigenvalues": _NUMBERS, "residuals": _NUMBERS, "notes": ListOf(TEXT)},
    "spectrum": {**dict.fromkeys(("frequencies", "power", "filtered", "response", "measured"), _NUMBERS)},
    "temperature": {"parts": _VALUES, "expected": _VALUES, "virial": _VALUES},
    "cost": {"by_kind": MapOf(_NUMBER), "waiting": ListOf(TEXT), "note": TEXT},
}
_WARNING = extended(
    _ROW, {"text": TEXT}, {"kind": TEXT, "tensor": Maybe(TEXT), "advice": Maybe(TEXT), "severity": _NUMBER}
)


def check_header(line: Any) -> None:
    """Check the first line.

    Raises:
        SchemaError: If its form is wrong.
    """
    require(_HEADER, line)


def check_row(line: Any) -> None:
    """Check a row; rows of unknown kinds are allowed.

    Raises:
        SchemaError: If its form is wrong.
    """
    require(_ROW, line)
    own = _KINDS.get(line["series"])
    require(_WARNING if line["series"] == "warning" else Record({}, own or {}), line)
