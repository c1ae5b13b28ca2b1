"""Test subjects: a method in one setting, with the facts that the contract tests depend on."""

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
    """A user-defined stage with one slot of each shape: the direction's sign, damped where it has just flipped."""

    damping: float = 0.5
    slots = (dp.elementwise("last"), dp.per_tensor("turned", "turned_share"))

    def apply(self, x, s, c, ctx):
        sign = x.v.sign()
        turned = (sign * s.last < 0).to(sign.dtype)
        return x._replace(v=sign * (1 - c.damping * turned)), s._replace(last=sign, turned=ctx.mean(turned))


def known_products(weights, probes):
    """Return products with a diagonal Hessian: 1.5 for positive weights, 1 elsewhere; exact in every precision.

    The contracts use recorded gradients, which have no loss to differentiate. Real and imaginary parts are separate.
    """

    def product(w, v):
        if w.is_complex():
            return torch.view_as_complex(product(torch.view_as_real(w.detach()), torch.view_as_real(v)))
        return torch.where(w.detach() > 0, 1.5, 1.0).to(v.dtype) * v

    return [product(w, v) for w, v in zip(weights, probes, strict=True)]


@dataclass(frozen=True)
class Subject:
    """A method in one setting."""

    name: str
    cls: type[dp.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments besides lr."""
    lr: float = 0.02
    """A learning rate that descends on the problems of test_contract_descent."""
    keys: tuple[str, ...] = ()
    """The documented state keys besides `step`."""
    momentum_key: str | None = None
    """The group key in which torch's schedulers find the momentum: "momentum", "betas" or None."""
    recipe: dp.Recipe | None = None
    """For `SGM.from_recipe`, instead of options."""
    counterpart: type[torch.optim.Optimizer] | None = None
    """The class of torch.optim with the same arguments and results."""
    kind: bool = False
    """Representative of its method, stages and choices. In the other subjects, contracts are slow tests."""
    inert: tuple[str, ...] = ()
    """Group settings without effect on the first five steps."""
    lr_moves_all: bool = True
    """A learning rate of zero leaves the weights unchanged (not with a decay independent of lr)."""
    steep: bool = False
    """The step grows with the gradient, so Rosenbrock's function requires a smaller learning rate."""
    flips_decay: bool = False
    """`maximize` negates the decay too (a quirk of AutoSGM)."""

    def product_at(self, step: int) -> bool:
        """Return True if an uninterrupted run takes a Hessian-vector product at `step` = 0, 1, ..."""
        optimizer = self.make([torch.zeros(1, requires_grad=True)])
        assert isinstance(optimizer, dp.SecondOrder)
        last = None
        for done in range(step + 1):
            if due := optimizer.probing.due(done, last):
                last = done
        return due

    @cached_property
    def probing(self) -> Mapping[str, Any]:
        """The resolved probing options; empty for a method without products."""
        optimizer = self.make([torch.zeros(1, requires_grad=True)])
        if not optimizer.recipe.observes():
            return {}
        assert isinstance(optimizer, dp.SecondOrder)
        return optimizer.probing._asdict()

    @cached_property
    def captures(self) -> bool:
        """A CUDA graph can record the step: it does not depend on products."""
        return not self.make([torch.zeros(1)]).recipe.observes()

    @property
    def spatial(self) -> bool:
        """The step averages over kernel windows, so it depends on a parameter's shape."""
        return self.cls is dp.AdaHessian and self.options.get("spatial_averaging", True)

    def __str__(self) -> str:
        return self.name

    def make(self, params: Any, lr: Any = None, **changes: Any) -> dp.Optimizer:
        """Build the optimizer over `params`."""
        lr = self.lr if lr is None else lr
        if self.recipe is None:
            return self.cls(params, lr=lr, **{**self.options, **changes})
        recipe = self.recipe.with_settings(lr=lr, schedule=changes.pop("schedule", dict(self.recipe.schedule)))
        return dp.SGM.from_recipe(params, recipe, **changes)

    def make_torch(self, params: Any, lr: Any = None, **changes: Any) -> torch.optim.Optimizer:
        """Build torch's optimizer of the same method."""
        assert self.counterpart is not None
        return self.counterpart(params, lr=self.lr if lr is None else lr, **{**self.options, **changes})


FACTS = frozenset(item.name for item in dataclasses.fields(Subject))


def subject(name: str, cls: type[dp.Optimizer], keys: str, momentum_key: str | None, **rest: Any) -> Subject:
    """Return a subject: keywords that are fields of `Subject` are facts, the others are options of the optimizer."""
    facts = {key: rest.pop(key) for key in FACTS & rest.keys()}
    return Subject(name, cls, rest, keys=tuple(keys.split()), momentum_key=momentum_key, **facts)


def default_subject(name: str, method: Method) -> Subject:
    """Return the subject of a method without a row of its own: default settings, the facts read from the optimizer."""
    options: dict[str, Any] = {"probe": known_products} if issubclass(method.cls, dp.SecondOrder) else {}
    optimizer = method.cls([torch.zeros(1, requires_grad=True)], **options)
    keys = " ".join(slot.key for slot in optimizer.recipe.slots)
    momentum_key = next((key for key in ("momentum", "betas") if key in optimizer.defaults), None)
    counterpart = getattr(torch.optim, method.cls.__name__, None)
    return subject(name, method.cls, keys, momentum_key, counterpart=counterpart, kind=True, **options)
