"""The machine a learner runs on: device, precision and processes, through lightning-fabric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot.constraints import Interval, OneOf, check
from dashpot.errors import ArgumentError, RunError
from dashpot.training.distributed import process_group

__all__ = ["PRECISIONS", "STRATEGIES", "Engine", "check_devices"]

PRECISIONS = OneOf(("fp32", "bf16", "fp16"))
STRATEGIES = OneOf(("auto", "ddp", "fsdp"))
DEVICES = Interval(1, math.inf, "left", integer=True)


class Engine:
    """Where a model is computed, and how many processes share the work.

    Args:
        accelerator: "auto", "cpu", "cuda", "mps" or another that lightning-fabric knows.
        devices: processes, each with a device. Several are started by `dashpot train --devices`, or by `torchrun`,
            which then decides how many there are; left at 1 this takes what they say.
        strategy: "ddp" (every process holds the model), "fsdp" (FSDP2: each holds a share), or "auto": ddp.
        precision: "fp32"; "bf16" or "fp16", which compute under autocast with weights in float32. fp16 scales the loss.

    Raises:
        ArgumentError: a choice that does not exist, or another number of processes than there is.
        RunError: lightning-fabric is not installed, or cannot have that device.

    With several processes this is where each joins the others: make it in all of them.
    """

    def __init__(
        self, accelerator: str = "auto", devices: int = 1, strategy: str = "auto", precision: str = "fp32"
    ) -> None:
        check("Engine", "precision", precision, PRECISIONS)
        check("Engine", "strategy", strategy, STRATEGIES)
        check("Engine", "devices", devices, DEVICES)
        self.precision, self.strategy = precision, strategy
        self.fabric = _fabric(accelerator, strategy, _checked(process_group.launcher_ranks(), devices))
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
    def world_size(self) -> int:
        """Number of processes."""
        return self.fabric.world_size

    @property
    def global_rank(self) -> int:
        """Number of this process, from 0."""
        return self.fabric.global_rank

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.global_rank == 0

    @property
    def sharded(self) -> bool:
        """Whether every process holds a share of the weights only."""
        return self.strategy == "fsdp" and self.world_size > 1

    # ---- the model --------------------------------------------------------------------------------------------------

    def setup(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device and make it ready for the processes; the answer is what forward goes through.

        Several processes start from the weights of the first, and each then draws its own noise, such as dropout's:
        the first goes on with torch's random state as it is.
        """
        if self.world_size == 1:
            self.fabric.strategy.module_to_device(model)
            return self.fabric.strategy.setup_module(model)
        model.to(self.device)
        process_group.broadcast_weights(model)
        process_group.seed_ranks(self.global_rank)
        module = self.fabric.strategy.setup_module(model)
        if self.sharded and any(True for _ in model.buffers()):
            module.register_forward_pre_hook(_first_buffers)
        return module

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes and losses."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    @contextmanager
    def no_sync(self, module: nn.Module) -> Iterator[None]:
        """Backward passes inside leave the gradients of the processes apart; the first one after it adds them up."""
        if self.world_size == 1:
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

    def backward(self, loss: Tensor, optimizer: Optimizer, again: Callable[[], Tensor] | None) -> None:
        """Go backward from `loss`; a second-order method takes its Hessian-vector product on the way where one is due.

        `again`, given with the last batch before a step, goes backward from the losses of all batches of this step once
        more, for the routes that need that (`recomputes_loss`).
        """
        own = getattr(optimizer, "backward", None)
        apart = self.recomputes_loss(optimizer)
        if own is not None and not apart:
            own(loss, scaler=self.scaler)
        elif self.scaler is not None:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()
        if apart and again is not None and optimizer.should_create_graph():  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.curvature_step(again)  # pyright: ignore[reportAttributeAccessIssue]

    def rescale(self, optimizer: Optimizer) -> None:
        """Put gradients that are kept from an earlier step under the loss scale, as those to come will be."""
        if self.scaler is None:
            return
        kept = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if kept:
            scale = self.scaler.get_scale()
            for grad in kept:
                grad.mul_(scale)

    def recomputes_loss(self, optimizer: Optimizer) -> bool:
        """Whether products need the losses of a step a second time: shares of weights, "forward", "differences"."""
        probe = getattr(getattr(optimizer, "probing", None), "probe", None)
        return isinstance(probe, str) and (self.sharded or probe in ("forward", "differences"))

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
            self._unscaled = True  # by the scaler; `reset` is to know if the optimizer fails
            self.scaler.step(optimizer)
            self.scaler.update()
            self._unscaled = False
            if self.scaler.get_scale() < before:
                return False
        return getattr(optimizer, "last_step", None) != "skipped"

    def reset(self) -> None:
        """Forget a step that was not taken after its gradients were unscaled."""
        if self.scaler is not None and self._unscaled:
            self.scaler.update()
            self._unscaled = False

    # ---- processes --------------------------------------------------------------------------------------------------

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """The sums of numbers over all processes, in float64; every process gets them."""
        if self.world_size == 1:
            return values
        gathered = self.all_gather(values)
        return [sum(column) for column in zip(*gathered, strict=True)]  # in the order of ranks: the same everywhere

    def all_gather(self, value: Any) -> list[Any]:
        """`value` of every process, by rank; any plain data."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any) -> Any:
        """What the first process gives, in all of them; any plain data."""
        found = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(found, 0)
        return found[0]

    def any(self, wish: bool) -> bool:
        """Whether `wish` is true in any process: what they have to do together, such as stopping, starts with this."""
        if self.world_size == 1:
            return wish
        votes = torch.tensor(int(wish))  # on the CPU: no GPU is waited for
        dist.all_reduce(votes)
        return bool(votes)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.fabric.barrier()


def check_devices(accelerator: str, number: int) -> None:
    """Refuse an accelerator of which this machine has fewer devices than processes that want one each.

    Args:
        accelerator: as for `Engine`; "auto" stands for what lightning-fabric would choose.
        number: processes on this machine.

    Raises:
        RunError: there are too few, or none.

    >>> check_devices("cpu", 8)
    """
    there = {"mps": int(torch.backends.mps.is_available())}
    there["cuda"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = next((name for name, count in there.items() if count), "cpu") if accelerator == "auto" else accelerator
    if kind not in there or there[kind] >= number:
        return
    found, what = there[kind], f"{kind.upper()} device"
    if not found:
        others = [name for name, count in there.items() if count]
        raise RunError(
            f"There is no {what} here for accelerator {kind}; choose {' or '.join(['auto', *others, 'cpu'])}."
        )
    have = f"is 1 {what}" if found == 1 else f"are {found} {what}s"
    fewer = "1" if found == 1 else f"1 to {found}"
    raise RunError(f"There {have} here, and {number} processes need {number}; choose {fewer}, or accelerator cpu.")


def _checked(here: process_group.Ranks | None, devices: int) -> process_group.Ranks:
    """Where this process is among how many, as far as that agrees with what was asked for."""
    if here is None and devices > 1:
        raise ArgumentError(
            f"Engine: devices={devices} needs a launcher: torchrun --nproc-per-node {devices} SCRIPT, or dashpot train "
            f"--devices {devices}."
        )
    if here is None:
        return process_group.Ranks(0, 1, 0, 1)
    if devices not in (1, here.world_size):
        raise ArgumentError(f"Engine: devices={devices}, but the launcher started {here.world_size} processes.")
    return here


def _fabric(accelerator: str, strategy: str, here: process_group.Ranks) -> Any:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise RunError("Training needs lightning-fabric: pip install 'dashpot[train]'.") from error
    check_devices(accelerator, here.local_world_size)
    chosen: dict[str, Any] = {"devices": here.local_world_size}
    if here.world_size > 1:
        chosen |= {
            "num_nodes": here.world_size // here.local_world_size,
            "plugins": TorchElasticEnvironment(),
            "strategy": "ddp",
        }
    if here.world_size > 1 and strategy == "fsdp":
        chosen["strategy"] = ModelParallelStrategy(_shard, data_parallel_size=here.world_size, tensor_parallel_size=1)
    try:
        fabric = Fabric(accelerator=accelerator, **chosen)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise RunError(f"Engine: accelerator {accelerator!r} cannot be used: {reason}.") from error
    if here.world_size > 1:
        process_group.join(here, fabric.device.type)
    fabric.launch()
    return fabric


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2 over the processes: one unit for each child that has parameters of its own, and one for what is left."""
    from torch.distributed.fsdp import fully_shard

    line = mesh["data_parallel"]
    # The outermost unit gives its gathered weights back, too: else an evaluation leaves other tensors in the model
    # than those that the optimizer has.
    for unit in [*_units(model), model]:
        fully_shard(unit, mesh=line, reshard_after_forward=True)
    return model


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """The children that can be gathered each by itself; containers that only hold modules are looked into."""
    children = list(model.children())
    owners = Counter(p for child in children for p in set(child.parameters()))
    for child in children:
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _units(child)
        elif any(True for _ in child.parameters()) and all(owners[p] == 1 for p in child.parameters()):
            yield child


def _first_buffers(module: nn.Module, _: Any) -> None:
    """Give all processes the first one's buffers, such as running averages, before a forward pass, as DDP does."""
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)
