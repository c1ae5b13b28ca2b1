"""Memory remains constant on every route without the garbage collector: no graphs or reference cycles remain."""

import gc
from collections import Counter
from collections.abc import Mapping

import pytest
import torch
from curvature.second_order_support import EXACT_WAYS, WAYS, backward_with_graph, leaves, probe_of, take_step
from torch import nn

import dashpot as dp

METHODS = {"ESGD-1": (dp.ESGD, {}), "ESGD-2": (dp.ESGD, {"version": 2}), "Sophia": (dp.Sophia, {})}


@pytest.fixture
def no_collector():
    """Disable the garbage collector, and count only objects created afterwards."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()  # objects remain frozen, so that the next test does not traverse them again


def perceptron():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(10, 6), torch.randn(10, 2)

    def loss():
        return ((net(x) - y) ** 2).mean()

    return net, loss


def alive():
    """Count the objects tracked by the collector by type, including those in reference cycles; tuples, which Python
    caches, are excluded."""
    counts = Counter()  # Counter(iterable) would check all Mapping classes and cache the results
    for thing in gc.get_objects():
        if type(thing) is not tuple:
            counts[type(thing)] += 1
    return counts


def tensors_alive():
    counts = alive()
    return counts[torch.Tensor] + counts[nn.Parameter]


def resident():
    """Return the resident memory in bytes, or 0 if unknown."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def run(optimizer, way, steps, loss):
    for k in range(steps):
        take_step(way, optimizer, [loss] * (1 + (k % 8 == 0)))  # every eighth step has two micro-batches


def check_flat(way, steps, **settings):
    net, loss = perceptron()
    optimizer = dp.AdaHessian(net.parameters(), lr=0.01, probe=probe_of(way), **settings)
    run(optimizer, way, 20, loss)  # creates the state, the lists of parameters and the caches
    before, memory = alive(), resident()
    run(optimizer, way, steps, loss)
    grown = {kind: count for kind, count in (alive() - before).items() if count > steps // 4}
    assert optimizer.curvature_stats.products > steps // 8
    assert alive()[torch.Tensor] == before[torch.Tensor]
    assert grown == {}  # not even one object per two products
    return resident() - memory


@pytest.mark.parametrize("way", WAYS)
def test_memory_is_flat_over_40_steps(way, no_collector):
    check_flat(way, 40, update_d_every=2)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_memory_is_flat_over_2000_steps(way, no_collector):
    # If a graph of this network remained after each product, it would take about 10 kB, 10 MB in total.
    assert check_flat(way, 2000, update_d_every=2) < 4e6


@pytest.mark.parametrize("name", METHODS)
def test_memory_is_flat_for_every_method(name, no_collector):
    cls, settings = METHODS[name]
    net, loss = perceptron()
    optimizer = cls(net.parameters(), lr=0.01, d_warmup=5, update_d_every=2, **settings)
    run(optimizer, "backward", 10, loss)
    before = tensors_alive()
    run(optimizer, "backward", 40, loss)
    assert tensors_alive() == before


@pytest.mark.parametrize("way", WAYS)
def test_rejected_product_is_freed(way, no_collector):
    """A closure that raises an error leaves no graph and no copies."""
    net, loss = perceptron()
    optimizer = dp.AdaHessian(net.parameters(), lr=0.01, probe=probe_of(way))
    run(optimizer, way, 3, loss)
    before = None

    def failing():
        raise KeyError(1)

    for k in range(12):
        with pytest.raises(KeyError):
            take_step(way, optimizer, [loss, failing])
        optimizer.zero_grad()
        if k == 2:
            before = tensors_alive()
    assert tensors_alive() == before


@pytest.mark.parametrize("way", EXACT_WAYS)
def test_optimizer_and_parameters_are_freed(way, no_collector):
    before = tensors_alive()
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.01, probe=probe_of(way))
    for _ in range(3):
        take_step(way, optimizer, [lambda params=params: sum((p**4).sum() for p in params)])
    del params
    optimizer.param_groups.clear()
    optimizer.state.clear()
    del optimizer
    gc.collect()  # reference cycles are allowed within the optimizer, but not for tensors outside
    assert tensors_alive() <= before


def test_object_count_includes_reference_cycles(no_collector):
    """The reference cycle of parameter, gradient and graph in torch is detected."""
    before = tensors_alive()
    for _ in range(5):
        (w,) = leaves((3,))
        backward_with_graph((w**4).sum(), True)
    del w
    assert tensors_alive() >= before + 5


def test_counting_does_not_change_the_count(no_collector):
    """Python caches negative isinstance checks per abstract class, which must not affect the count."""
    kinds = [type(f"Mapping{k}", (Mapping,), {}) for k in range(60)]
    before = alive()
    grown = {kind: count for kind, count in (alive() - before).items() if count > len(kinds) // 2}
    assert grown == {}
