"""The Hessian scaled by the rates and stability edges of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from dashpot.curvature import Hessian, hessian
from dashpot.errors import CurvatureError
from dashpot.watching.rates import GroupForm, RateView


class Scales(NamedTuple):
    """Factors of the operator for the parameters with a gradient.

    Attributes:
        params: Trainable parameters with a gradient.
        rates: Rate divided by the edge, for each parameter.
        shifts: Coefficients of coupled decay.
        edge: Edge of the groups; 1 if the groups have different edges.
        rate: The rate if it is one number for all parameters, else None.
        notes: Conditions of the result, as sentences.
    """

    params: list[Tensor]
    rates: list[Tensor]
    shifts: list[float]
    edge: float
    rate: float | None
    notes: tuple[str, ...]


def scales_of(optimizer: Any) -> Scales:
    """Return the factors at the current gradients and state.

    Raises:
        CurvatureError: If the rates or the edge are unknown, with the reason.
    """
    view = RateView(optimizer)
    if view.view is None:
        raise CurvatureError(str(view.reason))
    forms = [form for _, form in view.groups()]
    if any(p.grad is not None and p.grad.is_sparse for group in view.view.param_groups for p in group["params"]):
        raise CurvatureError("A gradient is sparse.")
    params, rates, shifts, edges = [], [], [], []
    for (index, form), group in zip(view.groups(), view.view.param_groups, strict=True):
        edge = _edge(form)
        for p in group["params"]:
            found = view.tensor(index, p)
            if found is not None and p.requires_grad:  # frozen parameters may have an old gradient
                params.append(p)
                rates.append(_shaped(found.rate, p) / edge)
                shifts.append(form.form.coupled_decay)
                edges.append(edge)
    if not params:
        raise CurvatureError("No parameter has a gradient.")
    if not any(bool((rate > 0).any()) for rate in rates):
        raise CurvatureError("The rates of all parameters are 0.")
    same = max(edges) - min(edges) <= 1e-9 * max(edges)  # rounding of closed forms
    numbers = {float(rate) * edges[0] for rate in rates} if same and all(r.numel() == 1 for r in rates) else set()
    rate = numbers.pop() if len(numbers) == 1 else None
    return Scales(params, rates, shifts, edges[0] if same else 1.0, rate, tuple(_notes(view.view, forms, same)))


def _edge(form: GroupForm) -> float:
    if form.edge is None or form.edge <= 0:
        raise CurvatureError(" ".join(form.reasons) or "The method has no stable range of curvatures.")
    return form.edge


def _shaped(rate: Tensor, p: Tensor) -> Tensor:
    return rate.reshape(p.shape) if rate.numel() == p.numel() else rate


def _notes(view: Any, forms: list[GroupForm], same: bool) -> Iterator[str]:
    if not same:
        yield (
            "Groups have different edges: each rate is divided by the edge of its group, which is exact only if their "
            "filters and decays are equal."
        )
    if getattr(view.options, "max_norm", None) is not None:
        yield "The factor of max_norm is not included: a clipped step has a smaller rate."
    yield from dict.fromkeys(text for form in forms for text in form.form.limits)


@contextmanager
def preconditioned_hessian(optimizer: Any, closure: Callable[[], Any]) -> Iterator[Hessian]:
    """Provide the Hessian of a loss scaled so that the eigenvalue 1 is the edge of stability of the optimizer.

    With the elementwise rates A of the next step (learning rate over denominator), coupled decay rho and the largest
    stable product `edge` of rate and curvature, the operator is

        A^(1/2) (H + rho) A^(1/2) / edge

    A quadratic with this Hessian and constant A is stable if all eigenvalues are in (0, 1). Pass the operator to
    `dashpot.curvature.eigenvalues`, `trace` or `spectral_density`.

    Args:
        optimizer: Optimizer of dashpot or torch, between `backward` and `step`.
        closure: Function that returns the loss of the current weights, with a graph.

    Yields:
        The operator.

    Raises:
        CurvatureError: If the method has no known rates or edge, or a product cannot be computed.

    Source: Cohen et al., arXiv 2103.00065 and 2207.14484.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> optimizer = dp.SGD([w], lr=0.1)
        >>> loss = lambda: (w**2 * torch.tensor([1.0, 5.0])).sum()
        >>> loss().backward()
        >>> with preconditioned_hessian(optimizer, loss) as h:
        ...     round(dp.curvature.eigenvalues(h).values[0], 6)
        0.5
    """
    with scaled_hessian(optimizer, closure, scales_of(optimizer)) as operator:
        yield operator


@contextmanager
def scaled_hessian(optimizer: Any, closure: Callable[[], Any], scales: Scales) -> Iterator[Hessian]:
    """Provide the operator for known scales; the loss of a maximizing optimizer is negated."""
    signs = {bool(group.get("maximize", False)) for group in optimizer.param_groups}
    if len(signs) > 1:
        raise CurvatureError("Some groups maximize and others minimize the loss.")
    loss = (lambda: _negated(closure())) if True in signs else closure
    with hessian(loss, scales.params, rates=scales.rates, shifts=scales.shifts) as operator:
        yield operator


def _negated(loss: Any) -> Any:
    """Return the negative loss; the operator raises for other types."""
    return -loss if isinstance(loss, Tensor) else loss
