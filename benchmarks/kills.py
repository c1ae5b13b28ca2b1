"""Kill `dashpot train` and `dashpot compare` at random moments, resume them, and compare their final states.

    python benchmarks/kills.py                              # 50 kills over all cases
    python benchmarks/kills.py --kills 6 --seed 3 --cases tokens-adamw,compare-digits

The cases (kill_runs.py) train the tasks of kill_tasks.py: a convolutional network with dropout, batch norm, averaged
weights, gradient accumulation and a one-cycle schedule, for five methods; a language model on batches of dicts with
padding, whose loss returns (sum, count), by `--steps` and `--evaluate-every`; a GAN with two optimizers; a `DataLoader`
with a worker; comparisons of two methods; and training in two processes. An interruption is SIGKILL, SIGTERM, SIGINT,
SIGUSR1 followed by SIGKILL, or a signal to a child of the process. It occurs during start-up, at a random moment of
training, within an evaluation, up to 20 ms after a partially written checkpoint appears, or up to 10 ms after a record
or log has grown. For interruptions during start-up, and for training in two processes, the command is started in a new
process; otherwise, it runs in a fork of the benchmark, which has already loaded torch. The benchmark needs Linux.

After its interruptions, a run finishes normally. Its last checkpoint must then be bit-identical to that of an
uninterrupted run in weights, optimizer, averages, history and random states. The same holds for records, logs and the
best checkpoint. All checkpoints must be readable, and no temporary file may remain.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kill_checks import differences
from kill_runs import CASES, MOMENTS, Case, Subject

import dashpot.comparison
import dashpot.training.run.run  # noqa: F401 - loaded once, for all forks


class Outcome:
    """Counts of interruptions and differences."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.cases: Counter[str] = Counter()
        self.runs = 0
        self.faults: list[str] = []

    def check(self, subject: Subject, whole: Path) -> None:
        self.runs += 1
        self.faults += differences(subject.folder, whole)

    def print(self, seconds: float) -> None:
        for counts in (self.cases, self.hits):
            for name, count in sorted(counts.items()):
                print(f"{count:4d}  {name}")
        print(f"{self.hits.total()} kills of {self.runs} runs in {seconds:.0f} s, {len(self.faults)} faults.")
        print(*self.faults, sep="\n")


def interrupt(case: Case, kills: int, place: Path, draw: random.Random, outcome: Outcome) -> None:
    """Interrupt the runs of a case until it has been interrupted a number of times."""
    whole, subject = Subject(case, place / f"{case.name}-whole"), Subject(case, place / case.name)
    times = whole.finish(fresh=True)
    while kills:
        moment = draw.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        hit = subject.interrupt(draw.choice(case.signals), moment, draw, times)
        if hit is not None:
            outcome.hits[hit] += 1
            outcome.cases[case.name] += 1
            kills -= 1
            print(f"{case.name}: {hit}", flush=True)
        else:  # the run is complete; the next one starts from the beginning
            outcome.check(subject, whole.folder)
            shutil.rmtree(subject.folder)
    subject.finish()
    outcome.check(subject, whole.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    given = parser.parse_args()
    known = {case.name: case for case in CASES}
    cases = [known[name] for name in given.cases.split(",")]
    draw, outcome = random.Random(given.seed), Outcome()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background processes
    began = time.perf_counter()
    place = Path(tempfile.mkdtemp(prefix="dashpot-kills-"))
    try:
        for number, case in enumerate(cases):
            interrupt(case, len(range(number, given.kills, len(cases))), place, draw, outcome)
            print(f"{case.name}: {outcome.cases.total()} kills so far, {len(outcome.faults)} faults", flush=True)
    finally:
        print(f"The runs are in {place}.") if given.keep else shutil.rmtree(place)
        outcome.print(time.perf_counter() - began)
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
