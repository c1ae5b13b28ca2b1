"""Engine of a learner: device, precision and processes, based on lightning-fabric."""

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
from dashpot.runs.choices import PRECISIONS, STRATEGIES
from dashpot.training.distributed import process_group
from dashpot.training.distributed.import_fabric import placeholder_for_torchmetrics
from dashpot.utils.format import reason
from dashpot.utils.group_params import group_params
from dashpot.utils.scalars import scalar_dtype

FLAG = OneOf((False, True))
DEVICES = Interval(1, math.inf, "left", integer=True)


class Engine:
    """Device, precision and process group of a training run.

    With several processes, the constructor joins the process group, so every process must create an engine.

    Args:
        accelerator: "auto", "cpu", "cuda", "mps" or another accelerator of lightning-fabric.
        devices: Number of processes, each with its own device, at least 1. `dashpot train --devices` or `torchrun`
            starts the processes. Under a launcher, 1 means the number of processes that the launcher has started.
        strategy: "ddp" (replicated weights), "fsdp" (FSDP2: sharded weights), or "auto", which is the same as "ddp".
        precision: "fp32", or "bf16" or "fp16" for autocast with float32 weights. With "fp16", the loss is scaled.
        find_unused_parameters: Whether DDP searches the graph of every step for parameters that the loss does not
            depend on, which takes time. Without this option, such parameters raise an error. It has no effect with one
            process or with "fsdp".

    Raises:
        ArgumentError: If an argument has an unsupported value, or `devices` differs from the number of processes that
            the launcher has started.
        RunError: If lightning-fabric is not installed, or the accelerator is not available.
    """

    def __init__(
        self,
        accelerator: str = "auto",
        devices: int = 1,
        strategy: str = "auto",
        precision: str = "fp32",
        *,
        find_unused_parameters: bool = False,
    ) -> None:
        check("Engine", "precision", precision, PRECISIONS)
        check("Engine", "strategy", strategy, STRATEGIES)
        check("Engine", "devices", devices, DEVICES)
        check("Engine", "find_unused_parameters", find_unused_parameters, FLAG)
        self.precision, self.strategy, self.find_unused_parameters = precision, strategy, find_unused_parameters
        self.fabric = _create_fabric(
            accelerator, strategy, _resolve_ranks(process_group.launcher_ranks(), devices), find_unused_parameters
        )
        self.scaler: torch.amp.GradScaler | None = None
        self._unscaled = False
        if precision == "fp16":
            self.scaler = torch.amp.GradScaler(self.device.type)

    # ---- device and ranks -------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.fabric.device

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.fabric.world_size

    @property
    def global_rank(self) -> int:
        """Rank of this process, from 0."""
        return self.fabric.global_rank

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process has rank 0, which writes files and prints."""
        return self.global_rank == 0

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over the processes."""
        return self.strategy == "fsdp" and self.world_size > 1

    # ---- the model --------------------------------------------------------------------------------------------------

    def setup(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, wrap it for the strategy, and return the wrapped module for forward passes.

        With several processes, the weights of rank 0 are broadcast, and the global generators of the other ranks are
        seeded from the state of rank 0, so that noise such as dropout differs between ranks.
        """
        if self.world_size == 1:
            self.fabric.strategy.module_to_device(model)
            return self.fabric.strategy.setup_module(model)
        model.to(self.device)
        process_group.broadcast_weights(model)
        process_group.seed_ranks(self.global_rank)
        module = self.fabric.strategy.setup_module(model)
        if self.sharded and any(True for _ in model.buffers()):
            module.register_forward_pre_hook(_broadcast_buffers)
        return module

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of forward passes and losses."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    @contextmanager
    def no_sync(self, module: nn.Module) -> Iterator[None]:
        """Skip gradient reduction inside the block; the next backward pass reduces the accumulated gradients."""
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

    def backward(self, loss: Tensor, optimizer: Optimizer, recompute: Callable[[], Tensor] | None) -> None:
        """Backpropagate `loss`; for a second-order method, also compute a Hessian-vector product if one is due.

        Args:
            loss: Loss of a micro-batch.
            optimizer: Optimizer of the next step.
            recompute: Closure that recomputes and backpropagates the losses of all micro-batches of this step, for
                optimizers for which `recomputes_loss` is True. None unless `loss` is that of the last micro-batch.
        """
        own = getattr(optimizer, "backward", None)
        separate = self.recomputes_loss(optimizer)
        if own is not None and not separate:
            own(loss, scaler=self.scaler)
        elif self.scaler is not None:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()
        if separate and recompute is not None and optimizer.should_create_graph():  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.curvature_step(recompute)  # pyright: ignore[reportAttributeAccessIssue]

    def rescale(self, optimizer: Optimizer) -> None:
        """Multiply accumulated, unscaled gradients by the loss scale, to match the next scaled gradients."""
        if self.scaler is None:
            return
        kept = [p.grad for p in group_params(optimizer) if p.grad is not None]
        if kept:
            scale = self.scaler.get_scale()
            for grad in kept:
                grad.mul_(scale)

    def recomputes_loss(self, optimizer: Optimizer) -> bool:
        """Return whether Hessian-vector products recompute the losses.

        The losses are recomputed if the weights are sharded or if the probe is "forward" or "differences".
        """
        probe = getattr(getattr(optimizer, "probing", None), "probe", None)
        return isinstance(probe, str) and (self.sharded or probe in ("forward", "differences"))

    def unscale(self, optimizer: Optimizer) -> None:
        """Unscale the gradients, at most once per step; a no-op without a scaler or without gradients."""
        if self.scaler is not None and not self._unscaled and _has_gradients(optimizer):
            self.scaler.unscale_(optimizer)
            self._unscaled = True

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer; return False if the step was skipped because of non-finite gradients."""
        if self.scaler is None or not _has_gradients(optimizer):  # the scaler rejects steps without gradients
            optimizer.step()
        else:
            before = self.scaler.get_scale()
            self._unscaled = True  # in scaler.step; `reset` requires this flag if the optimizer raises
            self.scaler.step(optimizer)
            self.scaler.update()
            self._unscaled = False
            if self.scaler.get_scale() < before:
                return False
        return getattr(optimizer, "last_step", None) != "skipped"

    def reset(self) -> None:
        """Reset the scaler if the gradients were unscaled but no step was taken."""
        if self.scaler is not None and self._unscaled:
            self.scaler.update()
            self._unscaled = False

    # ---- processes --------------------------------------------------------------------------------------------------

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Return the elementwise float64 sums of `values` over all processes, on every process."""
        if self.world_size == 1:
            return values
        gathered = self.all_gather(values)
        # The sums are bit-identical on every rank, because the values are in rank order.
        return [sum(column) for column in zip(*gathered, strict=True)]

    def sum_count(self, count: Any) -> Any:
        """Return the sum of a number or a 0-d tensor over all processes, without a host sync for a tensor."""
        if self.world_size == 1:
            return count
        if isinstance(count, Tensor):
            total = count.detach().to(scalar_dtype(count.device), copy=True)
            dist.all_reduce(total)
            return total
        total = torch.tensor(float(count), dtype=torch.float64)  # on the CPU, to avoid a host sync
        dist.all_reduce(total)
        return float(total)

    def all_gather(self, value: Any) -> list[Any]:
        """Return the picklable `value` of every process, in rank order."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Return the picklable `value` of rank 0 on every process."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def any(self, condition: bool) -> bool:
        """Return whether `condition` holds on any process; the result is the same on every process."""
        if self.world_size == 1:
            return condition
        votes = torch.tensor(int(condition))  # on the CPU, to avoid a host sync
        dist.all_reduce(votes)
        return bool(votes)

    def barrier(self) -> None:
        """Block until every process has reached this call."""
        self.fabric.barrier()


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def check_devices(accelerator: str, count: int) -> None:
    """Check that this machine has one device of `accelerator` for each process.

    Args:
        accelerator: Accelerator as for `Engine`; "auto" selects the same accelerator as in lightning-fabric.
        count: Number of processes on this machine.

    Raises:
        RunError: If there are fewer devices than processes.

    >>> check_devices("cpu", 8)
    """
    available = {"mps": int(torch.backends.mps.is_available())}
    available["cuda"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = next((name for name, found in available.items() if found), "cpu") if accelerator == "auto" else accelerator
    if kind not in available or available[kind] >= count:
        return
    found = available[kind]
    if not found:
        others = [name for name, found in available.items() if found]
        choices = " or ".join(["auto", *others, "cpu"])
        raise RunError(f"Engine: accelerator {kind} is not available on this machine; choose {choices}.")
    allowed = "1" if found == 1 else f"1 to {found}"
    raise RunError(
        f"Engine: devices must be {allowed} with accelerator {kind} on this machine, got {count}; accelerator cpu has "
        "no such limit."
    )


def _resolve_ranks(ranks: process_group.Ranks | None, devices: int) -> process_group.Ranks:
    """Return the launcher's ranks, or the ranks of a single process, after a check against `devices`."""
    if ranks is None and devices > 1:
        raise ArgumentError(
            f"Engine: devices={devices} needs a launcher: torchrun --nproc-per-node {devices} SCRIPT, or dashpot train "
            f"--devices {devices}."
        )
    if ranks is None:
        return process_group.Ranks(0, 1, 0, 1)
    if devices not in (1, ranks.world_size):
        raise ArgumentError(f"Engine: devices={devices}, but the launcher started {ranks.world_size} processes.")
    return ranks


def _create_fabric(accelerator: str, strategy: str, ranks: process_group.Ranks, find_unused: bool) -> Any:
    try:
        with placeholder_for_torchmetrics():
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
            from lightning_fabric.strategies.ddp import DDPStrategy
            from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
            from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise RunError("Training needs lightning-fabric: pip install 'dashpot[train]'.") from error
    check_devices(accelerator, ranks.local_world_size)
    chosen: dict[str, Any] = {"devices": ranks.local_world_size}
    if ranks.world_size > 1:
        chosen |= {
            "num_nodes": ranks.world_size // ranks.local_world_size,
            "plugins": TorchElasticEnvironment(),
            "strategy": DDPStrategy(find_unused_parameters=find_unused),
        }
    if ranks.world_size > 1 and strategy == "fsdp":
        chosen["strategy"] = ModelParallelStrategy(_shard, data_parallel_size=ranks.world_size, tensor_parallel_size=1)
    try:
        fabric = Fabric(accelerator=accelerator, **chosen)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise RunError(f"Engine: accelerator {accelerator!r} cannot be used: {reason(error)}.") from error
    if ranks.world_size > 1:
        process_group.join(ranks, fabric.device.type)
    fabric.launch()
    return fabric


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Apply FSDP2: one unit for each child that has its own parameters, and one for the remaining parameters."""
    from torch.distributed.fsdp import fully_shard

    data_parallel = mesh["data_parallel"]
    # The root unit must reshard too: otherwise, an evaluation leaves gathered tensors in the model, while the optimizer
    # refers to the sharded tensors.
    for unit in [*_fsdp_units(model), model]:
        fully_shard(unit, mesh=data_parallel, reshard_after_forward=True)
    return model


def _fsdp_units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the children that share no parameter with a sibling; module lists and dicts are flattened."""
    children = list(model.children())
    owners = Counter(p for child in children for p in set(child.parameters()))
    for child in children:
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _fsdp_units(child)
        elif any(True for _ in child.parameters()) and all(owners[p] == 1 for p in child.parameters()):
            yield child


def _broadcast_buffers(module: nn.Module, _: Any) -> None:
    """Broadcast buffers such as running averages from rank 0 before a forward pass, as DDP does."""
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)
