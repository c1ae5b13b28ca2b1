"""Workers of a queue that are killed at random moments; prints a JSON object with everything that happened.

Usage: python killed_workers.py '{"spec": URL or path, "folder": path, "items": 20, "kills": 3, "seed": 0, ...}'
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from dashpot.scheduling.storage import open_storage
from dashpot.scheduling.work_items import WorkItem
from dashpot.scheduling.work_queue import WorkQueue

DEFAULTS = {
    "workers": 3,
    "own_folders": False,
    "lease": 60.0,
    "limit": 60.0,
    "group_count": 3,
    "longest": 0.004,
    "pause": 0.1,
    "suspend": 0.0,
}


def items(case: dict[str, Any]) -> list[WorkItem]:
    return [WorkItem(f"run/{number}", f"group{number % case['group_count']}") for number in range(case["items"])]


def append(case: dict[str, Any], *words: object) -> None:
    """Append a line to the shared log; a single write with O_APPEND is atomic."""
    descriptor = os.open(Path(case["folder"], "events"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def gate(case: dict[str, Any]) -> int:
    """Return the number of items that are ready; it grows with the kills, so that no kill comes too late."""
    return int(Path(case["folder"], "gate").read_text(encoding="ascii"))


def open_gate(case: dict[str, Any], count: int) -> None:
    temporary = Path(case["folder"], "gate.part")
    temporary.write_text(str(count), encoding="ascii")
    temporary.replace(Path(case["folder"], "gate"))


def queue_of(case: dict[str, Any], storage: Any, number: int) -> WorkQueue:
    folder = Path(case["folder"], f"machine{number}" if case["own_folders"] else "study")
    queue = WorkQueue(storage, "study", {"items": case["items"]}, folder, lease=case["lease"])
    queue.add(items(case))
    return queue


def spec(case: dict[str, Any]) -> Path | str:
    return case["spec"] if "://" in case["spec"] else Path(case["spec"])


def work(case: dict[str, Any], number: int) -> None:
    """Execute items until all are finished."""
    rng = random.Random(number)
    with open_storage(spec(case), limit=case["limit"]) as storage, queue_of(case, storage, number) as queue:
        append(case, "ready", number, "-")
        while len(queue.outcomes()) < case["items"]:
            ready = gate(case)
            claim = queue.claim(lambda key: int(key.split("/")[1]) < ready)  # noqa: B023 - called at once
            if claim is None:
                time.sleep(0.01)
                continue
            append(case, "start", number, claim.key)
            time.sleep(rng.random() * case["longest"])
            if claim.finish("done", 1.0, {"worker": number}):
                append(case, "finish", number, claim.key)
            else:
                append(case, "drop", number, claim.key)


def fork(case: dict[str, Any], number: int) -> int:
    """Start a worker and return its process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work(case, number)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def suspend(case: dict[str, Any], process: int) -> None:
    """Stop a worker for longer than its lease, as on a suspended laptop."""
    os.kill(process, signal.SIGSTOP)
    time.sleep(case["suspend"])
    os.kill(process, signal.SIGCONT)


def replace(case: dict[str, Any], alive: dict[int, int], victim: int, number: int) -> None:
    """Kill a worker and start a new one."""
    process = alive.pop(victim)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    alive[number] = fork(case, number)


def kill_some(case: dict[str, Any]) -> tuple[dict[int, int], int]:
    """Kill or suspend random workers at random moments, each after it has begun."""
    rng = random.Random(case["seed"])
    alive = {number: fork(case, number) for number in range(case["workers"])}
    share = case["items"] // (case["kills"] + 1)
    for kill in range(case["kills"]):
        open_gate(case, (kill + 1) * share)
        victim = rng.choice(sorted(alive))
        while f"ready {victim} " not in Path(case["folder"], "events").read_text(encoding="ascii"):
            time.sleep(0.005)
        time.sleep(rng.random() * case["pause"])
        if case["suspend"]:
            suspend(case, alive[victim])
        else:
            replace(case, alive, victim, case["workers"] + kill)
    open_gate(case, case["items"])
    return alive, case["kills"]


def main() -> None:
    case = {**DEFAULTS, **json.loads(sys.argv[1])}
    Path(case["folder"]).mkdir(parents=True, exist_ok=True)
    open_storage(spec(case)).close()  # import all modules before the first fork
    open_gate(case, 0)
    append(case, "begin", "-", "-")
    alive, kills = kill_some(case)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in alive.values()]
    with open_storage(spec(case)) as storage, queue_of(case, storage, -1) as queue:
        outcomes = {key: outcome.data["worker"] for key, outcome in queue.outcomes().items()}
    events = [line.split() for line in Path(case["folder"], "events").read_text(encoding="ascii").splitlines()]
    print(json.dumps({"codes": codes, "outcomes": outcomes, "events": events, "kills": kills}))


if __name__ == "__main__":
    main()
