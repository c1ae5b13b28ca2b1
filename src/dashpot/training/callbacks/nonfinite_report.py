"""Diagnosis of non-finite values: affected parameters and layers, and the first module with a non-finite output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dashpot._torch_private import local_tensor
from dashpot.utils.rng_state import preserve_rng_state

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

MAX_NAMES = 4
"""Maximum number of parameters listed in a report."""


@dataclass(frozen=True)
class Diagnosis:
    """Labels ("nan" or "inf") of non-finite values.

    Attributes:
        gradients: Labels of gradients, by parameter name.
        weights: Labels of weights, by parameter name.
        losses: Labels of losses, by batch index.
        inputs: Labels of model inputs, by batch index.
        layers: Class of the module that owns the parameter, by parameter name.
        first: Name, class, label and batch index of the first module with a non-finite output, or None.
    """

    gradients: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    losses: dict[int, str] = field(default_factory=dict)
    inputs: dict[int, str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    first: tuple[str, str, str, int] | None = None

    def plain(self) -> dict[str, Any]:
        """Return the diagnosis as plain data."""
        first = (
            None if self.first is None else dict(zip(("module", "class", "label", "batch"), self.first, strict=True))
        )
        return {"gradients": self.gradients, "weights": self.weights, "losses": self.losses, "first": first}

    def text(self, learner: Learner) -> str:
        """Return the report as one paragraph."""
        place = f"Step {learner.steps + 1} (epoch {learner.epoch + 1}, batch {learner.batch.index + 1})"
        kinds = {"gradients": self.gradients, "losses": self.losses, "inputs": self.inputs, "weights": self.weights}
        text = f"{place} has non-finite {next((kind for kind, found in kinds.items() if found), 'weights')}"
        text += f": {self._list_names(self.gradients)}." if self.gradients else "."
        if self.losses:
            text += f" The loss is {next(iter(self.losses.values()))}."
        if self.inputs:
            number, kind = next(iter(self.inputs.items()))
            text += f" The input of batch {number + 1} contains {kind}."
        if self.weights:
            text += f" Non-finite weights: {self._list_names(self.weights)}."
        if self.first is not None:
            name, kind, found, number = self.first
            owner = f"{name} ({kind})" if name else f"the model itself ({kind})"
            text += f" The first module with {found} in its output is {owner}, in batch {number + 1}."
        elif self.gradients and not (self.losses or self.weights or self.inputs):
            text += " All outputs of the model are finite; the origin is in the backward pass."
        return text

    def _list_names(self, found: Mapping[str, str]) -> str:
        shown = list(found.items())[:MAX_NAMES]
        parts = [f"{kind} in {name} ({self.layers.get(name, '?')})" for name, kind in shown]
        more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
        return ", ".join(parts) + more


def diagnose(learner: Learner, batches: Sequence[tuple[int, Any, Any]], losses: Iterable[Tensor]) -> Diagnosis:
    """Return a diagnosis of the non-finite values of the current step on all ranks. This is a collective."""
    named = {name: p for name, p in learner.model.named_parameters() if p.requires_grad}
    local = Diagnosis(
        gradients=_labels({name: p.grad for name, p in named.items() if p.grad is not None}),
        weights=_labels(named),
        losses={b[0]: found for b, loss in zip(batches, losses, strict=True) if (found := label(loss)) is not None},
        inputs={number: found for number, x, _ in batches for t in _tensors(x) if (found := label(t)) is not None},
        first=_first_module(learner, batches),
    )
    ranks = [Diagnosis(**found) for found in learner.engine.all_gather(vars(local))]
    merged = {
        name: _merged([getattr(found, name) for found in ranks])
        for name in ("gradients", "weights", "losses", "inputs")
    }
    layers = {name: _layer(learner.model, name) for name in (*merged["gradients"], *merged["weights"])}
    first = next((found.first for found in ranks if found.first is not None), None)
    return Diagnosis(**merged, layers=layers, first=first)


def label(value: Tensor) -> str | None:
    """Return "nan" if any element is NaN, else "inf" if any is infinite, else None.

    >>> label(torch.tensor([1.0, torch.inf])), label(torch.tensor([torch.inf, torch.nan])), label(torch.tensor([1.0]))
    ('inf', 'nan', None)
    """
    return next(iter(_labels({"": value}).values()), None)


def _labels(values: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the labels of the tensors with non-finite elements, using a single device transfer."""
    local = {name: local_tensor(value, value).detach() for name, value in values.items()}
    local = {
        name: v for name, v in local.items() if (v.is_floating_point() or v.is_complex()) and v.device.type != "meta"
    }
    if not local:
        return {}
    rows = torch.stack([torch.stack((v.isnan().any(), v.isinf().any())) for v in local.values()]).tolist()
    return {name: "nan" if nan else "inf" for name, (nan, infinite) in zip(local, rows, strict=True) if nan or infinite}


def _merged(ranks: Sequence[Mapping[Any, str]]) -> dict[Any, str]:
    """Return the merged labels of all ranks; "nan" takes precedence over "inf"."""
    keys = list(dict.fromkeys(key for found in ranks for key in found))
    return {key: "nan" if any(found.get(key) == "nan" for found in ranks) else "inf" for key in keys}


def _layer(model: nn.Module, parameter: str) -> str:
    name = parameter.rpartition(".")[0]
    return type(model.get_submodule(name)).__name__.removeprefix("FSDP")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _first_module(learner: Learner, batches: Sequence[tuple[int, Any, Any]]) -> tuple[str, str, str, int] | None:
    """Return the name, class, label and batch index of the first module with a non-finite output in a new forward pass.

    The result is None if all outputs are finite, or if the model requires arguments other than x. Buffers and random
    states are restored.
    """
    found: list[tuple[str, str, str]] = []

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            labels = [kind for tensor in _tensors(output) if (kind := label(tensor)) is not None]
            if labels and not found:
                kind = "nan" if "nan" in labels else "inf"
                found.append((name, type(module).__name__.removeprefix("FSDP"), kind))

        return module.register_forward_hook(hook)

    buffers = {name: buffer.clone() for name, buffer in learner.model.named_buffers()}
    try:
        with ExitStack() as stack:
            stack.enter_context(preserve_rng_state())
            for name, module in learner.model.named_modules():
                stack.callback(watch(name, module).remove)
            stack.enter_context(torch.no_grad())
            for number, x, _ in batches:
                learner.forward(x)
                if learner.engine.any(bool(found)):
                    return (*found[0], number) if found else None
    except Exception:  # for example, the model requires arguments other than x
        return None
    finally:
        with torch.no_grad():
            for name, buffer in learner.model.named_buffers():
                buffer.copy_(buffers[name])
    return None
