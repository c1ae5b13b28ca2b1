"""Statistics of the results of a comparison."""

from __future__ import annotations

from dashpot.comparison.findings import Findings
from dashpot.comparison.headline import headline
from dashpot.comparison.notes import notes
from dashpot.comparison.results import Results
from dashpot.comparison.score_matrix import score_matrix
from dashpot.constraints import unknown
from dashpot.stats.sequential import spent_alpha
from dashpot.stats.tie_groups import tie_groups
from dashpot.utils.optional_packages import need

REFERENCE = "adamw"
"""Default reference of the ratios of steps to the target."""
ALPHA = 0.05
"""Error rate of all verdicts of a comparison together."""


def judge(results: Results, *, reference: str | None = None) -> Findings:
    """Compute the findings of a comparison: order, tie groups, intervals, verdicts, steps to target, cost.

    Args:
        results: Results of the comparison, possibly with failed, diverged, unfinished or missing runs.
        reference: Method to which the steps to the target are related. Default: "adamw" if it is in the comparison,
            else the first method of the settings.

    Returns:
        The findings. No interval is computed from a single seed: its limits are infinite.

    Raises:
        ArgumentError: If `reference` is not a method of the comparison.
        RunError: If scipy is not installed.
    """
    chosen = _reference(results, reference)
    need("A verdict", "scipy", extra="study")
    from dashpot.comparison.method_findings import method_findings
    from dashpot.comparison.pair_findings import pair_findings

    matrix = score_matrix(results)
    pairs, separated = pair_findings(results, matrix, 1 - look_alpha(results.looks, len(matrix.seeds)))
    groups = tie_groups(range(matrix.scored), separated)
    methods = method_findings(results, matrix, groups, chosen)
    return Findings(
        results=results,
        seeds=matrix.seeds,
        methods=methods,
        pairs=pairs,
        headline=headline(results, methods, pairs),
        notes=notes(results, matrix, methods),
        reference=chosen,
    )


def look_alpha(looks: tuple[int, ...], seeds: int) -> float:
    """Return the error rate of the verdicts at the current look of a group-sequential plan.

    Args:
        looks: Numbers of seeds of the plan; empty for a fixed number of seeds.
        seeds: Number of seeds with scores; between two looks, the rate is that of the next one.

    >>> look_alpha((), 5), round(look_alpha((5, 10, 20), 5), 4), round(look_alpha((5, 10, 20), 20), 4)
    (0.05, 0.0125, 0.025)
    """
    if not looks:
        return ALPHA
    number = next((k for k, look in enumerate(looks) if seeds <= look), len(looks) - 1)
    return spent_alpha(looks, ALPHA)[number]


def _reference(results: Results, name: str | None) -> str | None:
    if name is not None and name not in results.methods:
        raise unknown("reference method", name, results.methods)
    if name is None and results.methods:
        return REFERENCE if REFERENCE in results.methods else results.methods[0]
    return name
