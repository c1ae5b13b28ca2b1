"""One of the processes that test_launch.py starts: `launch_worker.py WHAT FOLDER`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def note(folder: Path, text: str) -> None:
    """Tell that this process is `text`; the file is there with its number in it, or not at all."""
    (folder / f"{text}-{RANK}.new").write_text(str(os.getpid()))
    (folder / f"{text}-{RANK}.new").rename(folder / f"{text}-{RANK}")


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


def print_lines(folder: Path) -> int:
    print(f"from {RANK} of {WORLD} at {os.environ['MASTER_ADDR']}")
    print(f"note of {RANK}", file=sys.stderr)
    note(folder, "done")
    return 0


def same_mistake(_: Path) -> int:
    print("The file is not there.", file=sys.stderr)
    return 2


def mistake_of_one(folder: Path) -> int:
    """The second process makes a mistake, and the first notices only that it is gone."""
    if RANK == 1:
        print("Its part is damaged.", file=sys.stderr)
        note(folder, "gone")
        return 2
    wait_for(folder / "gone-1")
    raise RuntimeError("Connection closed by peer")


def crash(folder: Path) -> int:
    if RANK == 1:
        note(folder, "gone")
        return 1 // 0
    wait_for(folder / "gone-1")
    raise RuntimeError("Connection closed by peer")


def killed(folder: Path) -> int:
    """The first process does not even obey SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(folder, "there")
    wait_for(folder / "there-0")
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return 0


def tidy(folder: Path) -> int:
    asked = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: asked.set())
    note(folder, "there")
    asked.wait(60)
    time.sleep(0.3)
    note(folder, "tidy")
    print("Stopped.", file=sys.stderr)
    time.sleep(1.2 if RANK == 0 else 0.8)  # what the first says is shown before the second ends
    return 130


def orphan(folder: Path) -> int:
    from dashpot.training.distributed.process_group import exit_with_supervisor

    exit_with_supervisor()
    note(folder, "there")
    time.sleep(60)
    return 0


def late(folder: Path) -> int:
    """gloo has work for another 0.1 s when the second process ends, and lets go of its tensor only then."""
    import atexit
    import gc

    import torch
    import torch.distributed as dist

    from dashpot.training.distributed import process_group

    def keep_the_interpreter() -> None:
        end = time.monotonic() + 0.8
        while RANK == 1 and time.monotonic() < end:
            pass

    atexit.register(keep_the_interpreter)  # after the group is left
    here = process_group.launcher_ranks()
    assert here is not None
    process_group.join(here, "cpu")
    holder = [dist.group.WORLD]
    if (folder / "held").exists():
        globals()["HOLDER"] = holder
    else:
        gc.disable()
        holder.append(holder)  # a cycle, as a learner and its model are
    dist.barrier()
    if RANK == 0:
        time.sleep(0.1)
    sys.setswitchinterval(100)
    dist.all_reduce(torch.ones(1), async_op=True)
    return 0


def train(folder: Path) -> int:
    """Digits; the second process is killed at step 40 unless that has happened before."""
    import torch

    import dashpot as dp
    from dashpot import tasks
    from dashpot.training import Callback, Engine, Learner

    class Keep(Callback):
        order = 100

        def after_batch(self, learner):
            if learner.training and learner.steps % 15 == 0:
                state = learner.state_dict()
                if learner.engine.is_rank_zero:
                    torch.save(state, folder / "new.pt")
                    (folder / "new.pt").rename(folder / "state.pt")
            if learner.training and learner.steps == 40 and (folder / "kill").exists() and RANK == 1:
                (folder / "kill").unlink()
                os.kill(os.getpid(), signal.SIGKILL)

    def fit(name, callbacks, state=None):
        torch.manual_seed(0)
        problem = tasks.get("digits").build(seed=0)
        problem.model.append(torch.nn.Dropout(0.1))
        learner = Learner.of(problem, dp.AdamW, lr=0.01, engine=Engine("cpu", devices=2))
        learner.fit(2, callbacks=callbacks, resume=state)
        if learner.engine.is_rank_zero:
            torch.save({"model": learner.model.state_dict(), "history": learner.history}, folder / name)

    kept = folder / "state.pt"
    fit("final.pt", [Keep()], torch.load(kept, weights_only=True) if kept.exists() else None)
    fit("whole.pt", [])
    if RANK == 0:
        print("trained")
    return 0


if __name__ == "__main__":
    sys.modules["torchmetrics"] = None  # type: ignore[assignment] - lightning asks for its version: 3 s with transformers
    sys.exit(globals()[sys.argv[1]](Path(sys.argv[2])))
