"""Side effects of products: hooks, other leaves, RNG state and buffers."""

import pytest
import torch
from curvature.second_order_support import (
    WAYS,
    error,
    exact,
    leaves,
    probe_of,
    probes_of,
    quartic,
    scalar_weights,
    take_step,
)
from curvature_closures_support import (
    ANSWERS,
    DOUBLE,
    PROBES,
    _backward,
    bound_of,
    expected_products,
    methodical,
    products_held,
)
from torch import nn

import dashpot as dp


@pytest.mark.parametrize("way", [way for way in WAYS if way != "curvature_step"])
def test_hooks_run_once_on_a_step_with_a_product(way):
    params = leaves((3,), (2,))
    seen, accumulated, plain = [], [], []
    params[0].register_hook(lambda g: seen.append(g.detach().clone()))
    params[1].register_post_accumulate_grad_hook(lambda p: accumulated.append(p.grad.detach().clone()))
    copies = [p.detach().clone().requires_grad_() for p in params]
    copies[0].register_hook(lambda g: plain.append(g.detach().clone()))
    quartic(copies).backward()
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe_of(way))
    take_step(way, optimizer, [lambda: quartic(params)])
    assert optimizer.curvature_stats.products == 1
    assert error(accumulated, [copies[1].grad]) < 1e-15
    assert error(seen, plain) < 1e-15


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("probe", PROBES)
def test_hooks_do_not_run_in_curvature_step(probe, answer):
    """Hooks, which may step another optimizer or count gradients, run only for training gradients."""
    params = leaves((3,), (2,))
    seen, accumulated = [], []
    params[0].register_hook(seen.append)
    params[0].register_post_accumulate_grad_hook(accumulated.append)
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe)
    optimizer.curvature_step(lambda: quartic(params) if answer == "loss" else _backward(quartic(params)))
    assert accumulated == []
    assert seen == []
    _backward(quartic(params))
    assert (len(seen), len(accumulated)) == (1, 1)


@pytest.mark.parametrize("way", WAYS)
def test_gradient_hook_does_not_change_the_curvature(way):
    """Gradient hooks do not affect the product. The route "graph" is an exception, because it only has
    the modified gradient."""
    params = leaves((3,), (2,))
    start = [p.detach().clone() for p in params]
    optimizer = methodical(params, way)
    share = 2 if way == "graph" else 1
    expected = [share * product for product in expected_products(optimizer, start, quartic)]
    for p in params:
        p.register_hook(lambda g: 2 * g)
    take_step(way, optimizer, [lambda: quartic(params)])
    assert error([p.grad for p in params], [2 * g for g in exact(quartic, start, start)[0]]) < DOUBLE
    assert error(products_held(optimizer, params), expected) < bound_of(way)


@pytest.mark.parametrize("way", WAYS)
def test_leaves_of_other_optimizers_receive_one_gradient(way):
    """Leaves of other optimizers (a critic, a shared encoder) receive the gradient of one backward pass."""
    params, (outside,) = leaves((3,)), leaves((4,), seed=1)
    other = torch.optim.SGD([outside], lr=0.1)
    optimizer = methodical(params, way)
    expected = expected_products(optimizer, params, lambda values: quartic([*values, outside.detach()]))
    outside.grad = torch.ones_like(outside)
    (plain,) = torch.autograd.grad(quartic([*params, outside]), [outside])
    take_step(way, optimizer, [lambda: quartic([*params, outside])])
    assert error([outside.grad], [plain + 1]) < 1e-15
    assert error(products_held(optimizer, params), expected) < bound_of(way)
    other.step()


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("has", [True, False], ids=["with a gradient", "without"])
def test_curvature_step_does_not_affect_leaves_of_other_optimizers(probe, answer, has):
    params, (outside,) = leaves((3,)), leaves((4,), seed=1)
    outside.grad = torch.ones_like(outside) if has else None
    optimizer = dp.AdaHessian(params, lr=0.1, probe=probe)

    def closure():
        loss = quartic([*params, outside])
        if answer == "backward":
            loss.backward()
        return loss

    optimizer.curvature_step(closure)
    assert torch.equal(outside.grad, torch.ones_like(outside)) if has else outside.grad is None


