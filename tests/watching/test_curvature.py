"""Curvature rows: eigenvalues in units of the edge of stability, or the reason why they are undefined."""

import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.curvature import eigenvalues, spectral_density, trace
from dashpot.errors import CurvatureError
from dashpot.watching import preconditioned_hessian
from dashpot.watching.curvature import CurvatureProbe
from dashpot.watching.probe import Moment
from dashpot.watching.rates import RateView

CURVATURES = torch.tensor([4.0, 1.0, 0.5, 0.1], dtype=torch.float64)


def quadratic(start=1.0):
    w = torch.full((4,), start, dtype=torch.float64, requires_grad=True)
    return w, lambda: (CURVATURES * w**2).sum() / 2


def first_gradient(w, loss):
    w.grad = None
    loss().backward()


def measured(optimizer, closure=None, model=None, probe=None, budget=1.0, **known):
    """Return the row of one measurement, before the step."""
    watcher = dp.watch(optimizer, model, budget=budget)
    watcher.close()
    moment = Moment(7, closure=closure, **known)
    (probe or CurvatureProbe(tolerance=1e-6)).before_step(watcher, moment)
    return watcher.record.rows("curvature").last


EDGES = {
    "plain": (lambda w: dp.SGD([w], 0.1), 2),
    "heavy-ball": (lambda w: dp.HeavyBall([w], 0.1, 0.8), 3.6),
    "nesterov": (lambda w: dp.NAG([w], 0.1, 0.8), 2 * 1.8 / 2.6),
    "decay": (lambda w: torch.optim.SGD([w], 0.1, weight_decay=0.5), 2),
}


@pytest.mark.parametrize("name", EDGES)
def test_ratio_equals_rate_times_curvature_over_edge(name):
    w, loss = quadratic()
    make, edge = EDGES[name]
    optimizer = make(w)
    first_gradient(w, loss)
    row = measured(optimizer, loss)
    top = 0.1 * (4 + (0.5 if name == "decay" else 0))
    assert row["edge"] == pytest.approx(edge)
    assert row["eigenvalues"] == pytest.approx([top], rel=1e-6)  # residual 1e-6
    assert row["ratio"] == pytest.approx(top / edge, rel=1e-6)
    assert row["sharpness"] == pytest.approx(4, rel=1e-6)
    assert (row["step"], row["reason"], row["full_batch"], row["route"]) == (7, None, False, "graph")


@pytest.mark.parametrize("lr_over_edge", [0.95, 1.05])
@pytest.mark.parametrize("name", ["plain", "heavy-ball", "nesterov", "rmsprop"])
def test_ratio_1_separates_stable_from_unstable(name, lr_over_edge):
    w, loss = quadratic()
    kinds = {
        "plain": lambda lr: dp.SGD([w], lr),
        "heavy-ball": lambda lr: dp.HeavyBall([w], lr, 0.8),
        "nesterov": lambda lr: dp.NAG([w], lr, 0.8),
        "rmsprop": lambda lr: torch.optim.RMSprop([w], lr, alpha=0.0, eps=1e12, momentum=0.8),  # d = eps is constant
    }
    scale = 1e12 if name == "rmsprop" else 1.0
    first_gradient(w, loss)
    at_1 = scale / measured(kinds[name](scale), loss)["ratio"]
    optimizer = kinds[name](at_1 * lr_over_edge)
    for _ in range(100):
        first_gradient(w, loss)
        optimizer.step()
    assert (float(loss().detach()) < 4e-3) == (lr_over_edge < 1)


def test_elementwise_rates_precondition_the_hessian():
    w, loss = quadratic()
    optimizer = torch.optim.Adam([w], lr=0.01)
    for _ in range(3):
        first_gradient(w, loss)
        optimizer.step()
    first_gradient(w, loss)
    rate = RateView(optimizer).tensor(0, w).rate
    row = measured(optimizer, loss)
    assert row["ratio"] == pytest.approx(float((rate * CURVATURES).max()) / 38, rel=1e-6)  # (2 + 2 beta)/(1 - beta)
    assert row["sharpness"] is None


def test_groups_with_different_edges_are_scaled_separately():
    a, b = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "momentum": 0.5}], lr=0.1)

    def loss():
        return (a**2).sum() / 2 + 2 * (b**2).sum()

    loss().backward()
    row = measured(optimizer, loss)
    assert row["ratio"] == pytest.approx(0.1 * 4 / 3)  # edge 2 (1 + 0.5)
    assert row["edge"] == 1
    assert "Groups have different edges" in row["notes"][0]


