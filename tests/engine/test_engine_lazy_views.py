"""Tensors replaced at the same address, by lazy views, inference tensors or views of other weights."""

import pytest
import torch

import dashpot as dp
from dashpot._torch_private import dispatch_keys, impl_address
from dashpot.engine.native import interface

ENGINES = ("eager", "compiled")


def _stepped(engine, edit, dtype=torch.float64, shape=(3, 3)):
    """Return weights and state after one step, a call of `edit`, and two more steps."""
    draw = torch.Generator().manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype, generator=draw)) for _ in range(3)]
    optimizer = dp.AdamW(params, lr=0.1, engine=engine)
    for p in params:
        p.grad = torch.randn(shape, dtype=dtype, generator=draw)
    optimizer.step()
    edit(params, optimizer)
    for _ in range(2):
        optimizer.step()
    tensors = [x for p in params for x in (p.detach(), *optimizer.state[p].values())]
    return [x.resolve_conj().resolve_neg().clone() for x in tensors]


def _negate_weight(params, optimizer):
    params[0].data = torch.ops.aten._neg_view(params[0].data)


def _negate_state(params, optimizer):
    state = optimizer.state[params[1]]
    state["exp_avg"] = torch.ops.aten._neg_view(state["exp_avg"])


def _negate_gradient(params, optimizer):
    params[1].grad = torch.ops.aten._neg_view(params[1].grad)


def _conjugate_gradient(params, optimizer):
    params[1].grad = params[1].grad.conj()


def _transposed_weight_as_gradient(reader, owner):
    def edit(params, optimizer):
        params[reader].grad = params[owner].detach().t()

    return edit


@pytest.mark.parametrize(
    ("edit", "dtype"),
    [
        (_negate_weight, torch.float64),
        (_negate_state, torch.float64),
        (_negate_gradient, torch.float64),
        (_conjugate_gradient, torch.complex128),
        (_transposed_weight_as_gradient(0, 2), torch.float64),
        (_transposed_weight_as_gradient(2, 0), torch.float64),
        (_transposed_weight_as_gradient(1, 1), torch.float64),
    ],
)
def test_engines_agree_on_lazy_and_overlapping_views(edit, dtype):
    torch.testing.assert_close(*(_stepped(engine, edit, dtype) for engine in ENGINES), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_inference_state_at_reused_address_raises(engine):
    params = [torch.nn.Parameter(torch.ones(64, 64)) for _ in range(2)]
    optimizer = dp.AdamW(params, lr=0.1, engine=engine)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state[params[1]]
    del state["exp_avg"]  # the allocator then reuses the memory
    with torch.inference_mode():
        state["exp_avg"] = torch.zeros(64, 64)
    before = [p.detach().clone() for p in params]
    with pytest.raises(dp.ArgumentError, match="made in inference mode"):
        optimizer.step()
    assert all(map(torch.equal, before, params))


def test_dispatch_key_offset_is_valid_for_all_tensors():
    offset = interface.functions()[2]
    z = torch.zeros(3, dtype=torch.complex64)
    for x in (z, z.conj(), torch.ops.aten._neg_view(z), torch.zeros(2).to_sparse(), torch.zeros(())):
        assert interface._offset(impl_address(x), interface._WORDS, dispatch_keys(x)) == offset
        assert bool(dispatch_keys(x) & interface.lazy_keys()) == (x.is_conj() or x.is_neg())
