"""Creation of parameter groups with and without weight decay from a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from dashpot.constraints import FLAG, NONNEGATIVE, Optional, Scalar, check, shown, similar
from dashpot.errors import ArgumentError
from dashpot.optimizers.group_keys import CARRIED, nearest
from dashpot.optimizers.param_owners import OwnedParam, shape_of, trainable_params
from dashpot.optimizers.param_roles import Role, is_bias, role_of
from dashpot.utils.warn import warn

_KINDS = {
    "norms": Role.NORM,
    "biases": Role.BIAS,
    "bias": Role.BIAS,
    "embeddings": Role.EMBEDDING,
    "vectors": Role.VECTOR,
}
_FLAGS = ("decay_norms", "decay_biases", "decay_embeddings", "allow_tied")
_MAX_SHOWN = 5  # maximum number of kinds of uncertain tensors that a warning lists


class _Decision(NamedTuple):
    decays: bool
    reason: str
    doubt: str | None = None


class _Row(NamedTuple):
    name: str
    shape: tuple[int, ...] | None
    decays: bool
    reason: str


class ParamGroups(list[dict[str, Any]]):
    """Parameter groups for an optimizer. The `repr` is a table of the parameters with decay and reason."""

    rows: tuple[_Row, ...] = ()

    def __repr__(self) -> str:
        width = max([len(row.name) for row in self.rows], default=4)
        lines = [f"{'name':<{width}}  {'shape':<18} decay  reason"]
        for row in self.rows:
            shape = "uninitialized" if row.shape is None else str(row.shape)
            lines.append(f"{row.name:<{width}}  {shape:<18} {'yes' if row.decays else 'no':<5}  {row.reason}")
        for group, decays in zip(self, sorted({row.decays for row in self.rows}, reverse=True), strict=True):
            decay = (
                f"weight_decay={group['weight_decay']}" if "weight_decay" in group else "the optimizer's weight_decay"
            )
            lines.append(f"{decay}: {_totals([r for r in self.rows if r.decays is decays])}")
        return "\n".join(lines)


def _totals(rows: list[_Row]) -> str:
    lazy = sum(row.shape is None for row in rows)
    elements = sum(math.prod(row.shape) for row in rows if row.shape is not None)
    return f"{len(rows)} tensors, {elements} elements" + (f", {lazy} uninitialized" if lazy else "")


def param_groups(
    model: nn.Module,
    weight_decay: Scalar | None = None,
    *,
    no_decay: Sequence[str] | None = None,
    decay_norms: bool = False,
    decay_biases: bool = False,
    decay_embeddings: bool = True,
    norms: tuple[type[nn.Module], ...] = (),
    overrides: Mapping[str | type[nn.Module], bool] | None = None,
    allow_tied: bool = False,
    **settings: Any,
) -> ParamGroups:
    """Split the trainable parameters of a model into a group with weight decay and a group without.

    Every trainable parameter is in exactly one group, together with its name, so that optimizer state is saved by name.
    Weights and embeddings decay. Biases, parameters of normalization layers and other vectors, such as scales, do not
    decay, nor do parameters whose attribute `_no_weight_decay` is true; `no_decay` replaces these rules.

    Normalization layers are the normalization modules of torch and other modules that own only vectors and either have
    "norm" in their class or attribute name or have an epsilon. Parameters of a parametrization are classified like the
    tensor that it computes. A warning lists the tensors whose role cannot be determined from a class or name. The
    printed result shows the reason for each decision.

    Args:
        model: Any module. Parameters that do not require gradients are excluded.
        weight_decay: Weight decay of the first group, >= 0; None means that of the optimizer. The second group has no
            decay.
        no_decay: Parameters without decay, as kinds ("norms", "biases" or "bias", "embeddings", "vectors" for other
            vectors) and patterns of parameter names; all other parameters decay, except those with `_no_weight_decay`.
            Every pattern must match a parameter. None means the rules above and `decay_*`.
        decay_norms: Whether parameters of normalization layers decay.
        decay_biases: Whether biases decay.
        decay_embeddings: Whether embeddings decay.
        norms: Additional classes to treat as normalization layers.
        overrides: Explicit choices, where True means decay. A key is a module class or a pattern of parameter names
            such as "*.gain". The first matching key applies, and every key must match a parameter.
        allow_tied: Whether to classify a parameter that is registered under two names by its first name. By default
            this is an error, because the two roles may differ. The parameters of a module that the model uses twice are
            not tied.
        settings: Additional settings for both groups, such as `lr=1e-3`.

    Returns:
        One or two parameter groups; empty groups are omitted.

    Raises:
        ArgumentError: If a parameter is tied, the model has no trainable parameters, a pattern matches no parameter, or
            the name of a setting is a misspelt argument.

    Example:
        >>> import dashpot as dp
        >>> groups = param_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), weight_decay=0.01)
        >>> groups
        name      shape              decay  reason
        0.weight  (3, 2)             yes    Linear
        0.bias    (3,)               no     bias
        1.weight  (3,)               no     LayerNorm
        1.bias    (3,)               no     LayerNorm
        weight_decay=0.01: 1 tensors, 6 elements
        weight_decay=0.0: 3 tensors, 9 elements
        >>> opt = dp.AdamW(groups, lr=1e-3)
        >>> [len(group["params"]) for group in param_groups(nn.LayerNorm(3), 0.01, no_decay=("bias",))]
        [1, 1]
    """
    check("param_groups", "weight_decay", weight_decay, Optional(NONNEGATIVE))
    for name, flag in zip(_FLAGS, (decay_norms, decay_biases, decay_embeddings, allow_tied), strict=True):
        check("param_groups", name, flag, FLAG)
    _check(model, norms, settings)
    flags = (decay_norms, decay_biases, decay_embeddings)
    if no_decay is not None and flags != (False, False, True):
        raise ArgumentError(
            "param_groups: no_decay must be None if decay_norms, decay_biases or decay_embeddings is given."
        )
    kinds, patterns = _no_decay(no_decay or ())
    rules = _Overrides({**(overrides or {}), **dict.fromkeys(patterns, False)}, patterns)
    by_role = {Role.WEIGHT: True, Role.BIAS: decay_biases, Role.NORM: decay_norms, Role.VECTOR: False}
    by_role[Role.EMBEDDING] = decay_embeddings
    if no_decay is not None:
        by_role = {role: role not in kinds for role in Role}
    rows, members, uncertain = [], {True: [], False: []}, []
    for owned, *ties in _registrations(model):
        _check_ties(owned, ties, allow_tied)
        bias = _Decision(False, "bias") if Role.BIAS in kinds and is_bias(owned) else None  # also of norms
        decision = rules.decision(owned) or _marked(owned) or bias or _decision(owned, norms, by_role)
        reason = ", also ".join([decision.reason, *(other.name for other in ties)])
        rows.append(_Row(owned.name, shape_of(owned.parameter), decision.decays, reason))
        members[decision.decays].append((owned.name, owned.parameter))
        if decision.doubt:
            uncertain.append((owned, decision))
    if not rows:
        raise ArgumentError("param_groups: the model must have at least one trainable parameter, got none.")
    rules.check_used()
    if uncertain:
        warn(_warning(uncertain))
    groups = ParamGroups(
        {"params": members[decays], **_decay(weight_decay, decays), **settings}
        for decays in (True, False)
        if members[decays]
    )
    groups.rows = tuple(rows)
    return groups


def _decay(weight_decay: Scalar | None, decays: bool) -> dict[str, Scalar]:
    if not decays:
        return {"weight_decay": 0.0}
    return {} if weight_decay is None else {"weight_decay": weight_decay}


def _no_decay(given: Any) -> tuple[set[Role], list[str]]:
    """Return the roles and the patterns in the argument `no_decay`."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(item, str) for item in given):
        raise ArgumentError(f"param_groups: no_decay must be a sequence of kinds and names, got {shown(given)}.")
    return {_KINDS[item] for item in given if item in _KINDS}, [item for item in given if item not in _KINDS]


