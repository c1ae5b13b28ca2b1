"""One of several processes that train together: what the launcher says, the group, and what all have to agree on."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from dashpot.data.seeding import generator
from dashpot.errors import RunError

__all__ = [
    "SUPERVISOR",
    "Ranks",
    "broadcast_weights",
    "exit_with_supervisor",
    "join",
    "launcher_ranks",
    "loopback_interface",
    "seed_ranks",
]

SUPERVISOR = "DASHPOT_SUPERVISOR"
"""Environment variable with the number of the process that started this one, without which it is not to go on."""
LOST = timedelta(minutes=30)
"""How long a process waits for another that lives and says nothing; a dead one is noticed at once."""
LEAVING, LETTING_GO = 5.0, 0.5
"""Seconds that a process which ends gives its group to finish what is under way, and gloo's threads to let go of it."""
INNER = ("127.0.0.1", "localhost", "::1")


class Ranks(NamedTuple):
    """This process among those that a launcher started: number and count, in all and on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def launcher_ranks(environment: Mapping[str, str] | None = None) -> Ranks | None:
    """What torchrun, or another launcher with its variables, says; None without one.

    Raises:
        RunError: some variables are missing, or are no numbers.

    >>> store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    >>> launcher_ranks({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **store})
    Ranks(rank=1, world_size=2, local_rank=1, local_world_size=2)
    >>> launcher_ranks({}) is None
    True
    """
    env = os.environ if environment is None else environment
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if name not in env]:
        raise RunError(f"The launcher set RANK and WORLD_SIZE but not {', '.join(missing)}; torchrun sets all of them.")
    try:
        rank, world, local = (int(env[name]) for name in needed[:3])
        return Ranks(rank, world, local, int(env.get("LOCAL_WORLD_SIZE", world)))
    except ValueError as error:
        raise RunError(f"The launcher's RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}.") from error


def join(here: Ranks, device_type: str) -> None:
    """Join the group of all processes, once: gloo, and nccl beside it for tensors on GPUs. It is left at exit."""
    exit_with_supervisor()
    if dist.is_initialized():
        return
    if here.local_world_size == here.world_size:  # one machine: nobody outside it is to be reached
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback_interface())
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback_interface())
    # Plain data goes by gloo also where weights go by nccl, and waits for no GPU.
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=here.rank, world_size=here.world_size, timeout=LOST)
    asked = threading.Event()
    leaving = threading.Thread(target=_leave_when, args=(asked,), daemon=True)  # at exit none can be started any more
    leaving.start()
    atexit.register(_end, asked, leaving)


def loopback_interface() -> str:
    """The name of the network interface that stays within this machine."""
    return "lo0" if sys.platform == "darwin" else "lo"


def _leave_when(asked: threading.Event) -> None:
    asked.wait()
    if dist.is_initialized():
        dist.destroy_process_group()


def _end(asked: threading.Event, leaving: threading.Thread) -> None:
    """Leave the group, and see gloo's threads out before Python ends.

    They let go of tensors of Python's, for which they ask for the interpreter; one that asks while Python is ending
    takes the whole process down (SIGABRT, "terminate called without an active exception"), a finished run included.
    """
    gc.collect()  # a learner that is over is a cycle and still has the group; who lets go of it last ends its threads
    asked.set()
    leaving.join(LEAVING)  # what waits for a process that hangs is not waited for
    time.sleep(LETTING_GO)  # where somebody has the group still, as torch's caches have after FSDP, the threads go on


def exit_with_supervisor() -> None:
    """End this process when the one that supervises it has ended without a word, say by SIGKILL."""
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None or any(thread.name == SUPERVISOR for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == int(supervisor):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name=SUPERVISOR, daemon=True).start()


def broadcast_weights(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor, 0)


def seed_ranks(rank: int) -> None:
    """Let every process draw noise of its own: the first goes on as it is, the others start anew from its state."""
    state: list[Any] = [None]
    if rank == 0:
        with torch.random.fork_rng(devices=[]):
            state = [int(torch.randint(2**62, ()))]
    dist.broadcast_object_list(state, 0)
    if rank > 0:
        draw = generator("process", state[0], rank)
        torch.manual_seed(int(torch.randint(2**62, (), generator=draw)))
        random.seed(int(torch.randint(2**62, (), generator=draw)))
        np.random.seed(int(torch.randint(2**32, (), generator=draw)))
