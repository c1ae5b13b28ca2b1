"""Process of test_launch.py: `launch_worker.py BEHAVIOUR FOLDER`, where BEHAVIOUR is the name of a function below."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from processes import LIMIT

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def mark(folder: Path, event: str) -> None:
    """Atomically create the file FOLDER/EVENT-RANK, which contains the process id."""
    (folder / f"{event}-{RANK}.new").write_text(str(os.getpid()))
    (folder / f"{event}-{RANK}.new").rename(folder / f"{event}-{RANK}")


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


def print_lines(folder: Path) -> int:
    print(f"from {RANK} of {WORLD} at {os.environ['MASTER_ADDR']}")
    print(f"note of {RANK}", file=sys.stderr)
    mark(folder, "done")
    return 0


def error_on_all_ranks(_: Path) -> int:
    print("The file does not exist.", file=sys.stderr)
    return 2


def error_on_one_rank(folder: Path) -> int:
    """Print an error on rank 1, while rank 0 only loses the connection."""
    if RANK == 1:
        print("The data are damaged.", file=sys.stderr)
        mark(folder, "ended")
        return 2
    wait_for(folder / "ended-1")
    raise RuntimeError("Connection closed by peer")


def exception_on_one_rank(folder: Path) -> int:
    if RANK == 1:
        mark(folder, "ended")
        return 1 // 0
    wait_for(folder / "ended-1")
    raise RuntimeError("Connection closed by peer")


def save_signal(folder: Path) -> int:
    """Wait for SIGUSR1, which is ignored before it is handled."""
    ignored = signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    signal.signal(signal.SIGUSR1, lambda *_: mark(folder, "saved"))
    mark(folder, "started")
    wait_for(folder / f"saved-{RANK}")
    return 0 if ignored else 1


def killed(folder: Path) -> int:
    """Kill rank 1, while rank 0 ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark(folder, "started")
    wait_for(folder / "started-0")
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LIMIT)
    return 0


def graceful_stop(folder: Path) -> int:
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    mark(folder, "started")
    interrupted.wait(LIMIT)
    time.sleep(0.3)
    mark(folder, "saved")
    print("Stopped.", file=sys.stderr)
    time.sleep(1.2 if RANK == 0 else 0.8)  # stderr of rank 0 is shown before rank 1 ends
    return 130


def orphan(folder: Path) -> int:
    from dashpot.training.distributed.process_group import exit_with_supervisor

    exit_with_supervisor()
    mark(folder, "started")
    time.sleep(LIMIT)
    return 0


def pending_collective(folder: Path) -> int:
    """Exit rank 1 during a collective, whose tensor gloo releases 0.1 s later."""
    import atexit
    import gc

    import torch
    import torch.distributed as dist

    from dashpot.training.distributed import process_group

    def hold_the_gil() -> None:
        end = time.monotonic() + 0.8
        while RANK == 1 and time.monotonic() < end:
            pass

    atexit.register(hold_the_gil)  # runs after the group is destroyed
    ranks = process_group.launcher_ranks()
    assert ranks is not None
    process_group.join(ranks, "cpu")
    references: list[object] = [dist.group.WORLD]
    if (folder / "held").exists():
        globals()["HOLDER"] = references
    else:
        gc.disable()
        references.append(references)  # a reference cycle, as in a learner
    dist.barrier()
    if RANK == 0:
        time.sleep(0.1)
    sys.setswitchinterval(100)
    dist.all_reduce(torch.ones(1), async_op=True)
    return 0


def train(folder: Path) -> int:
    """Train on digits, and kill rank 1 at step 40 if FOLDER/kill exists."""
    import torch

    import dashpot as dp
    from dashpot import tasks
    from dashpot.training import Callback, Engine, Learner

    class SaveState(Callback):
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

    saved = folder / "state.pt"
    fit("final.pt", [SaveState()], torch.load(saved, weights_only=True) if saved.exists() else None)
    fit("uninterrupted.pt", [])
    if RANK == 0:
        print("trained")
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](Path(sys.argv[2])))
