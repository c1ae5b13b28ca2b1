"""Test subjects: a method with certain settings, and the facts on which the contract tests depend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

import dashpot as dp
from dashpot.optimizers.registry import Method


@dataclass(frozen=True)
class SignFlips(dp.Stage):
    """A custom stage with one slot of each shape: the sign of the direction, damped for elements that just flipped."""

    damping: float = 0.5
    slots = (dp.elementwise("last"), dp.per_tensor("turned", "turned_share"))

    def apply(self, x, s, c, ctx):
        sign = x.v.sign()
        turned = (sign * s.last < 0).to(sign.dtype)
        return x._replace(v=sign * (1 - c.damping * turned)), s._replace(last=sign, turned=ctx.mean(turned))


def known_products(weights, probes):
    """Return products with a diagonal Hessian of 1.5 for positive weights and 1 otherwise, exact in every precision.

    The contracts use recorded gradients, without a loss to differentiate. Real and imaginary parts are treated as
    separate elements.
    """

    def product(w, v):
        if w.is_complex():
            return torch.view_as_complex(product(torch.view_as_real(w.detach()), torch.view_as_real(v)))
        return torch.where(w.detach() > 0, 1.5, 1.0).to(v.dtype) * v

    return [product(w, v) for w, v in zip(weights, probes, strict=True)]


@dataclass(frozen=True)
class Subject:
    """A method with certain settings."""

    name: str
    cls: type[dp.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments other than lr."""
    lr: float = 0.02
    """A learning rate with which the loss decreases in test_contract_descent.py."""
    keys: tuple[str, ...] = ()
    """The documented state keys other than `step`."""
    momentum_key: str | None = None
    """The group key in which torch's schedulers find the momentum: "momentum", "betas" or None."""
    recipe: dp.Recipe | None = None
    """A recipe for `SGM.from_recipe`, used instead of options."""
    counterpart: type[torch.optim.Optimizer] | None = None
    """The class of torch.optim with the same arguments and results."""
    kind: bool = False
    """Whether the subject represents its method, stages and choices. For other subjects, contracts are slow tests."""
    inert: tuple[str, ...] = ()
    """Group settings that have no effect on the first five steps."""
    lr_moves_all: bool = True
    """Whether weights are unchanged if the learning rate is zero; False with a decay that does not depend on lr."""
    steep: bool = False
    """Whether the step grows with the gradient, so that Rosenbrock's function requires a smaller learning rate."""
    flips_decay: bool = False
    """Whether `maximize` also negates the decay (a quirk of AutoSGM)."""

    def product_at(self, step: int) -> bool:
        """Return True if an uninterrupted run computes a Hessian-vector product at `step` = 0, 1, ..."""
        optimizer = self.make([torch.zeros(1, requires_grad=True)])
        assert isinstance(optimizer, dp.SecondOrder)
        last = None
        for done in range(step + 1):
            if due := optimizer.probing.due(done, last):
                last = done
        return due

    @cached_property
    def probing(self) -> Mapping[str, Any]:
        """The resolved probing options, which are empty for a method without products."""
        optimizer = self.make([torch.zeros(1, requires_grad=True)])
        if not optimizer.recipe.observes():
            return {}
        assert isinstance(optimizer, dp.SecondOrder)
        return optimizer.probing._asdict()

    @cached_property
    def captures(self) -> bool:
        """Whether a CUDA graph can record the step, which is the case if the step does not depend on products."""
        return not self.make([torch.zeros(1)]).recipe.observes()

    @property
    def spatial(self) -> bool:
        """Whether the step averages over kernel windows and thus depends on the shape of a parameter."""
        return self.cls is dp.AdaHessian and self.options.get("spatial_averaging", True)

    def __str__(self) -> str:
        return self.name

    def make(self, params: Any, lr: Any = None, **changes: Any) -> dp.Optimizer:
        """Create the optimizer for `params`."""
        lr = self.lr if lr is None else lr
        if self.recipe is None:
            return self.cls(params, lr=lr, **{**self.options, **changes})
        recipe = self.recipe.with_settings(lr=lr, schedule=changes.pop("schedule", dict(self.recipe.schedule)))
        return dp.SGM.from_recipe(params, recipe, **changes)

    def make_torch(self, params: Any, lr: Any = None, **changes: Any) -> torch.optim.Optimizer:
        """Create torch's optimizer with the same method."""
        assert self.counterpart is not None
        return self.counterpart(params, lr=self.lr if lr is None else lr, **{**self.options, **changes})


FACTS = frozenset(item.name for item in dataclasses.fields(Subject))


def subject(name: str, cls: type[dp.Optimizer], keys: str, momentum_key: str | None, **rest: Any) -> Subject:
    """Return a subject. Keywords that are fields of `Subject` are facts; all others are options of the optimizer."""
    facts = {key: rest.pop(key) for key in FACTS & rest.keys()}
    return Subject(name, cls, rest, keys=tuple(keys.split()), momentum_key=momentum_key, **facts)


def default_subject(name: str, method: Method) -> Subject:
    """Return the subject of a method without a row: it has default settings, and facts are read from the optimizer."""
    options: dict[str, Any] = {"probe": known_products} if issubclass(method.cls, dp.SecondOrder) else {}
    optimizer = method.cls([torch.zeros(1, requires_grad=True)], **options)
    keys = " ".join(slot.key for slot in optimizer.recipe.slots)
    momentum_key = next((key for key in ("momentum", "betas") if key in optimizer.defaults), None)
    counterpart = getattr(torch.optim, method.cls.__name__, None)
    return subject(name, method.cls, keys, momentum_key, counterpart=counterpart, kind=True, **options)
