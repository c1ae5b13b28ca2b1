"""Diagnosis of non-finite values: affected parameters and batch tensors, and the origin in a repeated pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dashpot._torch_private import local_tensor
from dashpot.training.callbacks.nonfinite_trace import Origin, find_origin, labels
from dashpot.training.loop_state import Batch
from dashpot.utils.named_tensors import named_tensors

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

MAX_NAMES = 4
"""Maximum number of non-finite parameters listed in a report."""

MAX_SUMS = 12
"""Maximum number of parameters whose sums are listed in a report."""

SENTENCES = {
    "output": "The first module with finite inputs and {label} in its output is {owner}{own}, in batch {batch}.",
    "prediction": "The outputs of all modules are finite; {label} originates outside of the modules, in batch {batch}.",
    "loss": "All outputs of the model are finite; {label} originates in the loss function, in batch {batch}.",
    "gradient": "All outputs of the model are finite; the first module in the backward pass with finite gradients of "
    "its output and {label} in its other gradients is {owner}, in batch {batch}.",
    "loss gradient": "All outputs of the model are finite; {label} originates in the backward pass of the loss "
    "function, in batch {batch}.",
    "failed": "The forward pass could not be repeated to find the first module: {label}.",
    "lost": "In a repeated forward pass, with other random numbers, all outputs and losses are finite.",
    "backward": "All outputs of the model are finite; the origin is in the backward pass.",
    "none": "",
}
"""Sentences about the origin, by its kind; for "none", with non-finite losses "lost", with gradients "backward"."""


@dataclass(frozen=True)
class Diagnosis:
    """Labels ("nan" or "inf") of non-finite values.

    Attributes:
        gradients: Labels of gradients, by parameter name.
        weights: Labels of weights, by parameter name.
        losses: Labels of losses, by batch index.
        inputs: Labels of the tensors of the batches, by batch index and expression, such as `(0, 'x["ids"]')`.
        sums: Sum of the elements of each parameter, by parameter name.
        layers: Class of the module that owns the parameter, by parameter name.
        origin: First non-finite value of a repeated pass.
    """

    gradients: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    losses: dict[int, str] = field(default_factory=dict)
    inputs: dict[tuple[int, str], str] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def plain(self) -> dict[str, Any]:
        """Return the diagnosis as plain data."""
        origin, first = self.origin, None
        if origin.kind == "output":
            first = {"module": origin.module, "class": origin.layer, "label": origin.label, "batch": origin.batch}
        return {
            "gradients": self.gradients,
            "weights": self.weights,
            "losses": self.losses,
            "first": first,
            "inputs": [{"batch": batch, "tensor": name, "label": kind} for (batch, name), kind in self.inputs.items()],
            "origin": {**asdict(origin), "own": dict(origin.own or {})},
            "sums": self.sums,
        }

    def text(self, place: str) -> str:
        """Return the report as one paragraph that begins with `place`."""
        kinds = {"gradients": self.gradients, "losses": self.losses, "inputs": self.inputs, "weights": self.weights}
        text = f"{place} has non-finite {next((kind for kind, found in kinds.items() if found), 'weights')}"
        parts = [f"{text}: {self._list_names(self.gradients)}." if self.gradients else f"{text}."]
        if self.losses:
            parts.append(f"The loss is {next(iter(self.losses.values()))}.")
        if self.inputs:
            (number, name), kind = next(iter(self.inputs.items()))
            parts.append(f"In batch {number + 1}, {name} contains {kind}.")
        if self.weights:
            parts.append(f"Non-finite weights: {self._list_names(self.weights)}.")
        parts += [sentence] if (sentence := self._origin_sentence()) else []
        return " ".join([*parts, f"Sums of the parameters: {self._list_sums()}."])

    def _origin_sentence(self) -> str:
        found = self.origin
        if found.kind not in ("output", "gradient", "failed") and (self.inputs or self.weights):
            return ""  # a value that is already listed is the origin
        kind = found.kind
        if kind == "none":
            kind = "lost" if self.losses else "backward" if self.gradients else "none"
        owner = f"{found.module} ({found.layer})" if found.module else f"the model itself ({found.layer})"
        own = "".join(f", whose {name} contains {label}" for name, label in list((found.own or {}).items())[:1])
        return SENTENCES[kind].format(label=found.label, owner=owner, own=own, batch=found.batch + 1)

    def _list_names(self, found: Mapping[str, str]) -> str:
        shown = list(found.items())[:MAX_NAMES]
        parts = [f"{kind} in {name} ({self.layers.get(name, '?')})" for name, kind in shown]
        more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
        return ", ".join(parts) + more

    def _list_sums(self) -> str:
        shown = [f"{name} {value:.4g}" for name, value in list(self.sums.items())[:MAX_SUMS]]
        more = f" and {len(self.sums) - MAX_SUMS} more" if len(self.sums) > MAX_SUMS else ""
        return f"{', '.join(shown)}{more}; total {sum(self.sums.values()):.4g}"


def diagnose(learner: Learner, batches: Sequence[Batch], losses: Sequence[Tensor]) -> Diagnosis:
    """Return a diagnosis of the non-finite values of `batches` on all ranks. This is a collective.

    Args:
        learner: Learner whose gradients, if any, are those of `batches`.
        batches: Batches of one step, or a batch of an evaluation.
        losses: Loss of each batch.
    """
    named = dict(learner.model.named_parameters())
    tensors = {
        (batch.index, name): tensor
        for batch in batches
        for path, value in (("x", batch.x), ("y", batch.y))
        for name, tensor in named_tensors(value, path)
    }
    local = {
        "gradients": labels(_gradients(named)) if learner.training else {},
        "weights": labels(named),
        "losses": labels({batch.index: loss for batch, loss in zip(batches, losses, strict=True)}),
        "inputs": labels(tensors),
        "sums": _sums(named),
        "origin": find_origin(learner, batches),
    }
    ranks = learner.engine.all_gather(local)
    merged = {name: _merged([rank[name] for rank in ranks]) for name in ("gradients", "weights", "losses", "inputs")}
    owners = ranks if learner.engine.sharded else ranks[:1]
    sums = {name: math.fsum(rank["sums"][name] for rank in owners) for name in named}
    layers = {name: _layer(learner.model, name) for name in (*merged["gradients"], *merged["weights"])}
    origins = [rank["origin"] for rank in ranks]
    origin = next((found for found in origins if found.kind not in ("none", "failed")), None)
    origin = next((found for found in origins if found.kind == "failed"), origins[0]) if origin is None else origin
    return Diagnosis(**merged, sums=sums, layers=layers, origin=origin)


def _gradients(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.grad for name, p in named.items() if p.grad is not None}


def _sums(named: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the sums of this rank's elements, in float64."""
    local = {name: local_tensor(p, p).detach() for name, p in named.items()}
    return {name: 0.0 if p.device.type == "meta" else _sum(p) for name, p in local.items()}


def _sum(p: Tensor) -> float:
    wide = torch.complex128 if p.is_complex() else torch.float32 if p.device.type == "mps" else torch.float64
    total = p.sum(dtype=wide)
    return float((total.real if p.is_complex() else total).item())


def _merged(ranks: Sequence[Mapping[Any, str]]) -> dict[Any, str]:
    """Return the merged labels of all ranks; "nan" takes precedence over "inf"."""
    keys = list(dict.fromkeys(key for found in ranks for key in found))
    return {key: "nan" if any(found.get(key) == "nan" for found in ranks) else "inf" for key in keys}


def _layer(model: nn.Module, parameter: str) -> str:
    name = parameter.rpartition(".")[0]
    return type(model.get_submodule(name)).__name__.removeprefix("FSDP")
