"""Products through wrappers that subclass the optimizer and forward reads (Fabric, Lightning)."""

import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.errors import CurvatureError


class Wrapped:
    """Wrapper like Fabric's: inherited methods run on the wrapper, whose attributes are not set on the optimizer.

    `step` passes a closure to the optimizer; this closure may have no effect.
    """

    def __init__(self, optimizer, always_a_closure):
        self._wrapped, self._always = optimizer, always_a_closure
        self.__class__ = type("Wrapped", (Wrapped, type(optimizer)), {})

    def step(self, closure=None):
        if closure is None and self._always:
            closure = nothing
        return self._wrapped.step(closure) if closure else self._wrapped.step()

    def __getattr__(self, name):
        return getattr(self._wrapped, name)


def nothing():
    return None


def by_backward(opt, loss):
    opt.backward(loss())
    opt.step()


def by_graph(opt, loss):
    loss().backward(create_graph=opt.should_create_graph())
    opt.step()


def by_closure(opt, loss):
    def closure():
        opt.zero_grad()
        value = loss()
        value.backward()
        return value

    opt.step(closure)


def apart(opt, loss):
    if opt.should_create_graph():
        opt.curvature_step(loss)
    loss().backward()
    opt.step()


WAYS = (by_backward, by_graph, by_closure, apart)


def train(way, wrap, **options):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), torch.randn(8, 3).double()
    inner = dp.Sophia(model.parameters(), lr=0.01, update_d_every=4, **options)
    opt = wrap(inner)
    for k in range(10):
        opt.zero_grad()
        model[0].bias.requires_grad_(k > 1)  # added after the first product
        way(opt, lambda: (model(x) - x.sum(1, keepdim=True)).square().mean())
    return torch.cat([p.detach().flatten() for p in model.parameters()]), inner.curvature_stats[:4]


@pytest.mark.parametrize("always_a_closure", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_wrapped_optimizer_equals_the_bare_one(way, always_a_closure):
    bare, stats = train(way, lambda opt: opt)
    through, its = train(way, lambda opt: Wrapped(opt, always_a_closure))
    assert torch.equal(bare, through)
    assert stats == its
    assert stats[2] == 3  # at step 0, for the new parameter, and four steps later


@pytest.mark.parametrize("probe", ["auto", "forward", "differences"])
def test_closure_without_effect_has_no_product(probe):
    w = torch.ones(2, requires_grad=True)
    opt = dp.Sophia([w], lr=0.1, probe=probe)
    (w**4).sum().backward()
    with pytest.raises(CurvatureError, match=r"closure|has no graph"):
        opt.step(nothing)
    assert w.tolist() == [1.0, 1.0]
    assert opt.steps_done() == 0


def test_closure_that_calls_backward_must_return_its_loss():
    w = torch.ones(2, requires_grad=True)
    opt = dp.Sophia([w], lr=0.1)
    with pytest.raises(CurvatureError, match="must return the loss"):
        opt.step(lambda: (w**4).sum().backward())
    assert w.tolist() == [1.0, 1.0]
