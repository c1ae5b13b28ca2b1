"""Time of `dashpot report` on a comparison of 1000 runs, as a whole command.

    python benchmarks/report_1000_runs.py [--methods 10] [--seeds 100] [--epochs 50]

One run on the digits is trained; all records are copies of it with another method and seed, and scores with normal
deviations. By default, a record has the losses of 1200 steps and 13 evaluations.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from processor import stamp

from dashpot import tasks
from dashpot.comparison import Study, entry, run_study
from dashpot.comparison.study_folder import StudyFolder
from dashpot.runs.files import write_text
from dashpot.utils.strict_json import decode, encode

SPREAD = 0.005
"""Standard deviation of the scores over the seeds."""


def write_study(folder: Path, methods: int, seeds: int, epochs: int) -> None:
    """Write a study with copies of one record."""
    task = tasks.get("digits")
    names = [f"method-{number}" for number in range(methods)]
    first = run_study(Study(task, (entry("adam", "digits"),), (0,), epochs=epochs), folder / "first")[0]
    lines = [decode(line) for line in first.path.read_bytes().splitlines()]
    found = StudyFolder(folder / "first").study()["settings"]
    call, recipe = (found[key]["adam"] for key in ("methods", "recipes"))
    settings = {
        **found,
        "seeds": list(range(seeds)),
        "methods": dict.fromkeys(names, call),
        "recipes": dict.fromkeys(names, recipe),
    }
    study = StudyFolder(folder / "study")
    study.prepare(settings, None)
    draw = np.random.default_rng(0)
    for number, name in enumerate(names):
        for seed in range(seeds):
            shift = -0.002 * number + SPREAD * float(draw.standard_normal())
            text = "".join(encode(_changed(line, name, seed, shift)) + "\n" for line in lines)
            write_text(study.item_record(f"run/{name}/{seed}"), text)


def _changed(line: dict[str, Any], name: str, seed: int, shift: float) -> dict[str, Any]:
    """Return a line of the record for another method and seed, with shifted accuracies."""
    if line["kind"] == "header":
        return {**line, "entry": name, "seed": seed, "item": f"run/{name}/{seed}"}
    phases = {
        phase: {**line[phase], "accuracy": line[phase]["accuracy"] + shift}
        for phase in ("train", "eval", "test")
        if "accuracy" in line.get(phase, {})
    }
    return {**line, **phases}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, arguments.methods, arguments.seeds, arguments.epochs)
        command = [sys.executable, "-m", "dashpot", "report", str(folder / "study")]
        start, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        size = (folder / "study" / "report.html").stat().st_size
    print(stamp())
    print(
        f"{arguments.methods} methods, {arguments.seeds} seeds: {wall:.1f} s, CPU {cpu:.1f} s, page {size / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
