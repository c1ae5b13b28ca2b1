"""Trainable parameters of a model, each with the module and the attribute to which it belongs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize


class OwnedParam(NamedTuple):
    """A parameter under one of its names, with its owner.

    The owner is usually the module that registers the parameter. The owner of the original of a parametrized tensor is
    the parametrized module, and the owner of an entry of a `ParameterList` or `ParameterDict` is the module that
    contains the list or dict.

    Attributes:
        name: Qualified name of the parameter.
        parameter: The parameter.
        module: The owner.
        attribute: Name of the owner's attribute that contains the parameter.
        module_name: Qualified name of the owner.
        registration: Identity of the registering module, and the parameter's name in that module. It is the same for
            all uses of a module that the model uses several times.
        parametrized: Whether the parameter is the original of a parametrized tensor.
        outer: The parametrized tensor to which a parameter of a parametrization contributes, or None.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module
    attribute: str
    module_name: str
    registration: tuple[int, str]
    parametrized: bool
    outer: OwnedParam | None

    @property
    def class_name(self) -> str:
        """The class name of the owner, without the prefix of parametrized classes."""
        return class_of(self.module).__name__


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before it was parametrized."""
    return parametrize.type_before_parametrizations(module)


def is_container(module: nn.Module) -> bool:
    """Return True if a module is a `ParameterList` or `ParameterDict`."""
    return isinstance(module, (nn.ParameterList, nn.ParameterDict))


def shape_of(parameter: nn.Parameter) -> tuple[int, ...] | None:
    """Return the shape of a parameter, or None for an uninitialized parameter of a lazy module."""
    return None if is_lazy(parameter) else tuple(parameter.shape)


def trainable_params(model: nn.Module) -> Iterator[OwnedParam]:
    """Yield every parameter that requires a gradient, once for each of its names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for prefix, module in modules.items():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                yield _owned(modules, prefix, key, parameter)


def _owned(modules: Mapping[str, nn.Module], prefix: str, key: str, parameter: nn.Parameter) -> OwnedParam:
    owner, attribute, parametrized = prefix, key, False
    if is_container(modules[owner]) and owner:
        owner, _, attribute = owner.rpartition(".")
    elif found := _parametrized_tensor(modules, prefix):
        (owner, attribute), parametrized = found, True
    name, registration = f"{prefix}.{key}" if prefix else key, (id(modules[prefix]), key)
    owned = OwnedParam(name, parameter, modules[owner], attribute, owner, registration, parametrized, None)
    outer = next((found for parent in _ancestors(owner) if (found := _parametrized_tensor(modules, parent))), None)
    if outer is None:
        return owned
    owner, attribute = outer
    return owned._replace(outer=OwnedParam(name, parameter, modules[owner], attribute, owner, registration, True, None))


def _parametrized_tensor(modules: Mapping[str, nn.Module], prefix: str) -> tuple[str, str] | None:
    """Return (module name, attribute) of the tensor parametrized by a `ParametrizationList`; None for other modules."""
    if not isinstance(modules[prefix], parametrize.ParametrizationList):
        return None
    container, _, attribute = prefix.rpartition(".")
    return container.rpartition(".")[0], attribute


def _ancestors(name: str) -> Iterator[str]:
    """Yield the name of a module and the names of its ancestors, innermost first, without the root."""
    while name:
        yield name
        name = name.rpartition(".")[0]