def test_maximized_loss_is_negated():
    w, loss = quadratic()
    optimizer = torch.optim.SGD([w], lr=0.1, maximize=True)
    first_gradient(w, loss)
    assert measured(optimizer, lambda: -loss())["eigenvalues"] == pytest.approx([0.4], rel=1e-6)


def test_probe_measures_a_slice_of_large_batches_with_note():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    x = torch.randn(40, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def sliced(first, last):
        return model(x[first:last]).square().mean()

    sliced(0, 40).backward()
    probe = CurvatureProbe(examples=16, iterations=100, tolerance=1e-4, full_batch=True)
    row = measured(optimizer, lambda: sliced(0, 40), model, probe, sliced=sliced, size=40, examples=40)
    assert (row["examples"], row["full_batch"]) == (16, False)
    assert "16 examples of a minibatch" in row["notes"][-2]
    assert "statistics of these examples" in row["notes"][-1]
    with preconditioned_hessian(optimizer, lambda: sliced(0, 16)) as h:
        assert row["ratio"] == pytest.approx(eigenvalues(h, tolerance=1e-4).values[0], rel=1e-3)  # residuals 1e-4
    halved = measured(optimizer, None, model, CurvatureProbe(), budget=0.03, sliced=sliced, size=40, examples=40)
    assert halved["examples"] == 32
    whole = CurvatureProbe(examples=64, full_batch=True)
    row = measured(optimizer, lambda: sliced(0, 40), model, whole, sliced=sliced, size=40, examples=40)
    assert (row["examples"], row["full_batch"], row["notes"]) == (40, True, [])


def test_error_of_the_closure_becomes_the_reason_and_restores_gradients():
    w, loss = quadratic()
    first_gradient(w, loss)
    kept = w.grad.clone()

    def failing():
        raise torch.OutOfMemoryError("out of memory\ndetails")

    assert (
        measured(torch.optim.SGD([w], lr=0.1), failing)["reason"]
        == "The measurement failed: OutOfMemoryError: out of memory."
    )
    assert torch.equal(w.grad, kept)


class Unknown(torch.optim.Optimizer):
    """A third-party method."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        pass


def test_undefined_curvature_has_a_reason_once():
    w, loss = quadratic()
    first_gradient(w, loss)
    watcher = dp.watch(torch.optim.SGD([w], lr=0.1), budget=1.0)
    watcher.close()
    probe = CurvatureProbe()
    for step in range(3):
        probe.before_step(watcher, Moment(step))
    assert len(watcher.record.rows("curvature")) == 1
    assert "requires a closure" in watcher.record.rows("curvature").last["reason"]
    unknown = measured(Unknown([w]), loss)
    assert (unknown["ratio"], "update rule" in unknown["reason"]) == (None, True)
    nonfinite = measured(torch.optim.SGD([w], lr=0.1), lambda: (w * float("inf")).square().sum())
    assert nonfinite["reason"] == "Hessian: the products are not finite."
    w.grad = None
    assert measured(torch.optim.SGD([w], lr=0.1), loss)["reason"] == "No parameter has a gradient."
    with pytest.raises(CurvatureError, match="update rule"), preconditioned_hessian(Unknown([w]), loss):
        pass


def test_trace_and_density_of_the_operator():
    w, loss = quadratic()
    optimizer = dp.SGD([w], 0.1)
    first_gradient(w, loss)
    with preconditioned_hessian(optimizer, loss) as h:
        assert trace(h, 2).value == pytest.approx(0.1 * 5.6 / 2)  # a diagonal matrix has variance 0
        assert spectral_density(h).share_below(0.1) == pytest.approx(0.75)  # 4 eigenvalues, all Ritz values exact


def test_watched_run_measures_curvature_and_changes_no_bit():
    def run(watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = dp.AdamW(model.parameters(), lr=0.01)
        watcher = dp.watch(optimizer, model, budget=1.0) if watched else None
        if watcher is not None:
            watcher.probes = [CurvatureProbe(every=3, iterations=3)]
        for _ in range(7):
            x = torch.randn(8, 3)

            def closure(x=x):
                return model(x).square().mean()

            optimizer.zero_grad()
            loss = closure()
            loss.backward()
            if watcher is not None:
                watcher.observe(loss, closure=closure, size=8)
            optimizer.step()
        return model, watcher

    (plain, _), (model, watcher) = run(False), run(True)
    assert [row["step"] for row in watcher.record.rows("curvature")] == [3, 6]
    for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