def _check(model: Any, norms: Any, settings: Mapping[str, Any]) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"param_groups: model must be a torch.nn.Module, got {type(model).__name__}.")
    if not isinstance(norms, (tuple, list)) or not all(map(_is_module_class, norms)):
        raise ArgumentError(f"param_groups: norms must be a tuple of module classes, got {shown(norms)}.")
    for key in settings:
        near = "model" if key == "params" else nearest(key, (*_FLAGS, "norms", "overrides", "no_decay"))
        if near and (key == "params" or key not in CARRIED):
            raise ArgumentError(f"param_groups: unknown argument {key!r}: did you mean {near!r}?")


def _is_module_class(x: Any) -> bool:
    return isinstance(x, type) and issubclass(x, nn.Module)


def _registrations(model: nn.Module) -> list[list[OwnedParam]]:
    """Return one list for each trainable parameter, which contains its registrations, each under its first name."""
    found: dict[int, dict[tuple[int, str], OwnedParam]] = {}
    for owned in trainable_params(model):
        found.setdefault(id(owned.parameter), {}).setdefault(owned.registration, owned)
    return [list(registrations.values()) for registrations in found.values()]


def _check_ties(owned: OwnedParam, ties: list[OwnedParam], allow_tied: bool) -> None:
    if ties and not allow_tied:
        raise ArgumentError(
            f"param_groups: {ties[0].name!r} and {owned.name!r} are one tied parameter; "
            f"pass allow_tied=True to classify it as {owned.name!r}."
        )


