"""Origin of non-finite values in a repeated forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dashpot._torch_private import local_tensor
from dashpot.training.loop_state import Batch
from dashpot.training.side_pass import restored_attributes
from dashpot.utils.format import reason
from dashpot.utils.named_tensors import named_tensors
from dashpot.utils.rng_state import preserve_rng_state

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


@dataclass(frozen=True)
class Origin:
    """First non-finite value of a repeated pass.

    Attributes:
        kind: "output" (of a module with finite inputs), "prediction" (computed outside of modules), "loss" (computed
            from a finite prediction), "gradient" (of a module whose output has finite gradients), "loss gradient" (of
            the loss with respect to the output of the model), "none" (all values are finite) or "failed".
        batch: Index of the batch.
        module: Name of the module, "" for the model itself.
        layer: Class of the module.
        label: "nan" or "inf"; for "failed", the error message.
        own: Labels of the non-finite parameters and buffers of the module, by attribute.
    """

    kind: str = "none"
    batch: int = 0
    module: str = ""
    layer: str = ""
    label: str = ""
    own: Mapping[str, str] | None = None


def label(value: Any) -> str | None:
    """Return "nan" if any element of a tensor or of nested data is NaN, else "inf" if any is infinite, else None.

    >>> label(torch.tensor([1.0, torch.inf])), label({"a": torch.tensor([torch.inf, torch.nan])}), label([1.0])
    ('inf', 'nan', None)
    """
    found = labels(dict(named_tensors(value, ""))).values()
    return "nan" if "nan" in found else next(iter(found), None)


def labels(values: Mapping[Any, Tensor]) -> dict[Any, str]:
    """Return the labels of the tensors with non-finite elements, using one device transfer per device."""
    local = {name: local_tensor(value, value).detach() for name, value in values.items()}
    local = {
        name: v for name, v in local.items() if (v.is_floating_point() or v.is_complex()) and v.device.type != "meta"
    }
    rows: dict[Any, list[bool]] = {}
    for device in dict.fromkeys(v.device for v in local.values()):
        names = [name for name, v in local.items() if v.device == device]
        flags = torch.stack([torch.stack((local[name].isnan().any(), local[name].isinf().any())) for name in names])
        rows |= dict(zip(names, flags.tolist(), strict=True))
    return {name: "nan" if rows[name][0] else "inf" for name in local if any(rows[name])}


def find_origin(learner: Learner, batches: Sequence[Batch]) -> Origin:
    """Repeat the actions `predict` and `get_loss` on `batches`, and return the first non-finite value.

    If all losses of a training step are finite, the gradients are computed again too, unless the weights are sharded.
    Gradients, buffers, random states and the learner's batch are unchanged. All ranks must call this function.
    """
    with _restored(learner):
        for batch in batches:
            origin = _first_in_forward(learner, batch)
            if learner.engine.any(origin.kind != "none"):
                return origin
        if learner.training and not learner.engine.sharded:
            for batch in batches:
                origin = _first_in_backward(learner, batch)
                if origin.kind != "none":
                    return origin
    return Origin()


@contextmanager
def _restored(learner: Learner) -> Iterator[None]:
    """Restore buffers, random states and the learner; use the unwrapped model if it is not sharded."""
    buffers = {name: buffer.clone() for name, buffer in learner.model.named_buffers()}
    try:
        # Compiled regions would not call the hooks.
        with (
            preserve_rng_state(),
            torch.compiler.set_stance("force_eager"),
            restored_attributes(learner, unwrapped=not learner.engine.sharded),
        ):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in learner.model.named_buffers():
                if name in buffers and buffers[name].shape == buffer.shape:
                    buffer.copy_(buffers[name])


def _run(learner: Learner, batch: Batch) -> Batch:
    """Repeat the actions `predict` and `get_loss`."""
    learner.batch = replace(batch, output=None, loss=None)
    learner.loop.fit_loop.compute_loss()
    return learner.batch


def _failed(error: Exception, batch: Batch) -> Origin:
    return Origin("failed", batch.index, label=f"{type(error).__name__}: {reason(error)}")


def _name(name: str, module: nn.Module) -> dict[str, Any]:
    name = ".".join(part for part in name.split(".") if part != "_orig_mod")
    return {"module": name, "layer": type(module).__name__.removeprefix("FSDP")}


# ---- forward --------------------------------------------------------------------------------------------------------


def _first_in_forward(learner: Learner, batch: Batch) -> Origin:
    found: list[Origin] = []
    inputs_finite: list[bool] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        # The values at the start of the call, because a module may modify its input in place.
        inputs_finite.append(not found and label((args, kwargs)) is None)

    def after(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if inputs_finite.pop() and not found and (kind := label(output)) is not None:
                own = labels({**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers("", False))})
                found.append(Origin("output", batch.index, **_name(name, module), label=kind, own=own))

        return hook

    try:
        with torch.no_grad(), _hooks(learner.model, before, after):
            again = _run(learner, batch)
    except Exception as error:  # may be a consequence of the non-finite value in `found`
        return found[0] if found else _failed(error, batch)
    if found:
        return found[0]
    for kind, value in (("prediction", again.output), ("loss", again.loss)):
        if (found_label := label(value)) is not None:
            return Origin(kind, batch.index, label=found_label)
    return Origin()


@contextmanager
def _hooks(model: nn.Module, before: Any, after: Any) -> Iterator[None]:
    """Register the hook `before`, and for each name the hook `after(name)`, on all modules."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after(name)).remove)
        yield


