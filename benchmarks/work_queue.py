"""Time of a claim with its outcome, and time to open a finished queue.

    python benchmarks/work_queue.py [--items 1000] [--record 20000] [--storage postgresql://...]

One worker claims and finishes all items of seven groups, each with a record of the given number of characters. Without
`--storage` the queue is in a journal file in a temporary folder, whose entries are flushed to disk. CPU time is that of
the worker, without the server of a database.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from dashpot.scheduling.storage import open_storage
from dashpot.scheduling.work_items import WorkItem
from dashpot.scheduling.work_queue import WorkQueue

GROUPS = 7


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--record", type=int, default=20_000)
    parser.add_argument("--storage")
    arguments = parser.parse_args()
    items = [WorkItem(f"run/{number}", f"group{number % GROUPS}") for number in range(arguments.items)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = arguments.storage or folder / "study.journal"
        with open_storage(spec) as storage, WorkQueue(storage, "benchmark", {}, folder) as queue:
            queue.add(items)
            wall, cpu = time.perf_counter(), time.process_time()
            while claim := queue.claim():
                claim.finish("done", 0.5, {"record": "x" * arguments.record})
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(f"claim and finish: {1e3 * wall / len(items):.1f} ms, CPU {1e3 * cpu / len(items):.1f} ms")
        start = time.perf_counter()
        with open_storage(spec) as storage, WorkQueue(storage, "benchmark", {}, folder) as queue:
            queue.add(items)
            count = len(queue.outcomes())
        print(f"open a queue with {count} finished items: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
