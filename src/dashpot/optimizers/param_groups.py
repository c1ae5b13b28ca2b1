"""Parameter groups from a model: which parameters decay and which do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from dashpot.constraints import FLAG, NONNEGATIVE, Scalar, check
from dashpot.errors import ArgumentError
from dashpot.optimizers.group_keys import CARRIED, nearest
from dashpot.optimizers.param_owners import Owned, shape_of, trainable
from dashpot.optimizers.param_roles import Role, role_of
from dashpot.utils.warn import warn

__all__ = ["ParamGroups", "param_groups"]

_FLAGS = ("decay_norms", "decay_biases", "decay_embeddings", "allow_tied")
_SHOWN = 5  # doubtful kinds of tensors that a warning names


class _Row(NamedTuple):
    name: str
    shape: tuple[int, ...] | None
    decays: bool
    why: str


class _Decision(NamedTuple):
    decays: bool
    why: str
    doubt: str | None = None


class ParamGroups(list[dict[str, Any]]):
    """Two parameter groups, ready for an optimizer; prints as a table of what went where and why."""

    rows: tuple[_Row, ...] = ()

    def __repr__(self) -> str:
        width = max([len(row.name) for row in self.rows], default=4)
        lines = [f"{'name':<{width}}  {'shape':<18} decay  why"]
        for row in self.rows:
            shape = "uninitialized" if row.shape is None else str(row.shape)
            lines.append(f"{row.name:<{width}}  {shape:<18} {'yes' if row.decays else 'no':<5}  {row.why}")
        for group, decays in zip(self, sorted({row.decays for row in self.rows}, reverse=True), strict=True):
            lines.append(
                f"weight_decay={group['weight_decay']}: {_totals([r for r in self.rows if r.decays is decays])}"
            )
        return "\n".join(lines)


def _totals(rows: list[_Row]) -> str:
    lazy = sum(row.shape is None for row in rows)
    elements = sum(math.prod(row.shape) for row in rows if row.shape is not None)
    return f"{len(rows)} tensors, {elements} elements" + (f", {lazy} uninitialized" if lazy else "")


def param_groups(
    model: nn.Module,
    weight_decay: Scalar,
    *,
    decay_norms: bool = False,
    decay_biases: bool = False,
    decay_embeddings: bool = True,
    norms: tuple[type[nn.Module], ...] = (),
    overrides: Mapping[str | type[nn.Module], bool] | None = None,
    allow_tied: bool = False,
    **settings: Any,
) -> ParamGroups:
    """Split a model's trainable parameters into one group that decays and one that does not.

    Args:
        model: Any module; parameters that do not require gradients are left out.
        weight_decay: >= 0, for the first group; the second gets 0.
        decay_norms, decay_biases, decay_embeddings: Whether parameters of normalization layers, biases, and embeddings
            decay.
        norms: Normalization classes, in addition to those that are recognized.
        overrides: Your own decisions, True for decay: a key is a module class or a pattern of parameter names such as
            "*.gain". The first key that matches a parameter decides; a key that matches none is refused.
        allow_tied: Accept a parameter that is registered under two names, decided by the first. By default it is
            refused, because the two can disagree. A module that the model uses twice is no tie.
        settings: Further settings for both groups, e.g. `lr=1e-3`.

    Normalization layers are those of torch, and modules with nothing but vectors that are called norm, by class or by
    attribute, or have an epsilon. A parametrized tensor is decided as the tensor it stands for. Other vectors, such as
    scales, do not decay, as neither do parameters with a true attribute `_no_weight_decay`. Where neither class nor
    name tells what a tensor is, a warning names it. The table that the result prints gives the reason for each tensor.

    Every trainable parameter lands in exactly one group, with its name, so that optimizer state is saved by name.
    Raises `ArgumentError` for a tied parameter, a model without trainable parameters, or a setting that is a misspelt
    argument.

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
    for name, flag in zip(_FLAGS, (decay_norms, decay_biases, decay_embeddings, allow_tied), strict=True):
        check("param_groups", name, flag, FLAG)
    _check(model, norms, settings)
    own = _Overrides(overrides or {})
    by_role = {Role.WEIGHT: True, Role.BIAS: decay_biases, Role.NORM: decay_norms, Role.VECTOR: False}
    by_role[Role.EMBEDDING] = decay_embeddings
    rows, members, doubtful = [], {True: [], False: []}, []
    for owned, *ties in _registered(model):
        _check_ties(owned, ties, allow_tied)
        decision = own.decision(owned) or _marked(owned) or _decision(owned, norms, by_role)
        why = ", also ".join([decision.why, *(other.name for other in ties)])
        rows.append(_Row(owned.name, shape_of(owned.parameter), decision.decays, why))
        members[decision.decays].append((owned.name, owned.parameter))
        if decision.doubt:
            doubtful.append((owned, decision))
    if not rows:
        raise ArgumentError("param_groups: the model must have at least one trainable parameter, got none.")
    own.check_used()
    if doubtful:
        warn(_warning(doubtful))
    groups = ParamGroups(
        {"params": members[decays], "weight_decay": weight_decay if decays else 0.0, **settings}
        for decays in (True, False)
        if members[decays]
    )
    groups.rows = tuple(rows)
    return groups


