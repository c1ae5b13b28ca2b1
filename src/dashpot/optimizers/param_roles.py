"""What a tensor is to its model: a weight, a bias, part of a normalization, an embedding, or another vector."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from dashpot._torch_private import NormBase
from dashpot.optimizers.param_owners import Owned, class_of, is_container, shape_of

__all__ = ["Role", "Verdict", "role_of"]

Classes = tuple[type[nn.Module], ...]

_NORMS: Classes = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS: Classes = (nn.Embedding, nn.EmbeddingBag)
_ROOTS: Classes = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

_BIAS = re.compile(r"(?<!un)(?<!de)bias(?!ed)", re.IGNORECASE)
_NORM = r"[Nn]orm(?!al(?!i[sz]))"  # "Normalize", not "Normal"
_NORM_CLASS = re.compile(rf"{_NORM}|(?<![A-Z])(LN|BN|GN|GRN)(?![A-Za-z])")
_NORM_CLASS_ENDING = re.compile(r"(Norm|Normali[sz]ation|(?<![A-Z])(LN|BN|GN|GRN))(\dd)?$")
_NORM_PLACE = re.compile(rf"{_NORM}|(^|_)(ln|bn|gn)(?![a-z])")
_TABLE = re.compile(r"(?<![a-z])(tokens?|emb(ed(ding)?s?)?)\d*$", re.IGNORECASE)
_SCALE = re.compile(r"scal(e|ing)|gain|gamma|alpha|lambda|temperature", re.IGNORECASE)


class Role(Enum):
    """What a tensor is to its model."""

    WEIGHT = "weight"
    BIAS = "bias"
    NORM = "norm"
    EMBEDDING = "embedding"
    VECTOR = "vector"


class Verdict(NamedTuple):
    """The role of a tensor, the evidence, and a doubt where the evidence is weak."""

    role: Role
    why: str
    doubt: str | None = None


def role_of(owned: Owned, norms: Classes = ()) -> Verdict:
    """The role of a tensor; `norms` are classes that are known to be normalizations.

    Layers of torch are recognized by class, those of others by structure and name.
    """
    if owned.outer is not None:  # what computes part of a norm or a bias is treated alike
        verdict = _role(owned.outer, norms)
        if verdict.role in (Role.NORM, Role.BIAS):
            return verdict
    return _role(owned, norms)


def _role(owned: Owned, norms: Classes) -> Verdict:
    verdict = _by_class(owned, norms) or _by_structure(owned)
    return verdict._replace(why=f"{verdict.why}, parametrized") if owned.parametrized else verdict


def _by_class(owned: Owned, norms: Classes) -> Verdict | None:
    module, kind = owned.module, owned.kind
    if isinstance(module, (*_NORMS, *norms)):
        return Verdict(Role.NORM, kind)
    if isinstance(module, _EMBEDDINGS):
        return Verdict(Role.EMBEDDING, kind)
    if _is_layer_of_torch(module) and "weight" in owned.attribute:
        return Verdict(Role.VECTOR if isinstance(module, nn.PReLU) else Role.WEIGHT, kind)
    return None


def _by_structure(owned: Owned) -> Verdict:
    kind, shape = owned.kind, shape_of(owned.parameter)
    if reason := _like_a_norm(owned):
        return Verdict(Role.NORM, f"{kind}: {reason}")
    if _BIAS.search(owned.attribute):
        return Verdict(Role.BIAS, "bias")
    if _TABLE.search(owned.attribute):
        return Verdict(Role.EMBEDDING, f"{kind}: embedding by name")
    if shape is None:
        return Verdict(Role.WEIGHT, kind, "no shape yet")
    if _is_vector(shape):
        named = _SCALE.search(owned.attribute) or _SCALE.search(kind)
        return Verdict(Role.VECTOR, f"{kind}: vector", None if named else "a vector")
    doubt = "in a class named like a norm, but not a vector" if _NORM_CLASS_ENDING.search(kind) else None
    return Verdict(Role.WEIGHT, kind, doubt)


def _like_a_norm(owned: Owned) -> str | None:
    """The evidence that a module is a normalization: nothing but vectors, and a name or an epsilon."""
    module, own = owned.module, _own(owned.module)
    if _is_layer_of_torch(module) or all(map(_BIAS.search, own)):
        return None
    if not all(_may_be_vector(p, owned.kind) for p in own.values()):
        return None
    if _NORM_CLASS.search(owned.kind):
        return "norm by class name"
    if _NORM_PLACE.search(owned.place.rpartition(".")[2]):
        return "norm by name"
    if any("eps" in name and isinstance(value, float) for name, value in vars(module).items()):
        return "norm by its eps"
    return None


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are parts of a module itself."""
    own = dict(module.named_parameters(recurse=False))
    parts = [*module.named_children(), *getattr(module, "parametrizations", {}).items()]
    for name, part in parts:
        if is_container(part) or isinstance(part, parametrize.ParametrizationList):
            own |= {f"{name}.{key}": p for key, p in part.named_parameters(recurse=False)}
    return own


def _may_be_vector(parameter: nn.Parameter, kind: str) -> bool:
    """True for the shape of a vector; where the shape is not known yet, the class decides."""
    shape = shape_of(parameter)
    return bool(_NORM_CLASS_ENDING.search(kind)) if shape is None else _is_vector(shape)


def _is_vector(shape: tuple[int, ...]) -> bool:
    """True for at most one dimension, and for shapes that broadcast, as (1, 8, 1, 1). Two dimensions make a matrix."""
    return len(shape) < 2 or (len(shape) > 2 and math.prod(shape) == max(shape))


def _is_layer_of_torch(module: nn.Module) -> bool:
    """True for torch's own layers and classes derived from them."""
    ancestors = [cls for cls in class_of(module).__mro__ if cls.__module__.startswith(("torch.nn.", "torch.ao."))]
    return bool(ancestors) and ancestors[0] not in _ROOTS
