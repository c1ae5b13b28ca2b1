"""Errors with the cause and the fix, in place of common errors of torch in a forward or backward pass or a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dashpot.errors import ArgumentError
from dashpot.utils.format import reason
from dashpot.utils.group_params import group_params
from dashpot.utils.named_tensors import named_tensors

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

ERRORS = (RuntimeError, ValueError, IndexError)
"""Types of torch's errors."""

MAX_NAMES = 4
"""Maximum number of parameters that a message lists."""


# ---- forward --------------------------------------------------------------------------------------------------------


def explain_forward(learner: Learner, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> None:
    """Raise an `ArgumentError` with the fix for `error` of a forward pass, or return if the error is not known."""
    text, model = str(error), learner.model
    if "Expected more than 1 value per channel when training" in text:
        raise ArgumentError(
            "Learner: batch norm in training mode needs several examples, but a batch has one on this process; omit "
            "the last batch (drop_last=True), change batch_size, or use group norm."
        ) from error
    if "Expected to have finished reduction in the prior iteration" in text:
        indices = [int(word) for word in text.rpartition("for rank")[2].partition(":")[2].split() if word.isdigit()]
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        raise _unused([names[index] for index in indices if index < len(names)]) from error
    if _is_device_error(text):
        raise ArgumentError(
            f"Learner: the model must use tensors on one device; its input and parameters are on "
            f"{learner.engine.device}. Register other tensors of the model as buffers, or create them on the device of "
            f"its input. torch reports: {reason(error)}"
        ) from error
    inputs = args[0] if len(args) == 1 and not kwargs else [*args, kwargs] if args else kwargs
    if message := _dtype_message(model, inputs, text):
        raise ArgumentError(message) from error


def check_parameters(model: nn.Module) -> None:
    """Raise `ArgumentError` if the model has no parameters."""
    if not any(True for _ in model.parameters()):
        raise ArgumentError(
            f"Learner: model must have parameters, got {type(model).__name__} without any; register tensors as "
            "nn.Parameter, and lists of modules as nn.ModuleList."
        )


def check_all_used(learner: Learner) -> None:
    """Raise `ArgumentError` if DDP has not reduced all gradients, because parameters were not used in the loss."""
    engine = learner.engine
    if engine.world_size == 1 or engine.sharded or engine.find_unused_parameters:
        return
    if any(p.grad is None for p in group_params(learner.opt)):
        unused = [name for name, p in learner.model.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise _unused(unused)


def _unused(names: list[str]) -> ArgumentError:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    which = f": {', '.join(names[:MAX_NAMES])}{more}" if names else ""
    return ArgumentError(
        f"Learner: with several processes, all trained parameters must be used in the loss, but some were not{which}; "
        "pass Engine(find_unused_parameters=True) or --find-unused-parameters true, or remove or freeze these "
        "parameters."
    )


def _dtype_message(model: nn.Module, inputs: Any, text: str) -> str | None:
    """Return the message for an input whose dtype differs from that of the parameters."""
    if "type" not in text:
        return None
    tensors = list(named_tensors(inputs, "x"))
    if "indices" in text:
        name, tensor = next((pair for pair in tensors if pair[1].is_floating_point()), (None, None))
        if tensor is not None:
            return f"Learner: {name} must contain integer indices, got {tensor.dtype}; convert it, as in x.long()."
        return None
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    for name, tensor in tensors:
        if dtype is not None and tensor.dtype not in (dtype, torch.bool):
            model_too = f", or the model, as in model.to({tensor.dtype})" if tensor.is_floating_point() else ""
            return (
                f"Learner: {name} must have the dtype of the model's parameters, {dtype}, got {tensor.dtype}; convert "
                f"the data, as in x.to({dtype}){model_too}."
            )
    return None


# ---- loss -----------------------------------------------------------------------------------------------------------


def explain_loss(output: Any, y: Any, error: Exception) -> None:
    """Raise an `ArgumentError` with the fix for `error` of a loss function, or return if the error is not known."""
    text = str(error)
    if _is_device_error(text):
        devices = {str(tensor.device) for _, tensor in named_tensors((output, y), "")}
        raise ArgumentError(
            f"Learner: the loss must use tensors on one device; output and y are on {', '.join(sorted(devices))}. Move "
            f"other tensors there, as in weight.to(output.device). torch reports: {reason(error)}"
        ) from error
    output = next((tensor for _, tensor in named_tensors(output, "") if tensor.is_floating_point()), None)
    if output is None or not isinstance(y, Tensor):
        return
    if message := _label_message(output, y, text) or _target_message(output, y, text):
        raise ArgumentError(message) from error


def check_device(loss: Tensor, device: torch.device) -> None:
    """Raise `ArgumentError` if the loss is on another type of device than the model."""
    if loss.device.type != device.type:
        raise ArgumentError(
            f"Learner: the loss must be on the device of the model, {device}, got {loss.device}; compute it from "
            "tensors on that device."
        )


def _label_message(output: Tensor, y: Tensor, text: str) -> str | None:
    """Return the message for class labels of a wrong dtype or shape."""
    shapes = f"for outputs of shape {tuple(output.shape)}, got {tuple(y.shape)}"
    if "target dtype" in text or "scalar type Long" in text or "not implemented for 'Int'" in text:
        return f"Learner: class labels must have dtype torch.int64, got {y.dtype}; convert them, as in y.long()."
    if "multi-target not supported" in text:
        cure = "remove the last dimension, as in y.squeeze(1)" if y.shape[-1] == 1 else "pass one label per example"
        return f"Learner: class labels must have shape ({output.shape[0]},) {shapes}; {cure}."
    if "to match target batch_size" in text:
        return f"Learner: y must have one label per row of the output, {output.shape[0]} {shapes}."
    if output.shape[:-1] == y.shape and ("Expected target size" in text or "size mismatch" in text):
        return (
            f"Learner: class scores must be in dimension 1 of the output, not in the last, for y of shape "
            f"{tuple(y.shape)}, got an output of shape {tuple(output.shape)}; flatten both in the loss, as in "
            f"cross_entropy(output.flatten(0, {y.ndim - 1}), y.flatten()), or use output.movedim(-1, 1)."
        )
    if "target with class probabilities" in text:
        return (
            f"Learner: class probabilities must have dtype {output.dtype}, got {y.dtype}; convert them or pass indices."
        )
    return None


def _target_message(output: Tensor, y: Tensor, text: str) -> str | None:
    """Return the message for targets whose dtype or shape differs from that of the output."""
    if output.shape != y.shape and ("arget size" in text or "must match the size of tensor" in text):
        cure = "; reshape y, as in y.view_as(output)" if output.numel() == y.numel() else ""
        return f"Learner: y must have the shape of the output, {tuple(output.shape)}, got {tuple(y.shape)}{cure}."
    if output.dtype != y.dtype and ("Found dtype" in text or "result type" in text):
        return (
            f"Learner: y must have the dtype of the output, {output.dtype}, got {y.dtype}; convert it, as in "
            f"y.to({output.dtype})."
        )
    return None


def _is_device_error(text: str) -> bool:
    return "same device" in text or "on the expected device" in text
