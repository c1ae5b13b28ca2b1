"""The machine a learner runs on: device, precision and processes, through lightning-fabric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot.constraints import OneOf, check
from dashpot.errors import RunError

__all__ = ["PRECISIONS", "STRATEGIES", "Engine"]

PRECISIONS = OneOf(("fp32", "bf16", "fp16"))
STRATEGIES = OneOf(("auto", "ddp", "fsdp"))


class Engine:
    """Where a model is computed, and how many processes share the work.

    Args:
        accelerator: "auto", "cpu", "cuda", "mps" or another that lightning-fabric knows.
        devices: processes on this machine, each with a device. More than one asks for a launcher: `dashpot train
            --devices`, or `torchrun`, which then also decides how many there are.
        strategy: "ddp" (every process holds the model), "fsdp" (FSDP2: each holds a share), or "auto": ddp.
        precision: "fp32"; "bf16" or "fp16", which compute under autocast with weights in float32. fp16 scales the loss.

    Raises:
        ArgumentError: a choice that does not exist.
        RunError: lightning-fabric is not installed, or cannot have that device.
    """

    def __init__(
        self, accelerator: str = "auto", devices: int = 1, strategy: str = "auto", precision: str = "fp32"
    ) -> None:
        check("Engine", "precision", precision, PRECISIONS)
        check("Engine", "strategy", strategy, STRATEGIES)
        self.precision, self.strategy = precision, strategy
        self.fabric = _fabric(accelerator, devices, strategy)
        self.scaler: torch.amp.GradScaler | None = None
        self._unscaled = False
        if precision == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type)

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.fabric.world_size

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.fabric.global_rank

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether every process holds a share of the weights only."""
        return self.strategy == "fsdp" and self.world > 1

    # ---- the model --------------------------------------------------------------------------------------------------

    def set_up(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device and make it ready for the processes; the answer is what forward goes through."""
        self.fabric.strategy.module_to_device(model)
        return self.fabric.strategy.setup_module(model)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes and losses."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    @contextmanager
    def without_sync(self, module: nn.Module) -> Iterator[None]:
        """Backward passes inside leave the gradients of the processes apart; the first one after it adds them up."""
        if self.world == 1:
            yield
        elif self.sharded:
            module.set_requires_gradient_sync(False)  # pyright: ignore[reportCallIssue]
            try:
                yield
            finally:
                module.set_requires_gradient_sync(True)  # pyright: ignore[reportCallIssue]
        else:
            with module.no_sync():  # pyright: ignore[reportCallIssue]
                yield

    # ---- a step -----------------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor, optimizer: Optimizer, again: Callable[[], Tensor]) -> None:
        """Go backward from `loss`; a second-order method takes its Hessian-vector product on the way where one is due.

        `again` computes the loss of the same batch once more, for the routes that need that.
        """
        probing = getattr(optimizer, "probing", None)
        own = getattr(optimizer, "backward", None)
        if own is not None and probing is not None and (self.sharded or probing.probe in ("forward", "differences")):
            if optimizer.should_create_graph():  # pyright: ignore[reportAttributeAccessIssue]
                optimizer.curvature_step(again)  # pyright: ignore[reportAttributeAccessIssue]
            own = None
        if own is not None:
            own(loss, scaler=self.scaler)
        elif self.scaler is not None:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Take the loss scale out of the gradients, once for a step; without a scaler there is nothing to do."""
        if self.scaler is not None and not self._unscaled:
            self.scaler.unscale_(optimizer)
            self._unscaled = True

    def step(self, optimizer: Optimizer) -> bool:
        """Let the optimizer step; False where the step was skipped because gradients were not finite."""
        if self.scaler is None:
            optimizer.step()
        else:
            before = self.scaler.get_scale()
            self.scaler.step(optimizer)
            self.scaler.update()
            self._unscaled = False
            if self.scaler.get_scale() < before:
                return False
        return getattr(optimizer, "last_step", None) != "skipped"

    # ---- processes --------------------------------------------------------------------------------------------------

    def total(self, values: list[float]) -> list[float]:
        """The sums of numbers over all processes, in float64; every process gets them."""
        if self.world == 1:
            return values
        gathered = self.gather(values)
        return [sum(column) for column in zip(*gathered, strict=True)]  # in the order of ranks: the same everywhere

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, by rank; any plain data."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait for all processes."""
        self.fabric.barrier()


def _fabric(accelerator: str, devices: int, strategy: str) -> Any:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    except ImportError as error:
        raise RunError("Training needs lightning-fabric: pip install 'dashpot[train]'.") from error
    chosen: Any = "ddp" if devices > 1 else "auto"
    if strategy == "fsdp" and devices > 1:
        chosen = ModelParallelStrategy(_shard, data_parallel_size=devices, tensor_parallel_size=1)
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=chosen)
    fabric.launch()
    return fabric


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2 over the processes: one unit for each child that has parameters, and one for what is left."""
    from torch.distributed.fsdp import fully_shard

    line = mesh["data_parallel"]
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=line)
    fully_shard(model, mesh=line)
    return model
