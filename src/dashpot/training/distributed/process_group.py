"""Process group of distributed training: variables of the launcher, initialization, shutdown and initial weights."""

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
from dashpot.runs.supervisor import SUPERVISOR

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Timeout of a collective if a peer is alive but does not respond; a dead peer is detected immediately."""
SHUTDOWN_TIMEOUT, THREAD_EXIT_DELAY = 5.0, 0.5
"""Seconds to wait at exit for pending collectives, and then for gloo's threads to release their tensors."""


class Ranks(NamedTuple):
    """Rank of this process and number of processes, globally and on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def launcher_ranks(environment: Mapping[str, str] | None = None) -> Ranks | None:
    """Read the variables that torchrun or a compatible launcher sets.

    Args:
        environment: Environment variables; None means `os.environ`.

    Returns:
        The ranks; None if the process was not started by a launcher.

    Raises:
        RunError: If a variable is missing or is not an integer.

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
        rank, world_size, local_rank = (int(env[name]) for name in needed[:3])
        return Ranks(rank, world_size, local_rank, int(env.get("LOCAL_WORLD_SIZE", world_size)))
    except ValueError as error:
        raise RunError(f"The launcher's RANK, WORLD_SIZE and LOCAL_RANK must be integers: {error}.") from error


def join(ranks: Ranks, device_type: str) -> None:
    """Initialize the default process group once, with gloo, and nccl for CUDA tensors; destroy the group at exit."""
    exit_with_supervisor()
    if dist.is_initialized():
        return
    if ranks.local_world_size == ranks.world_size:  # a single machine requires no network
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback_interface())
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback_interface())
    # Python objects use gloo even if the weights use nccl, which avoids synchronization with the GPU.
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world_size, timeout=COLLECTIVE_TIMEOUT)
    exiting = threading.Event()
    # The thread is started here, because a thread cannot be started at exit.
    thread = threading.Thread(target=_destroy_group_after, args=(exiting,), daemon=True)
    thread.start()
    atexit.register(_shut_down, exiting, thread)


def loopback_interface() -> str:
    """Return the name of the loopback network interface."""
    return "lo0" if sys.platform == "darwin" else "lo"


def _destroy_group_after(exiting: threading.Event) -> None:
    exiting.wait()
    if dist.is_initialized():
        dist.destroy_process_group()


def _shut_down(exiting: threading.Event, thread: threading.Thread) -> None:
    """Destroy the group and wait for gloo's threads before the interpreter finalizes.

    gloo's threads acquire the GIL to release Python tensors. A thread that does so during finalization aborts the
    process (SIGABRT, "terminate called without an active exception"), even after a completed run.
    """
    gc.collect()  # a learner is a reference cycle that includes the group; the last release joins the group's threads
    exiting.set()
    thread.join(SHUTDOWN_TIMEOUT)  # with a timeout, because a collective with a hanging peer never completes
    time.sleep(THREAD_EXIT_DELAY)  # after FSDP, caches of torch keep the group and its threads alive


def exit_with_supervisor() -> None:
    """Start a thread that exits this process once its launcher has died, for example by SIGKILL."""
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None or any(thread.name == SUPERVISOR for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == int(supervisor):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name=SUPERVISOR, daemon=True).start()


def broadcast_weights(model: nn.Module) -> None:
    """Broadcast parameters and buffers from rank 0."""
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor, 0)


def seed_ranks(rank: int) -> None:
    """Seed the global generators of every rank above 0 from the state of rank 0; rank 0 keeps its own state."""
    seed: list[Any] = [None]
    if rank == 0:
        with torch.random.fork_rng(devices=[]):
            seed = [int(torch.randint(2**62, ()))]
    dist.broadcast_object_list(seed, 0)
    if rank > 0:
        seeds = generator("process", seed[0], rank)
        torch.manual_seed(int(torch.randint(2**62, (), generator=seeds)))
        random.seed(int(torch.randint(2**62, (), generator=seeds)))
        np.random.seed(int(torch.randint(2**32, (), generator=seeds)))
