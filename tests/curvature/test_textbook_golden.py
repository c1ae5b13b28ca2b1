"""Textbook implementations against recorded runs, torch and closed forms."""

import pytest
import torch
from curvature import golden_problems as problems
from curvature.textbook import AdaHessian, ESGDVersion1, ESGDVersion2, SophiaH, spatial_average

CASES = [pytest.param(case, id=case["id"]) for case in problems.cases()]
SCHEDULE = ("update_d_every", "d_warmup")  # product schedule, taken from the recording


def error(got, expected):
    """Return the largest error relative to max(|expected|, 1e-3), where 1e-3 is for entries near zero."""
    pairs = zip(got, expected, strict=True)
    return max(((x - e).abs() / e.abs().clamp_min(1e-3)).max().item() for x, e in pairs)


def textbooks(case, params):
    """Return one ESGD per group; if there are two groups, the first contains only the first parameter."""
    method = ESGDVersion2 if case["version"] == "v2" else ESGDVersion1
    groups = [params] if case["groups"] is None else [params[:1], params[1:]]
    settings = [case["config"] | overrides for overrides in case["groups"] or [{}]]
    return [
        method(group, **{name: value for name, value in setting.items() if name not in SCHEDULE})
        for group, setting in zip(groups, settings, strict=True)
    ]


def step(methods, grads, product):
    """Take one step of all groups and return all parameters."""
    after, first = [], 0
    for method in methods:
        mine = slice(first, first + len(method.params))
        after += method.step(grads[mine], None if product is None else tuple(part[mine] for part in product))
        first = mine.stop
    return after


def products(recorded, problem):
    """Return (draws, products) of a recorded step, or None without a product."""
    if recorded["draws"] is None:
        return None
    return problems.shaped(recorded["draws"], problem), problems.shaped(recorded["hvp"], problem)


@pytest.mark.parametrize("case", CASES)
def test_esgd_matches_the_recorded_run_from_gradients_and_products(case):
    problem = case["problem"]
    methods = textbooks(case, problems.start(problem))
    for recorded in case["steps"]:
        params = step(methods, problems.shaped(recorded["grads"], problem), products(recorded, problem))
        squares = [D for method in methods for D in method.D]
        # 1e-12 (largest measured: 6.4e-13): there are up to 42 steps with a few rounding errors each, some entries near
        # zero, and 1 - b^t is computed from a power here but from a running product in the recording. The inputs are
        # recorded, so that errors do not feed back.
        assert error(params, problems.shaped(recorded["params"], problem)) < 1e-12
        # D is a sum of positive terms, so nothing cancels, and even small entries are accurate to a few roundings.
        expected = problems.shaped(recorded["d_state"], problem)
        assert all(torch.allclose(D, e, rtol=1e-12, atol=0) for D, e in zip(squares, expected, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_rebuilt_loss_has_the_recorded_values_gradients_and_products(case):
    problem = case["problem"]
    loss = problems.loss_function(problem)
    for recorded, params in zip(case["steps"], problems.parameters_before(case), strict=True):
        product = products(recorded, problem)
        value, grads, hvp = problems.derivatives(loss, params, None if product is None else product[0])
        # 1e-12: the arithmetic is the same, but sums of at most 7 or 16 terms may be in a different order.
        assert value.item() == pytest.approx(recorded["loss"], rel=1e-12)
        assert error(grads, problems.shaped(recorded["grads"], problem)) < 1e-12
        if product is not None:
            assert error(hvp, product[1]) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_esgd_matches_the_recorded_run_from_draws(case):
    problem = case["problem"]
    loss = problems.loss_function(problem)
    params = problems.start(problem)
    methods = textbooks(case, params)
    for recorded in case["steps"]:
        draws = None if recorded["draws"] is None else problems.shaped(recorded["draws"], problem)
        _, grads, hvp = problems.derivatives(loss, [p.requires_grad_() for p in params], draws)
        params = step(methods, grads, None if draws is None else (draws, hvp))
        # 1e-10, the tolerance of the recordings: here errors feed back through the gradients.
        assert error(params, problems.shaped(recorded["params"], problem)) < 1e-10


@pytest.mark.parametrize("case", CASES)
def test_products_were_recorded_on_the_documented_schedule(case):
    every, warmup = case["config"].get("update_d_every", 10), case["config"].get("d_warmup", 20)
    last, expected = 0, []
    for k in range(len(case["steps"])):
        if k < warmup or k - last >= every:
            expected.append(k)
            last = k
    assert [k for k, recorded in enumerate(case["steps"]) if recorded["draws"] is not None] == expected


def random_run(shapes, steps, seed=0):
    """Return initial parameters, and gradients and Rademacher probes per step."""
    draw = torch.Generator().manual_seed(seed)

    def normals():
        return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]

    return normals(), [(normals(), [x.sign() for x in normals()]) for _ in range(steps)]


def test_adahessian_with_the_gradient_as_diagonal_is_adamw():
    params, run = random_run([(3, 2), (4,)], 30)
    ours = AdaHessian(params, lr=0.1, betas=(0.9, 0.99), eps=1e-4, weight_decay=0.2)
    theirs = [p.clone().requires_grad_() for p in params]
    adamw = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.99), eps=1e-4, weight_decay=0.2)
    for grads, probes in run:
        got = ours.step(grads, (probes, [v * g for v, g in zip(probes, grads, strict=True)]))
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        adamw.step()
        assert error(got, [p.detach() for p in theirs]) < 1e-12  # as many rounding errors as above