class _Overrides:
    """The decisions of the user, with a record of the decisions that have not been used yet."""

    def __init__(self, given: Mapping[Any, bool], patterns: Sequence[str]) -> None:
        for key, decays in given.items():
            if not isinstance(key, str) and not _is_module_class(key):
                raise ArgumentError(
                    f"param_groups: overrides must have names or module classes as keys, got {shown(key)}."
                )
            if not isinstance(decays, bool):
                raise ArgumentError(
                    f"param_groups: overrides[{_text(key)}] must be True or False, got {shown(decays)}."
                )
        self._given, self._unused, self._patterns = given, set(given), patterns

    def decision(self, owned: OwnedParam) -> _Decision | None:
        for key, decays in self._given.items():
            if fnmatchcase(owned.name, key) if isinstance(key, str) else isinstance(owned.module, key):
                self._unused.discard(key)
                return _Decision(decays, f"no_decay {key!r}" if key in self._patterns else f"overrides[{_text(key)}]")
        return None

    def check_used(self) -> None:
        for key in self._given:
            if key in self._unused and key in self._patterns:
                kinds = ", ".join(kind for kind in _KINDS if kind != "bias")
                near = similar(key, _KINDS)
                hint = f"; did you mean {near!r}?" if near else "."
                raise ArgumentError(
                    f"param_groups: no_decay must contain {kinds} or patterns that match a parameter, got {key!r}{hint}"
                )
            if key in self._unused:
                raise ArgumentError(f"param_groups: overrides[{_text(key)}] must match a parameter, got none.")


def _text(key: Any) -> str:
    return repr(key) if isinstance(key, str) else key.__name__


def _marked(owned: OwnedParam) -> _Decision | None:
    """Return the decision for a parameter with the attribute `_no_weight_decay`, which models such as Mamba set."""
    return _Decision(False, "_no_weight_decay") if getattr(owned.parameter, "_no_weight_decay", False) else None


def _decision(owned: OwnedParam, norms: tuple[type[nn.Module], ...], by_role: Mapping[Role, bool]) -> _Decision:
    role, reason, doubt = role_of(owned, norms)
    return _Decision(by_role[role], reason, doubt)


def _warning(uncertain: list[tuple[OwnedParam, _Decision]]) -> str:
    """Return the text of the warning about uncertain tensors, with one example for each class and attribute."""
    kinds: dict[tuple[str, str], list[tuple[OwnedParam, _Decision]]] = {}
    for owned, decision in uncertain:
        kinds.setdefault((owned.class_name, owned.attribute), []).append((owned, decision))
    parts = []
    for alike in list(kinds.values())[:_MAX_SHOWN]:
        owned, decision = alike[0]
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        side = "decayed" if decision.decays else "not decayed"
        parts.append(f"{owned.name!r}{more} of {owned.class_name} ({decision.doubt}, {side})")
    if len(kinds) > _MAX_SHOWN:
        parts.append(f"{len(kinds) - _MAX_SHOWN} other kinds")
    key = uncertain[0][0].name
    return (
        f"param_groups: the role of some tensors is uncertain: {', '.join(parts)}; "
        f"set decay with overrides={{{key!r}: True}} or False."
    )
