"""`dashpot.verify` with equivalent optimizers: they agree, without side effects."""

from __future__ import annotations

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from verify_support import pairs, quick, tiny, verify_model

import dashpot as dp
from dashpot import tasks

EQUIVALENT = {
    "adam": (dp.Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (dp.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (dp.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "nadam": (dp.NAdam, torch.optim.NAdam, {}),
    "adagrad": (dp.Adagrad, torch.optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": (dp.RMSprop, torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
}


@pytest.mark.diagonal
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", EQUIVALENT)
def test_torch_counterparts_agree_and_exchange_checkpoints(method, dtype):
    ours, theirs, options = EQUIVALENT[method]
    result = verify_model(tiny(), partial(ours, lr=0.01, **options), partial(theirs, lr=0.01, **options), dtype=dtype)
    assert result.agrees, result
    assert [checkpoint.outcome for checkpoint in result.checkpoints] == ["agrees"] * 3
    assert result.checkpoints[-1].ulps == 0
    assert (result.compared, result.tolerance, result.first, result.settings) == (6, 16 * 6**0.5, None, ())
    assert result.dtype == str(dtype or torch.float32).removeprefix("torch.")


def model_with(kind: str) -> nn.Module:
    if kind == "batch norm and dropout":
        return tiny(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(inplace=True))
    model = tiny(nn.Tanh(), nn.Linear(4, 4))
    if kind == "tied":
        model.append(nn.Linear(2, 2))
        model.append(nn.Linear(2, 2))
        model[-1].weight = model[-2].weight
    elif kind == "frozen":
        model[0].requires_grad_(False)
    elif kind == "unused":
        model.unused = nn.Parameter(torch.ones(3))
    return model


class IgnoringUnused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = tiny(), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("kind", ["batch norm and dropout", "tied", "frozen", "unused"])
def test_verify_model_kinds(kind):
    model = IgnoringUnused() if kind == "unused" else model_with(kind)
    result = verify_model(model, dp.AdamW, torch.optim.AdamW)
    assert result.agrees, result
    assert {row.name for row in result.tensors} == {name for name, p in model.named_parameters() if p.requires_grad}
    assert result.losses[0] == pytest.approx(result.losses[1], rel=1e-4)  # same dropout masks on all copies


def test_verify_keeps_model_batches_and_random_state():
    model = model_with("batch norm and dropout").eval()
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    batches = pairs()
    kept = copy.deepcopy(batches)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    shuffled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batches[0]), batch_size=4, shuffle=True)
    dp.verify(dp.Adam, torch.optim.AdamW, model, batches=batches, loss=nn.functional.mse_loss, timed_steps=3)
    quick(dp.Adam, torch.optim.Adam, model, batches=shuffled, loss=nn.functional.mse_loss)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[0].weight.grad, torch.full((4, 3), 7.0))
    assert model[-1].weight.grad is None
    assert all(torch.equal(a, b) for old, new in zip(kept, batches, strict=True) for a, b in zip(old, new, strict=True))
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(states[0], now[0])
    assert states[1:] == now[1:]
    assert torch.get_default_dtype() == torch.float32


def test_verify_with_in_place_change_of_batches():
    model = nn.Sequential(nn.ReLU(inplace=True), *tiny())
    assert verify_model(model, dp.SGD, torch.optim.SGD).drift.relative < 1e-5


class ReturnsLoss(nn.Module):
    """Module that returns its loss or an output with a loss."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.inner, self.wrap = tiny(), wrap

    def forward(self, x, y=None):
        loss = self.inner(x).square().mean() if y is None else nn.functional.mse_loss(self.inner(x), y)
        return self.wrap(loss)


class Output:
    def __init__(self, loss) -> None:
        self.loss = loss


@pytest.mark.diagonal
@pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: {"loss": loss}, Output])
@pytest.mark.parametrize("form", [tuple, list, lambda pair: {"x": pair[0], "y": pair[1]}, lambda pair: pair[0]])
def test_verify_model_that_returns_loss(wrap, form):
    result = quick(dp.AdamW, torch.optim.AdamW, ReturnsLoss(wrap), steps=2, batches=[form(pair) for pair in pairs()])
    assert result.agrees


def test_verify_function_of_tensors():
    start = torch.tensor([1.0, -2.0])
    result = quick(dp.SGD, torch.optim.SGD, lambda w, b: (w * w).sum() + b, params=[start, torch.zeros(())])
    assert [row.name for row in sorted(result.tensors, key=lambda row: row.name)] == ["params.0", "params.1"]
    assert result.agrees
    assert start.tolist() == [1.0, -2.0]


def test_verify_problem():
    problem = tasks.get("noisy-quadratic", steps=3).build(seed=0)
    result = quick(dp.NAdam, torch.optim.NAdam, problem, steps=7)  # more steps than one epoch
    assert (result.agrees, result.compared) == (True, 7)


def test_verify_model_without_batches():
    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self):
            return self.w.square().sum()

    assert quick(dp.SGD, torch.optim.SGD, Quadratic()).agrees


def test_verify_complex_parameters():
    start = torch.tensor([1 + 2j, -1j])
    result = quick(dp.AdamW, torch.optim.AdamW, lambda w: w.abs().square().sum(), params=start)
    assert (result.agrees, result.dtype) == (True, "complex64")


def test_dtype_keeps_complex_and_integer_buffers():
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny(nn.BatchNorm1d(4))
            self.register_buffer("rotation", torch.polar(torch.ones(3), torch.arange(3.0)))

        def forward(self, x):
            assert (self.rotation.dtype, x.dtype) == (torch.complex64, torch.float64)
            assert self.inner[1].num_batches_tracked.dtype == torch.int64
            return self.inner((x * self.rotation).real.to(x.dtype))

    model = Rotation()
    assert verify_model(model, dp.Adam, torch.optim.Adam, dtype=torch.float64)
    assert model.inner[0].weight.dtype == torch.float32


@pytest.mark.parametrize("takes", ["parameters", "named_parameters", "model"])
def test_takes_selects_factory_argument(takes):
    def factory(cls):
        if takes == "model":
            return lambda model: cls(dp.param_groups(model, weight_decay=0.1))
        return cls

    result = verify_model(tiny(), factory(dp.AdamW), factory(torch.optim.AdamW), takes=takes)
    assert result.agrees, result


def test_verify_with_missing_gradients():
    class Alternating(nn.Module):
        """Module with two layers; each batch trains one of them."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([tiny(), tiny()])

        def forward(self, x):
            return self.layers[int(x[0, 0] > 0)](x)

    assert verify_model(Alternating(), dp.Adam, torch.optim.Adam).agrees


def test_sgm_without_curvature_shares_gradients():
    ours = partial(dp.SGM, lr=0.1, filter=dp.Filter(0.9, gain=1.0, normalise="none"))
    result = verify_model(tiny(), ours, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    assert (bool(result), result.shared_gradients) == (True, True)


def test_closures_and_products_run_independently():
    products = verify_model(tiny(), dp.Sophia, dp.Sophia, steps=2)
    assert (products.agrees, products.shared_gradients, products.drift) == (True, False, None)
    assert products.reference == "dashpot.Sophia (reference)"
    assert products.tolerance == pytest.approx(torch.finfo(torch.float32).eps ** -0.5)
    closures = verify_model(tiny(), *(partial(torch.optim.LBFGS, lr=lr, max_iter=2) for lr in (1.0, 0.5)), steps=2)
    assert (closures.agrees, closures.shared_gradients) == (False, False)


class ByClosure(torch.optim.SGD):
    """SGD with a mandatory closure; `rounding` ulps are added to the weights after each step."""

    rounding = 0

    def step(self, closure):
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.mul_(1 + self.rounding * torch.finfo(p.dtype).eps)
        return loss


class Rounding(ByClosure):
    rounding = 2


def test_float64_decides_if_training_amplifies_rounding():
    start = {"params": torch.tensor([0.5, 1.0, 1.5]), "steps": 8}
    amplifying = lambda w: (100 * w).sin().sum()  # noqa: E731  each step amplifies a difference about tenfold
    factories = [partial(cls, lr=1e-3) for cls in (ByClosure, Rounding)]
    result = quick(*factories, amplifying, **start)
    assert (result.agrees, result.dtype) == (True, "float64")
    assert "in float32, training amplifies rounding errors" in result.verdict
    assert not quick(*factories, amplifying, **start, tolerance=1000)
    assert not quick(factories[0], partial(Rounding, lr=1.001e-3), amplifying, **start)


def test_names_of_same_class_include_options():
    result = verify_model(tiny(), partial(dp.SGD, engine="eager"), partial(dp.SGD, engine="eager", nonfinite="skip"))
    assert result.optimizer == "dashpot.SGD(engine='eager')"
    assert result.reference == "dashpot.SGD(engine='eager', nonfinite='skip')"
    result = verify_model(tiny(), partial(torch.optim.SGD, foreach=True), torch.optim.SGD)
    assert (result.optimizer, result.reference) == ("torch.optim.SGD(foreach=True)", "torch.optim.SGD")
    assert verify_model(tiny(), dp.SGD, dp.SGD).reference == "dashpot.SGD (reference)"
