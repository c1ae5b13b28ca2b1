"""CPU time and verdict of the experiments, and predictions that only the tolerance confirms.

    python benchmarks/experiments.py [averages ...]    # default: all, about 40 minutes of CPU time

Each experiment is a process `dashpot experiment NAME --json` with the default seeds; its CPU time includes imports. The
counted predictions are those of results with an interval over seeds. A prediction outside this interval is confirmed by
the tolerance of the experiment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from table import table

from dashpot.names import EXPERIMENTS


def measured(name: str) -> tuple[dict[str, Any], float]:
    """Return the outcome of an experiment as data, and its CPU time in seconds."""
    before = os.times()
    command = [sys.executable, "-m", "dashpot_command", "experiment", name, "--json"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(found.stdout), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}")
    given = parser.parse_args()
    rows, predictions, outside = [], 0, []
    for name in given.names or EXPERIMENTS:
        outcome, seconds = measured(name)
        rows.append([name, outcome["verdict"], f"{seconds:.0f} s"])
        for finding in outcome["findings"]:
            predicted, low, high = finding["predicted"], finding["low"], finding["high"]
            if predicted is not None and low < high:
                predictions += 1
                if finding["holds"] and not low <= predicted <= high:
                    outside.append((name, finding["name"], abs(finding["measured"] / predicted - 1)))
    print(table(["experiment", "verdict", "CPU time"], rows))
    print(f"\n{len(outside)} of {predictions} predictions are outside the interval and confirmed by the tolerance.")
    for name, finding, deviation in outside:
        print(f"  {name}, {finding}: deviation {deviation:.1%}")


if __name__ == "__main__":
    main()
