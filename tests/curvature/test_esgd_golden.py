"""ESGD against recorded runs of the original, with recorded and recomputed products."""

import pytest
import torch
from curvature.golden_problems import cases, loss_function, parameters_before, shaped, start

import dashpot as dp
from dashpot.optimizers import second_order_base as curvature_optimizer

CASES = pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
RECORDED = 1e-10  # relative tolerance stated with the recorded data
ROUTES = ("backward", "graph", "closure", "forward")


def optimizer_of(case, params, **changes):
    config = dict(case["config"]) | changes
    version = 2 if case["version"] == "v2" else 1
    distribution = "gaussian" if "gauss" in case["version"] else "rademacher"
    groups = [params]
    if case["groups"]:
        first, rest = case["groups"]
        groups = [{"params": params[:1], **first}, {"params": params[1:], **rest}]
    return dp.ESGD(groups[0] if not case["groups"] else groups, **config, version=version, distribution=distribution)


def assert_close(found, expected, message):
    for a, b in zip(found, expected, strict=True):
        assert ((a - b).abs() <= RECORDED * b.abs().clamp_min(1e-3)).all(), message


@CASES
def test_recorded_products_give_the_recorded_weights(case):
    problem, step = case["problem"], {}
    params = start(problem)
    opt = optimizer_of(case, params, probe=lambda weights, probes: shaped(step["hvp"], problem))
    for number, step in enumerate(case["steps"]):
        assert opt.should_create_graph() == (step["hvp"] is not None), f"step {number + 1}"
        for p, g in zip(params, shaped(step["grads"], problem), strict=True):
            p.grad = g
        opt.step()
        assert_close([p.detach() for p in params], shaped(step["params"], problem), f"weights, step {number + 1}")
        held = [opt.state[p]["hess_sq"] for p in params]
        assert_close(held, shaped(step["d_state"], problem), f"accumulator, step {number + 1}")


@pytest.mark.diagonal
@pytest.mark.parametrize("route", ROUTES)
@CASES
def test_recorded_probes_give_the_recorded_run(case, route, monkeypatch):
    problem, step = case["problem"], {}
    monkeypatch.setattr(curvature_optimizer, "draw_probes", lambda *_: shaped(step["draws"], problem))
    params, loss_of = start(problem), loss_function(problem)
    opt = optimizer_of(case, params, probe="auto" if route == "backward" else route)

    def closure():
        opt.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    for number, step in enumerate(case["steps"]):
        if route in ("closure", "forward"):
            loss = opt.step(closure)
        else:
            opt.zero_grad()
            loss = loss_of(params)
            if route == "graph":
                graph = opt.should_create_graph()
                grads = torch.autograd.grad(loss, params, create_graph=graph)
                for p, g in zip(params, grads, strict=True):
                    p.grad = g
            else:
                opt.backward(loss)
            opt.step()
        assert abs(loss.item() - step["loss"]) <= RECORDED * max(1, abs(step["loss"]))
        assert_close([p.detach() for p in params], shaped(step["params"], problem), f"weights, step {number + 1}")
        assert not any(p.grad.requires_grad for p in params)


def test_there_is_a_case_of_every_version():
    assert {case["version"] for case in cases()} == {"v1", "v1-gauss", "v2"}
    assert parameters_before(cases()[0])