def test_adahessian_first_steps_by_hand():
    # t = 1: m^ = 2, root of D^ = 9, to the power 1/2 = 3; t = 2 without a product: the same denominator.
    method = AdaHessian([torch.ones(1)], lr=0.5, betas=(0.5, 0.9), eps=1.0, hessian_power=0.5)
    (first,) = method.step([torch.tensor([2.0])], ([torch.tensor([-1.0])], [torch.tensor([9.0])]))
    assert first.item() == pytest.approx(1 - 0.5 * 2 / (3 + 1), rel=1e-15)
    (second,) = method.step([torch.tensor([5.0])])  # m = 0.5 + 0.5 * ... = 3, m^ = 3 / 0.75 = 4
    assert second.item() == pytest.approx(0.75 - 0.5 * 4 / (3 + 1), rel=1e-15)


def test_spatial_average_covers_the_window_of_a_convolution_and_signs_matter():
    z = torch.tensor([1.0, -3.0, 5.0, 1.0], dtype=torch.float64)
    assert torch.equal(spatial_average(z.reshape(1, 1, 2, 2), "signed"), torch.ones(1, 1, 2, 2).double())
    assert torch.equal(spatial_average(z.reshape(1, 1, 2, 2), "absolute"), torch.full((1, 1, 2, 2), 2.5).double())
    assert torch.equal(spatial_average(z.reshape(1, 2, 2), "signed").flatten(), torch.tensor([-1.0, -1, 3, 3]).double())
    for whole in (z.reshape(2, 2), z):
        assert spatial_average(whole, "signed") is whole
    assert spatial_average(z.reshape(1, 1, 2, 2), "none").flatten().equal(z)


def test_sophia_with_constant_gradient_and_curvature_has_a_closed_form():
    # m = (1 - b1^t) g and d = (1 - b2^t) c. The steps of the four entries are unclipped, clipped, clipped because of
    # negative curvature, and zero.
    g = torch.tensor([0.01, 4.0, -0.1, 0.0], dtype=torch.float64)
    c = torch.tensor([7.0, 2.0, -3.0, 1.0], dtype=torch.float64)
    b1, b2, gamma, lr, wd = 0.8, 0.9, 0.5, 0.1, 0.3
    method = SophiaH([torch.ones(4)], lr=lr, betas=(b1, b2), gamma=gamma, weight_decay=wd)
    v, w = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.ones(4, dtype=torch.float64)
    for t in range(1, 20):
        ratio = (1 - b1**t) * g[0] / (gamma * (1 - b2**t) * c[0])
        assert ratio < 1  # the first entry is not clipped
        w = w * (1 - lr * wd) - lr * torch.stack([ratio, torch.tensor(1.0), torch.tensor(-1.0), torch.tensor(0.0)])
        assert error(method.step([g], ([v], [v * c])), [w]) < 1e-12


def test_sophia_as_in_the_first_version_of_its_paper():
    # clipped to [-rho, rho] after division by max(d, eps'), as stated in the docstring
    params, run = random_run([(5,)], 40)
    rho, lr, eps, wd = 0.3, 0.05, 1e-3, 0.1
    method = SophiaH(params, lr=rho * lr, gamma=rho, eps=rho * eps, weight_decay=wd / rho)
    (w,), m, d = params, 0.0, 0.0
    for (g,), (v,) in run:
        hv = v * torch.tensor([4.0, 1.0, 0.5, -1.0, 20.0])
        m, d = 0.96 * m + 0.04 * g, 0.99 * d + 0.01 * v * hv
        w = w * (1 - lr * wd) - lr * (m / torch.clamp(d, min=eps)).clamp(-rho, rho)
        assert error(method.step([g], ([v], [hv])), [w]) < 1e-12


@pytest.mark.parametrize("method", [ESGDVersion1, ESGDVersion2, AdaHessian, SophiaH])
def test_tensor_is_not_updated_before_its_first_product(method):
    params, run = random_run([(2,), (3,)], 3)
    oracle = method(params, lr=0.1)
    (grads, probes), *_ = run
    assert all(torch.equal(a, b) for a, b in zip(oracle.step(grads), params, strict=True))
    after = oracle.step([grads[0], None], (probes, probes))
    assert not torch.equal(after[0], params[0])
    assert torch.equal(after[1], params[1])
    assert (oracle.steps, oracle.products) == ([2, 1], [1, 0])