class Masked(nn.Module):
    """Model with dropout and batch normalization and a smooth loss."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5, dtype=torch.float64), nn.Linear(5, 1, dtype=torch.float64)
        self.norm, self.drop = nn.BatchNorm1d(5, dtype=torch.float64), nn.Dropout(0.5)
        self.evaluations = 0

    def forward(self, x):
        self.evaluations += 1
        return (self.last(self.drop(torch.tanh(self.norm(self.first(x))))) ** 2).mean()


def masked():
    torch.manual_seed(5)
    net = Masked()
    x = torch.randn(8, 4, dtype=torch.float64)
    torch.manual_seed(11)
    return net, x


@pytest.mark.parametrize("way", WAYS)
def test_routes_share_dropout_masks_and_consume_one_rng_state(way):
    net, x = masked()
    state = torch.get_rng_state()
    loss = net(x)
    after_one = torch.get_rng_state()
    assert not torch.equal(state, after_one)
    params = list(net.parameters())
    optimizer = methodical(params, way, eps=1.0)
    probes = probes_of(optimizer, 0)
    # The first bias is excluded, since its gradient is zero except for roundoff.
    grads = torch.autograd.grad(loss, params, create_graph=True)
    products = torch.autograd.grad(grads, params, probes)
    expected = [(v * hv).abs() for v, hv in zip(probes, products, strict=True)]
    torch.set_rng_state(state)
    if way == "curvature_step":
        optimizer.curvature_step(lambda: net(x))
    else:
        take_step(way, optimizer, [lambda: net(x)])
    assert torch.equal(torch.get_rng_state(), after_one)
    if way == "curvature_step":
        net(x).backward()
        optimizer.step()
    assert error(products_held(optimizer, params), expected) < bound_of(way)


def buffers(net):
    return [buffer.detach().clone() for buffer in net.buffers()]


@pytest.mark.parametrize("way", WAYS)
def test_running_statistics_change_once_per_step(way):
    net, x = masked()
    twin, _ = masked()
    twin(x)
    optimizer = dp.AdaHessian(net.parameters(), lr=0.1, probe=probe_of(way))
    take_step(way, optimizer, [lambda: net(x)])
    assert all(torch.equal(a, b) for a, b in zip(buffers(net), buffers(twin), strict=True))
    assert optimizer.curvature_stats.products == 1


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("probe", PROBES)
def test_curvature_step_preserves_running_statistics(probe, answer):
    net, x = masked()
    net(x)
    before, held = buffers(net), list(net.buffers())
    optimizer = dp.AdaHessian(net.parameters(), lr=0.1, probe=probe)

    def closure():
        loss = net(x)
        if answer == "backward":
            loss.backward()
        return loss

    optimizer.curvature_step(closure)
    assert all(torch.equal(a, b) for a, b in zip(buffers(net), before, strict=True))
    assert all(a is b for a, b in zip(net.buffers(), held, strict=True))
    assert not net.norm._forward_pre_hooks
    evaluations = net.evaluations
    net(x)  # no hook remains
    assert net.evaluations == evaluations + 1


class Remembering(nn.Module):
    """Module that replaces its buffer with a new tensor."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))

    def forward(self):
        self.mean = 0.9 * self.mean + self.weight.detach()
        return (self.weight**4).sum()


@pytest.mark.parametrize("probe", PROBES)
def test_replaced_buffers_are_restored(probe):
    net = Remembering()
    optimizer = dp.AdaHessian(net.parameters(), lr=0.1, probe=probe)
    optimizer.curvature_step(net)
    assert torch.equal(net.mean, torch.zeros(2, dtype=torch.float64))
    optimizer = dp.AdaHessian(net.parameters(), lr=0.1, probe=probe)
    optimizer.step(lambda: _backward(net()))
    assert torch.equal(net.mean, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("probe", ["auto", "differences"])
def test_buffers_of_a_compiled_model_change_once_a_step(probe):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    compiled = torch.compile(model, backend="eager")
    opt = dp.Sophia(compiled.parameters(), probe=probe, update_d_every=2)
    x = torch.randn(6, 3)

    def closure():
        opt.zero_grad()
        loss = compiled(x).square().mean()
        loss.backward()
        return loss

    counts = []
    for _ in range(4):
        opt.step(closure)
        counts.append(int(model[1].num_batches_tracked))
    assert counts == [1, 2, 3, 4]


PLAIN = {"betas": (0.0, 0.0), "lr": 0.01}


@pytest.mark.parametrize("probe", ["auto", "differences"])
def test_gradients_of_other_leaves_keep_their_identity(probe):
    a, b = scalar_weights([1.0, 2.0], [3.0, 4.0])
    opt = dp.AdaHessian([a], **PLAIN, probe=probe)
    b.grad = held = torch.full_like(b, 7.0)
    opt.curvature_step(lambda: (a**2 * b).sum())  # noqa: PLW0108
    assert b.grad is held
    assert held.tolist() == [7.0, 7.0]
