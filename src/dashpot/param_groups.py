"""Parameter groups from a model: which parameters decay and which do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dashpot.constraints import NONNEGATIVE, Scalar, check
from dashpot.errors import ArgumentError

__all__ = ["ParamGroups", "param_groups"]

_NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


class _Row(NamedTuple):
    name: str
    shape: tuple[int, ...]
    decays: bool
    why: str


class ParamGroups(list[dict[str, Any]]):
    """Two parameter groups, ready for an optimizer; prints as a table of what went where and why."""

    rows: tuple[_Row, ...] = ()

    def __repr__(self) -> str:
        width = max([len(row.name) for row in self.rows], default=4)
        lines = [f"{'name':<{width}}  {'shape':<18} decay  why"]
        for row in self.rows:
            lines.append(f"{row.name:<{width}}  {row.shape!s:<18} {'yes' if row.decays else 'no':<5}  {row.why}")
        for group, decays in zip(self, sorted({row.decays for row in self.rows}, reverse=True), strict=True):
            sizes = [math.prod(row.shape) for row in self.rows if row.decays is decays]
            lines.append(f"weight_decay={group['weight_decay']}: {len(sizes)} tensors, {sum(sizes)} elements")
        return "\n".join(lines)


def param_groups(
    model: nn.Module,
    weight_decay: Scalar,
    *,
    decay_norms: bool = False,
    decay_biases: bool = False,
    decay_embeddings: bool = True,
    norms: tuple[type[nn.Module], ...] = (),
    allow_tied: bool = False,
    **settings: Any,
) -> ParamGroups:
    """Split a model's trainable parameters into one group that decays and one that does not, by module type.

    model
        any module; parameters that do not require gradients are left out.
    weight_decay
        >= 0, for the first group; the second gets 0.
    decay_norms, decay_biases, decay_embeddings
        whether parameters of normalisation layers, biases, and embeddings decay.
    norms
        normalisation classes of your own, beside torch's.
    allow_tied
        accept a parameter that two modules share, decided by the first. By default it is refused, because the two can
        disagree.
    settings
        further settings for both groups, e.g. `lr=1e-3`.

    Every trainable parameter lands in exactly one group, with its name, so that optimizer state is saved by name.
    Raises `ArgumentError` for a tied parameter or a model without trainable parameters.

    >>> import dashpot as dp
    >>> groups = param_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), weight_decay=0.01)
    >>> groups
    name      shape              decay  why
    0.weight  (3, 2)             yes    Linear
    0.bias    (3,)               no     bias
    1.weight  (3,)               no     LayerNorm
    1.bias    (3,)               no     LayerNorm
    weight_decay=0.01: 1 tensors, 6 elements
    weight_decay=0.0: 3 tensors, 9 elements
    >>> opt = dp.AdamW(groups, lr=1e-3)
    """
    check("param_groups", "weight_decay", weight_decay, NONNEGATIVE)
    kinds = ((*_NORMS, *norms), decay_norms), (_EMBEDDINGS, decay_embeddings)
    rows, members, owners = [], {True: [], False: []}, {}
    for name, module, parameter in _trainable(model):
        if id(parameter) in owners:
            if not allow_tied:
                raise ArgumentError(
                    f"param_groups: {name!r} and {owners[id(parameter)]!r} are one tied parameter; "
                    "pass allow_tied=True to treat it as the first."
                )
            continue
        owners[id(parameter)] = name
        decays, why = _decision(name, module, kinds, decay_biases)
        rows.append(_Row(name, tuple(parameter.shape), decays, why))
        members[decays].append((name, parameter))
    if not rows:
        raise ArgumentError("param_groups: the model must have at least one trainable parameter, got none.")
    groups = ParamGroups(
        {"params": members[decays], "weight_decay": weight_decay if decays else 0.0, **settings}
        for decays in (True, False)
        if members[decays]
    )
    groups.rows = tuple(rows)
    return groups


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Every (name, owning module, parameter) that requires a gradient, tied ones once for each owner."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                yield f"{prefix}.{name}" if prefix else name, module, parameter


def _decision(name: str, module: nn.Module, kinds: Any, decay_biases: bool) -> tuple[bool, str]:
    for classes, decays in kinds:
        if isinstance(module, classes):
            return decays, type(module).__name__
    if "bias" in name.rpartition(".")[2]:
        return decay_biases, "bias"
    return True, type(module).__name__
