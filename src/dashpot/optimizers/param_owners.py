"""The trainable tensors of a model, each with the module and the attribute that it is a part of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

__all__ = ["Owned", "class_of", "is_container", "shape_of", "trainable"]


class Owned(NamedTuple):
    """A parameter under one of its names, and what it is a part of: an attribute of a module.

    `module` and `attribute` are those that hold it, except for the original of a parametrized tensor, which is a part
    of the tensor, and for an entry of a `ParameterList` or `ParameterDict`, which is a part of the module that holds
    the container. `place` is the name of `module`. `holder` says where the parameter is registered: a module that a
    model uses twice registers it once. `outer` is the parametrized tensor that a parametrization's own parameter
    computes.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module
    attribute: str
    place: str
    holder: tuple[int, str]
    parametrized: bool
    outer: Owned | None

    @property
    def kind(self) -> str:
        """The class of `module`, without the name that parametrizations give it."""
        return class_of(self.module).__name__


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module, not the one that parametrizations derive from it."""
    return parametrize.type_before_parametrizations(module)


def is_container(module: nn.Module) -> bool:
    """True for a container of parameters."""
    return isinstance(module, (nn.ParameterList, nn.ParameterDict))


def shape_of(parameter: nn.Parameter) -> tuple[int, ...] | None:
    """The shape; None for a parameter of a lazy module that has not run yet."""
    return None if is_lazy(parameter) else tuple(parameter.shape)


def trainable(model: nn.Module) -> Iterator[Owned]:
    """Every parameter that requires a gradient, under each of its names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for prefix, holder in modules.items():
        for key, parameter in holder.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                yield _owned(modules, prefix, key, parameter)


def _owned(modules: Mapping[str, nn.Module], prefix: str, key: str, parameter: nn.Parameter) -> Owned:
    place, attribute, parametrized = prefix, key, False
    if is_container(modules[place]) and place:
        place, _, attribute = place.rpartition(".")
    elif found := _parametrized_by(modules, prefix):
        (place, attribute), parametrized = found, True
    name, holder = _join(prefix, key), (id(modules[prefix]), key)
    owned = Owned(name, parameter, modules[place], attribute, place, holder, parametrized, None)
    outer = next((found for parent in _parents(place) if (found := _parametrized_by(modules, parent))), None)
    if outer is None:
        return owned
    place, attribute = outer
    return owned._replace(outer=Owned(name, parameter, modules[place], attribute, place, holder, True, None))


def _parametrized_by(modules: Mapping[str, nn.Module], prefix: str) -> tuple[str, str] | None:
    """(name of the module, attribute) of the tensor whose `ParametrizationList` a module is; None for any other."""
    if not isinstance(modules[prefix], parametrize.ParametrizationList):
        return None
    container, _, attribute = prefix.rpartition(".")
    return container.rpartition(".")[0], attribute


def _parents(prefix: str) -> Iterator[str]:
    """The names of the modules that contain a module, from the inside, itself first."""
    while prefix:
        yield prefix
        prefix = prefix.rpartition(".")[0]


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
