"""Names of users as text in figures."""

from __future__ import annotations

from dashpot.utils.terminal import printable


def literal(text: str) -> str:
    r"""Return text for a label that matplotlib draws unchanged: `$` starts no formula, control characters are escapes.

    >>> print(literal("cost in $, \x1b[1mbold"))
    cost in \$, \x1b[1mbold
    """
    return printable(text).replace("$", r"\$")
