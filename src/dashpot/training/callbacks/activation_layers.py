"""Selection of the layers of a model whose activations are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from dashpot.errors import ArgumentError

_NOT_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)


def select(model: nn.Module, layers: Sequence[str | type[nn.Module]]) -> dict[str, nn.Module]:
    """Return the chosen modules by name, in the order of the model.

    Raises:
        ArgumentError: If a name or class matches no module.
    """
    named = {name: module for name, module in model.named_modules() if name}
    if not layers:
        if not named:
            raise ArgumentError(f"Activations: the model must have submodules, got {type(model).__name__} without any.")
        return _activation_functions(named) or {n: m for n, m in named.items() if not any(m.children())}
    for layer in layers:
        if isinstance(layer, str) and layer not in named:
            raise ArgumentError(f"Activations: the model has no layer {layer!r}; its layers are {_listed(named)}.")
        if isinstance(layer, type) and not any(isinstance(module, layer) for module in named.values()):
            raise ArgumentError(f"Activations: the model has no layer of class {layer.__name__}.")
    names = {layer for layer in layers if isinstance(layer, str)}
    kinds = tuple(layer for layer in layers if isinstance(layer, type))
    return {name: module for name, module in named.items() if name in names or isinstance(module, kinds)}


def _activation_functions(named: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in named.items()
        if type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, _NOT_ACTIVATIONS)
    }


def _listed(named: Mapping[str, nn.Module]) -> str:
    names = list(named)
    return ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