# ---- backward -------------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """Labels of the gradients of one call of a module; `outermost` if no other module has called the module."""

    name: str
    module: nn.Module
    outermost: bool
    finite: bool  # whether the arguments are finite
    inputs: str | None = None
    outputs: str | None = None

    def watch(self, side: str, value: Any) -> None:
        """Record the labels of the gradients of the tensors in `value`."""

        def hook(grad: Tensor) -> None:
            setattr(self, side, label(grad) or getattr(self, side))

        for _, tensor in named_tensors(value, ""):
            if tensor.requires_grad:
                tensor.register_hook(hook)


def _first_in_backward(learner: Learner, batch: Batch) -> Origin:
    """Return the first module in backward order that has finite inputs and turns finite gradients into non-finite ones.

    Modules are considered in reverse order of the start of their calls, which begins with the innermost module of the
    end of the model.
    """
    names = {id(module): name for name, module in learner.model.named_modules()}
    calls: list[_Call] = []
    active: list[_Call] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        call = _Call(names[id(module)], module, outermost=not active, finite=label((args, kwargs)) is None)
        call.watch("inputs", (args, kwargs))
        calls.append(call)
        active.append(call)

    def after(_: str) -> Any:
        return lambda module, args, output: active.pop().watch("outputs", output)

    named = {name: p for name, p in learner.model.named_parameters() if p.requires_grad}
    try:
        with torch.enable_grad(), _hooks(learner.model, before, after):
            loss = _run(learner, batch).loss
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    except Exception as error:
        return _failed(error, batch)
    bad = labels({name: grad for name, grad in zip(named, grads, strict=True) if grad is not None})
    for call in reversed(calls):
        found = call.inputs or _label_of_own(call.module, named, bad)
        if found and call.finite and call.outputs is None:
            return Origin("gradient", batch.index, **_name(call.name, call.module), label=found)
    found = next((call.outputs for call in reversed(calls) if call.outermost and call.outputs), None)
    return Origin() if found is None else Origin("loss gradient", batch.index, label=found)


def _label_of_own(module: nn.Module, named: Mapping[str, Tensor], bad: Mapping[str, str]) -> str | None:
    own = {id(p) for p in module.parameters(recurse=False)}
    return next((found for name, found in bad.items() if id(named[name]) in own), None)
