"""The roles of parameters in a model: weight, bias, normalization, embedding or other vector."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from dashpot._torch_private import NormBase
from dashpot.optimizers.param_owners import OwnedParam, class_of, is_container, shape_of

Classes = tuple[type[nn.Module], ...]

_NORMS: Classes = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS: Classes = (nn.Embedding, nn.EmbeddingBag)
_ROOTS: Classes = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

_BIAS = re.compile(r"(?<!un)(?<!de)bias(?!ed)", re.IGNORECASE)
_NORM = r"[Nn]orm(?!al(?!i[sz]))"  # matches "Normalize" but not "Normal"
_NORM_CLASS = re.compile(rf"{_NORM}|(?<![A-Z])(LN|BN|GN|GRN)(?![A-Za-z])")
_NORM_CLASS_ENDING = re.compile(r"(Norm|Normali[sz]ation|(?<![A-Z])(LN|BN|GN|GRN))(\dd)?$")
_NORM_ATTRIBUTE = re.compile(rf"{_NORM}|(^|_)(ln|bn|gn)(?![a-z])")
_TABLE = re.compile(r"(?<![a-z])(tokens?|emb(ed(ding)?s?)?)\d*$", re.IGNORECASE)
_SCALE = re.compile(r"scal(e|ing)|gain|gamma|alpha|lambda|temperature", re.IGNORECASE)


class Role(Enum):
    """Role of a parameter in its model."""

    WEIGHT = "weight"
    BIAS = "bias"
    NORM = "norm"
    EMBEDDING = "embedding"
    VECTOR = "vector"


class RoleDecision(NamedTuple):
    """Role of a parameter, the reason for it, and a caveat if the evidence is weak."""

    role: Role
    reason: str
    doubt: str | None = None


def role_of(owned: OwnedParam, norms: Classes = ()) -> RoleDecision:
    """Return the role of a parameter, determined by class in layers of torch and by structure and name elsewhere.

    Args:
        owned: The parameter and its owner.
        norms: Additional normalization classes.
    """
    if owned.outer is not None:  # parameters from which a norm weight or bias is computed have the same role
        decision = _role(owned.outer, norms)
        if decision.role in (Role.NORM, Role.BIAS):
            return decision
    return _role(owned, norms)


def is_bias(owned: OwnedParam) -> bool:
    """Return True for a bias by its name, of any layer."""
    return _BIAS.search(owned.attribute) is not None


def _role(owned: OwnedParam, norms: Classes) -> RoleDecision:
    decision = _by_class(owned, norms) or _by_structure(owned)
    return decision._replace(reason=f"{decision.reason}, parametrized") if owned.parametrized else decision


def _by_class(owned: OwnedParam, norms: Classes) -> RoleDecision | None:
    module, name = owned.module, owned.class_name
    if isinstance(module, (*_NORMS, *norms)):
        return RoleDecision(Role.NORM, name)
    if isinstance(module, _EMBEDDINGS):
        return RoleDecision(Role.EMBEDDING, name)
    if _is_layer_of_torch(module) and "weight" in owned.attribute:
        return RoleDecision(Role.VECTOR if isinstance(module, nn.PReLU) else Role.WEIGHT, name)
    return None


def _by_structure(owned: OwnedParam) -> RoleDecision:
    name, shape = owned.class_name, shape_of(owned.parameter)
    if evidence := _norm_evidence(owned):
        return RoleDecision(Role.NORM, f"{name}: {evidence}")
    if _BIAS.search(owned.attribute):
        return RoleDecision(Role.BIAS, "bias")
    if _TABLE.search(owned.attribute):
        return RoleDecision(Role.EMBEDDING, f"{name}: embedding by name")
    if shape is None:
        return RoleDecision(Role.WEIGHT, name, "uninitialized")
    if _is_vector(shape):
        is_scale = _SCALE.search(owned.attribute) or _SCALE.search(name)
        return RoleDecision(Role.VECTOR, f"{name}: vector", None if is_scale else "a vector")
    doubt = "in a class named like a norm, but not a vector" if _NORM_CLASS_ENDING.search(name) else None
    return RoleDecision(Role.WEIGHT, name, doubt)


def _norm_evidence(owned: OwnedParam) -> str | None:
    """Return the evidence that the owner of a parameter is a custom normalization layer, or None without evidence.

    A normalization layer owns only vectors, and has either a corresponding name or an epsilon.
    """
    module, own = owned.module, _own_params(owned.module)
    if _is_layer_of_torch(module) or all(map(_BIAS.search, own)):
        return None
    if not all(_may_be_vector(p, owned.class_name) for p in own.values()):
        return None
    if _NORM_CLASS.search(owned.class_name):
        return "norm by class name"
    if _NORM_ATTRIBUTE.search(owned.module_name.rpartition(".")[2]):
        return "norm by name"
    if any("eps" in name and isinstance(value, float) for name, value in vars(module).items()):
        return "norm by its eps"
    return None


def _own_params(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a module owns, including those in containers and parametrizations."""
    own = dict(module.named_parameters(recurse=False))
    parts = [*module.named_children(), *getattr(module, "parametrizations", {}).items()]
    for name, part in parts:
        if is_container(part) or isinstance(part, parametrize.ParametrizationList):
            own |= {f"{name}.{key}": p for key, p in part.named_parameters(recurse=False)}
    return own


def _may_be_vector(parameter: nn.Parameter, class_name: str) -> bool:
    """Return True if a parameter has the shape of a vector. For uninitialized parameters, the class name decides."""
    shape = shape_of(parameter)
    return bool(_NORM_CLASS_ENDING.search(class_name)) if shape is None else _is_vector(shape)


def _is_vector(shape: tuple[int, ...]) -> bool:
    """Return True for shapes with at most one dimension and for broadcast shapes such as (1, 8, 1, 1)."""
    return len(shape) < 2 or (len(shape) > 2 and math.prod(shape) == max(shape))


def _is_layer_of_torch(module: nn.Module) -> bool:
    """Return True if a module is a layer of torch or a subclass of one."""
    ancestors = [cls for cls in class_of(module).__mro__ if cls.__module__.startswith(("torch.nn.", "torch.ao."))]
    return bool(ancestors) and ancestors[0] not in _ROOTS
