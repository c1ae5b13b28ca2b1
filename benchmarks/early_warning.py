"""Early warnings on small runs: share of instabilities announced, share of sudden causes named, false alarms.

    python benchmarks/early_warning.py [--quick] [--first SEED] [--only KIND ...] [--save FILE] [--data-dir FOLDER]

The runs (`early_warning_runs.py`) have at most 400 steps; everything about a run follows from its kind and seed. The
thresholds of sudden causes were set on the seeds from 0. Those of slow instabilities were set on the seeds from 0 and,
since they gave false alarms in 7 of the 30 healthy runs from 1000, once more with these runs. The
numbers of docs/watching.md come from later seeds only. Definitions, fixed before the thresholds:

* **The loss doubles** at the first step at which the loss of 128 fixed training examples, measured before the update,
  is at least twice its minimum so far. The warnings have no access to this loss.
* **Slow** instabilities: a growing rate (14 runs), sharpening in full-batch gradient descent at a constant rate (13), a
  gradient that grows faster than the second moment follows (13). Seeds whose loss does not double, or doubles before
  step 60 or earlier than 40 steps after the onset, are skipped.
* **Warned**: the first warning of a slow kind is at the onset or later, and at least 20 steps before the loss doubles.
* **Sudden** causes: one bad batch (20 runs; seeds whose batch enlarges no gradient norm by the factor 6, against the
  undisturbed batch at the same weights, are skipped), and a rate that jumps by a factor from 8 to 100 (20), for all
  tensors or for one.
* **Named**: at the step of the cause or at most 2 later, the first warning has the kind of the cause and the right
  tensor: for a bad batch, one whose norm grows at least half as much as the largest; for a jump, one whose rate jumps.
* **Healthy** runs: loss that never doubles, with warm-up, cosine, cycles, drops, and small or unusual batches. A false
  alarm is a run with a warning of the kind. Warnings are counted once per run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from early_warning_runs import Run, doubling, setting
from processor import stamp
from table import table

import dashpot as dp
from dashpot.watching.alarms import AlarmsProbe
from dashpot.watching.alarms_rates import FALSE_ALARMS, wilson_interval

SLOW = {"growing updates", "growing gradients", "growing roughness"}
SUDDEN = {"batch": "bad batch", "jump": "rate jump"}
COUNTS = {"ramp": 14, "sharpening": 13, "beta2": 13, "batch": 20, "jump": 20, "healthy": 100}
HELD_OUT = 2000
LEAD = 20  # steps between a warning and the doubling
FACTOR = 6.0  # of the gradient norm of a bad batch
Result = dict[str, Any]


# ---- one run ---------------------------------------------------------------------------------------------------------


def result(kind: str, seed: int, folder: str | None) -> Result:
    """Return the warnings and the facts of a run."""
    run = Run(setting(kind, seed), folder)
    losses: list[float] = []
    with dp.watch(run.optimizer, run.model, budget=1.0) as watcher:
        watcher.probes = [probe for probe in watcher.probes if probe is watcher.pulse or isinstance(probe, AlarmsProbe)]
        for step, loss, judged in run.steps():
            watcher.observe(loss)
            losses.append(judged)
            if step > run.own.onset + 3 if kind in SUDDEN else doubling(losses):
                break
        found = [[row["step"], row["kind"], row["tensor"]] for row in watcher.warnings]
    own = run.own
    facts = {"kind": kind, "seed": seed, "model": own.model, "method": own.method, "onset": own.onset}
    return {**facts, "doubled": doubling(losses), "factors": run.factors, "target": run.target, "warnings": found}


def is_accepted(own: Result) -> bool:
    """Return whether a run belongs to its kind."""
    if own["kind"] == "healthy":
        return own["doubled"] is None
    if own["kind"] in SUDDEN:
        return own["kind"] == "jump" or max(own["factors"].values()) >= FACTOR
    return own["doubled"] is not None and own["doubled"] >= max(60, own["onset"] + 40)


def results(kind: str, total: int, first: int, folder: str | None) -> Iterator[Result]:
    """Yield the first accepted runs of a kind."""
    for seed in count(first):
        own = result(kind, seed, folder)
        if is_accepted(own):
            yield own
            total -= 1
        if not total:
            return


# ---- judgement -------------------------------------------------------------------------------------------------------


def is_warned(own: Result) -> bool:
    """Return whether the first warning of a slow kind is in time, and not before the onset."""
    steps = [step for step, kind, _ in own["warnings"] if kind in SLOW]
    return bool(steps) and own["onset"] <= steps[0] <= own["doubled"] - LEAD


def is_named(own: Result) -> bool:
    """Return whether the first warning after a sudden cause names it and its tensor."""
    onset = own["onset"]
    kinds = set(SUDDEN.values())
    after = [(kind, tensor) for step, kind, tensor in own["warnings"] if onset <= step <= onset + 2 and kind in kinds]
    if not after or after[0][0] != SUDDEN[own["kind"]]:
        return False
    tensor = after[0][1]
    if own["kind"] == "jump":
        return own["target"] in {"", tensor}
    return own["factors"][tensor] >= 0.5 * max(own["factors"].values())


def has(kinds: set[str]) -> Callable[[Result], bool]:
    """Return the test whether a run has a warning of some kinds."""
    return lambda own: any(kind in kinds for _, kind, _ in own["warnings"])


def share(name: str, runs: list[Result], test: Callable[[Result], bool]) -> list[str]:
    """Return a row: number of runs that pass a test, share, and its 95 % interval."""
    passed = sum(map(test, runs))
    low, high = wilson_interval(passed, len(runs))
    return [
        name,
        f"{passed} of {len(runs)}",
        f"{100 * passed / len(runs):.0f} %",
        f"{100 * low:.0f} to {100 * high:.0f} %",
    ]


def report(runs: list[Result]) -> str:
    """Return the tables."""
    own = {kind: [run for run in runs if run["kind"] == kind] for kind in COUNTS}
    slow, sudden = own["ramp"] + own["sharpening"] + own["beta2"], own["batch"] + own["jump"]
    rows = [share(f"warned at least {LEAD} steps before: all slow instabilities", slow, is_warned)] if slow else []
    rows += [share(f"— {kind}", own[kind], is_warned) for kind in ("ramp", "sharpening", "beta2") if own[kind]]
    rows += [share("named with its tensor within 2 steps: all sudden causes", sudden, is_named)] if sudden else []
    rows += [share(f"— {name}", own[kind], is_named) for kind, name in SUDDEN.items() if own[kind]]
    healthy = own["healthy"]
    if healthy:
        kinds = sorted({kind for run in healthy for _, kind, _ in run["warnings"]} | set(FALSE_ALARMS))
        rows.append(share("false alarm in a healthy run: any slow kind", healthy, has(SLOW)))
        rows.append(share("— any sudden kind", healthy, has(set(SUDDEN.values()))))
        rows += [share(f"— {kind}", healthy, has({kind})) for kind in kinds]
    return table(["runs", "count", "share", "95 % interval"], rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="2 runs of each kind")
    parser.add_argument("--first", type=int, default=HELD_OUT, help="first seed")
    parser.add_argument("--only", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--save", type=Path, help="append results to this file; runs in it are not repeated")
    parser.add_argument("--data-dir", help="folder of Fashion-MNIST")
    options = parser.parse_args()
    torch.set_num_threads(1)
    saved = [json.loads(line) for line in options.save.read_text().splitlines()] if _exists(options.save) else []
    runs = []
    for kind in options.only:
        total, first = 2 if options.quick else COUNTS[kind], options.first
        own = [run for run in saved if run["kind"] == kind and run["seed"] >= first][:total]
        following = max((run["seed"] for run in own), default=first - 1) + 1
        runs += own
        for run in results(kind, total - len(own), following, options.data_dir) if len(own) < total else ():
            runs.append(run)
            if options.save:
                with options.save.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    print(stamp(), f"Torch {torch.__version__}.\n")
    print(report(runs))


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