def _check(model: Any, norms: Any, settings: Mapping[str, Any]) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"param_groups: model must be a torch.nn.Module, got {type(model).__name__}.")
    if not isinstance(norms, (tuple, list)) or not all(map(_is_module_class, norms)):
        raise ArgumentError(f"param_groups: norms must be a tuple of module classes, got {norms!r}.")
    for key in settings:
        near = "model" if key == "params" else nearest(key, (*_FLAGS, "norms", "overrides"))
        if near and (key == "params" or key not in CARRIED):
            raise ArgumentError(f"param_groups: unknown argument {key!r}: did you mean {near!r}?")


def _is_module_class(x: Any) -> bool:
    return isinstance(x, type) and issubclass(x, nn.Module)


def _registered(model: nn.Module) -> list[list[Owned]]:
    """For every trainable parameter, each place where it is registered, under its first name."""
    found: dict[int, dict[tuple[int, str], Owned]] = {}
    for owned in trainable(model):
        found.setdefault(id(owned.parameter), {}).setdefault(owned.holder, owned)
    return [list(places.values()) for places in found.values()]


def _check_ties(owned: Owned, ties: list[Owned], allow_tied: bool) -> None:
    if ties and not allow_tied:
        raise ArgumentError(
            f"param_groups: {ties[0].name!r} and {owned.name!r} are one tied parameter; "
            "pass allow_tied=True to treat it as the first."
        )


class _Overrides:
    """The user's decisions, and which of them were used."""

    def __init__(self, given: Mapping[Any, bool]) -> None:
        for key, decays in given.items():
            if not isinstance(key, str) and not _is_module_class(key):
                raise ArgumentError(f"param_groups: overrides must have names or module classes as keys, got {key!r}.")
            if not isinstance(decays, bool):
                raise ArgumentError(f"param_groups: overrides[{_text(key)}] must be True or False, got {decays!r}.")
        self._given, self._unused = given, set(given)

    def decision(self, owned: Owned) -> _Decision | None:
        for key, decays in self._given.items():
            if fnmatchcase(owned.name, key) if isinstance(key, str) else isinstance(owned.module, key):
                self._unused.discard(key)
                return _Decision(decays, f"overrides[{_text(key)}]")
        return None

    def check_used(self) -> None:
        for key in self._given:
            if key in self._unused:
                raise ArgumentError(f"param_groups: overrides[{_text(key)}] must decide some parameter, got none.")


def _text(key: Any) -> str:
    return repr(key) if isinstance(key, str) else key.__name__


def _marked(owned: Owned) -> _Decision | None:
    """Models such as Mamba mark parameters that must not decay."""
    return _Decision(False, "_no_weight_decay") if getattr(owned.parameter, "_no_weight_decay", False) else None


def _decision(owned: Owned, norms: tuple[type[nn.Module], ...], by_role: Mapping[Role, bool]) -> _Decision:
    role, why, doubt = role_of(owned, norms)
    return _Decision(by_role[role], why, doubt)


def _warning(doubtful: list[tuple[Owned, _Decision]]) -> str:
    """One sentence that names the doubtful tensors, one for each class and attribute."""
    kinds: dict[tuple[str, str], list[tuple[Owned, _Decision]]] = {}
    for owned, decision in doubtful:
        kinds.setdefault((owned.kind, owned.attribute), []).append((owned, decision))
    parts = []
    for alike in list(kinds.values())[:_SHOWN]:
        owned, decision = alike[0]
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        side = "decayed" if decision.decays else "not decayed"
        parts.append(f"{owned.name!r}{more} of {owned.kind} ({decision.doubt}, {side})")
    if len(kinds) > _SHOWN:
        parts.append(f"{len(kinds) - _SHOWN} other kinds")
    key = doubtful[0][0].name
    return (
        f"param_groups cannot tell what some tensors are: {', '.join(parts)}; "
        f"decide with overrides={{{key!r}: True}} or False."
    )
