"""torch's Muon for whole models: it updates the hidden matrices, and AdamW updates all other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dashpot.errors import ArgumentError
from dashpot.optimizers.param_owners import trainable_params
from dashpot.optimizers.param_roles import Role, role_of
from dashpot.runs.combined_optimizer import CombinedOptimizer

MAX_NAMES = 4
PREFIX = "adamw_"
"""Prefix of the settings of AdamW."""


class MatrixMuon(torch.optim.Muon):
    """torch's Muon, which also accepts weights of convolutions as matrices (outputs, inputs times kernel elements).

    Source: the reference implementation of Muon by K. Jordan flattens the weights of convolutions in the same way.
    """

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        groups = list(params)
        with _as_matrices([p for group in groups for p in group["params"]]):
            super().__init__(groups, **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step with every weight as a matrix."""
        with _as_matrices([p for group in self.param_groups for p in group["params"]]):
            return super().step(closure)


@contextmanager
def _as_matrices(params: Sequence[Tensor]) -> Iterator[None]:
    """Give parameters and gradients with more than two dimensions the shape of matrices."""
    shaped = [(p, p.shape, p.grad) for p in params if p.ndim > 2]
    for p, _, grad in shaped:
        p.grad = None  # a gradient must have the shape of its parameter
        p.data = p.data.flatten(1)
        p.grad = None if grad is None else grad.flatten(1)
    try:
        yield
    finally:
        for p, shape, grad in shaped:
            p.grad = None
            p.data = p.data.view(shape)
            p.grad = grad


class MuonWithAdamW(CombinedOptimizer):
    """torch's Muon for the hidden matrices of a model, and torch's AdamW for its other parameters.

    Hidden matrices are weights with two or more dimensions, except embeddings and the last such weight of the model,
    which belongs to the output layer. The weight of a convolution is the matrix (outputs, inputs times kernel
    elements); matrices of a single row or column do not count. Muon computes in bfloat16.

    Args:
        params: Parameters of the model, or parameter groups.
        lr: Learning rate of Muon, at least 0.
        adamw_lr: Learning rate of AdamW, at least 0.
        model: The model, from which embeddings and the output layer are identified. None treats all weights with two
            or more dimensions as hidden matrices.
        settings: Further arguments of torch.optim.Muon and, with the prefix `adamw_`, of torch.optim.AdamW.

    Raises:
        ArgumentError: If the parameters contain no hidden matrix.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = MuonWithAdamW(model.parameters(), lr=0.02, adamw_lr=1e-3, model=model)
        >>> optimizer.roles
        ['1 hidden matrix: 0.weight', '3 other tensors: 0.bias, 2.weight, 2.bias']
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "lr": (1e-3, 0.1, "log"),
        "adamw_lr": (1e-3 / 30, 0.03, "log"),
        "weight_decay": (1e-6, 0.1, "log"),
        "momentum": (0.5, 0.99),
        "warmup": (0.0, 0.2),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        adamw_lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        model: nn.Module | None = None,
        **settings: Any,
    ) -> None:
        groups = _groups(params)
        tensors = [p for group in groups for p in group["params"]]
        names = {} if model is None else {p: name for name, p in model.named_parameters()}
        hidden = _hidden(tensors, model)
        if not hidden:
            raise ArgumentError(
                "torch.optim.Muon: the model has no hidden matrix, a weight with two or more dimensions apart from "
                "embeddings and the output layer; use another optimizer."
            )
        adamw = {name.removeprefix(PREFIX): value for name, value in settings.items() if name.startswith(PREFIX)}
        muon = {name: value for name, value in settings.items() if not name.startswith(PREFIX)}
        matrices, others = _chosen(groups, lambda p: p in hidden), _chosen(groups, lambda p: p not in hidden)
        made: list[Any] = [MatrixMuon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, **muon)]
        if others:
            made.append(torch.optim.AdamW(others, lr=adamw_lr, **adamw))
        rest = [p for p in tensors if p not in hidden]
        roles = [_role([p for p in tensors if p in hidden], names, "hidden matrix", "hidden matrices")]
        super().__init__(made, [*roles, _role(rest, names, "other tensor", "other tensors")][: len(made)])


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Return parameters, or parameters with names, or groups, as groups of parameters without names."""
    given = list(params)
    groups = [dict(group) for group in given] if given and isinstance(given[0], dict) else [{"params": given}]
    for group in groups:
        group["params"] = [p[1] if isinstance(p, tuple) else p for p in group["params"]]
        group.pop("param_names", None)
    return groups


def _chosen(groups: Sequence[dict[str, Any]], belongs: Callable[[Tensor], bool]) -> list[dict[str, Any]]:
    """Return the groups with those parameters for which `belongs` is true; groups without any are omitted."""
    parts = [{**group, "params": [p for p in group["params"] if belongs(p)]} for group in groups]
    return [part for part in parts if part["params"]]


def _hidden(tensors: Sequence[Tensor], model: nn.Module | None) -> set[Tensor]:
    """Return the hidden matrices among the parameters of a model."""
    matrices = [p for p in tensors if _is_matrix(p)]
    if model is None:
        return set(matrices)
    weights = [owned for owned in trainable_params(model) if _is_matrix(owned.parameter)]
    embeddings = {owned.parameter for owned in weights if role_of(owned).role is not Role.WEIGHT}
    output = {weights[-1].parameter} if weights else set()
    return set(matrices) - embeddings - output


def _is_matrix(p: Tensor) -> bool:
    """Return whether a parameter, as a matrix, has more than one row and more than one column."""
    return p.ndim >= 2 and min(p.shape[0], p.shape[1:].numel()) > 1


def _role(params: Sequence[Tensor], names: dict[Any, str], one: str, several: str) -> str:
    """Return the number and the names of parameters as text."""
    known = [names[p] for p in params if p in names]
    listed = f": {', '.join(known[:MAX_NAMES])}" if known else ""
    more = f" and {len(known) - MAX_NAMES} more" if len(known) > MAX_NAMES else ""
    return f"{len(params)} {one if len(params) == 1 else several}{listed}{more}"
