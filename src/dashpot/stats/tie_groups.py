"""Groups of methods that a comparison does not separate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def tie_groups(
    order: Sequence[int], separated: Sequence[Sequence[bool]] | npt.NDArray[np.bool_]
) -> tuple[int | None, ...]:
    """Assign each method to a tie group.

    The best method without a group starts a new group. All methods without a group that are not separated from it
    join. Group 1 thus contains every method that may be the best. Two methods of one group can be separated from each
    other, since "not separated" is not transitive; and a method with a large variance can be in a better group than
    a method with a better mean.

    Args:
        order: Indices of the methods with a score, from best to worst.
        separated: For methods i and j, whether their scores differ significantly.

    Returns:
        For each method, by index, the number of its group, from 1 (best); None if it is not in `order`.

    >>> a, b, c, d = range(4)
    >>> separated = np.zeros((4, 4), bool)
    >>> for i, j in [(a, c), (a, d)]:
    ...     separated[i, j] = separated[j, i] = True
    >>> tie_groups([a, b, c, d], separated)
    (1, 1, 2, 2)
    """
    matrix = np.asarray(separated, dtype=bool)
    groups: list[int | None] = [None] * len(matrix)
    remaining, number = list(order), 0
    while remaining:
        best, number = remaining[0], number + 1
        members = [method for method in remaining if method == best or not matrix[best, method]]
        for method in members:
            groups[method] = number
        remaining = [method for method in remaining if method not in members]
    return tuple(groups)
