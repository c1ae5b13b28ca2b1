"""Restoration of the learner after the learning-rate range test."""

from __future__ import annotations

import copy
import random
from typing import Any, cast

import pytest
import torch
from learner_support import problem, same, weights
from slow_values import others_slow
from torch import nn

import dashpot as dp
from dashpot.schedules import Cosine
from dashpot.training import Callback, Engine, Learner, Recorder, find_lr
from dashpot.utils.rng_state import random_state


class BufferLayer(nn.Module):
    """Layer with a non-persistent buffer and a buffer that `forward` replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        self.last = x.detach().mean()
        return x


def snapshot(one):
    """Return copies of all values that a range test could change."""
    opt = one.opt
    return copy.deepcopy(
        {
            "attributes": {name: id(value) for name, value in vars(one).items()},
            "history": one.history,
            "callbacks": list(map(id, one._callbacks)),
            "model": dict(one.model.state_dict()),
            "buffers": dict(one.model.named_buffers()),
            "grads": [p.grad for p in one.model.parameters()],
            "modes": [m.training for m in one.model.modules()],
            "optimizer": None if opt is None else opt.state_dict(),
            "schedule": repr(getattr(opt, "schedule", None)),
            "scaler": None if one.engine.scaler is None else one.engine.scaler.state_dict(),
            "random": random_state(),
            "data": one.train.state_dict(),
        }
    )


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a is b or a == b or repr(a) == repr(b)


class RaiseAt(Callback):
    def __init__(self, error, event):
        self.error, self.event = error, event
        setattr(self, event, self._fail)

    def _fail(self, learner, *_):
        if learner.batch.index == 1:
            raise self.error


def prepared(kind, precision="fp32"):
    data = problem()
    data.model.append(BufferLayer())
    data.model[1].eval()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data.train.x, data.train.y), 4, shuffle=True, generator=torch.Generator()
    )
    make = {
        "factory": lambda: dp.AdamW,
        "made": lambda: dp.Adam(data.model.parameters(), lr=0.01, schedule=Cosine(100)),
        "torch": lambda: torch.optim.Adam(data.model.parameters(), lr=0.01),
        "second order": lambda: dp.ESGD(data.model.parameters(), lr=0.01),
    }[kind]()
    shape = {"loss": data.loss, "metrics": data.metrics, "engine": Engine("cpu", precision=precision)}
    lr = 0.01 if kind == "factory" else None
    return Learner(data.model, loader, data.evaluation, optimizer=make, lr=lr, callbacks=[Recorder("lr")], **shape)


@pytest.mark.diagonal
@pytest.mark.parametrize("kind", ["factory", "made", "torch", "second order"])
@pytest.mark.parametrize("fitted", [False, True], ids=["fresh", "fitted"])
@pytest.mark.parametrize(
    "end", [None, (ValueError("expected"), "after_predict"), (KeyboardInterrupt(), "after_backward")], ids=str
)
def test_everything_is_restored(kind, fitted, end):
    torch.manual_seed(5)
    one = prepared(kind)
    if fitted:
        one.fit(2)
        one.model[0].weight.grad = torch.ones_like(one.model[0].weight)
    else:
        one._module = one.engine.setup(one.model)
    before, recorded = snapshot(one), copy.deepcopy(one._callbacks[0]._values)
    if end is None:
        assert len(find_lr(one, 1e-4, 1e-1).losses) > 5
    else:
        with pytest.raises(type(end[0])):
            find_lr(one, 1e-4, 1e-1, callbacks=[RaiseAt(*end)])
    after = snapshot(one)
    assert [name for name in before if not equal(before[name], after[name])] == []
    assert one._callbacks[0]._values == recorded
    assert one.model[0].weight.requires_grad


def test_later_training_is_unchanged():
    results = []
    for search in (False, True):
        torch.manual_seed(5)
        random.seed(5)
        one = prepared("made")
        if search:
            find_lr(one)
        one.fit(2)
        results.append((weights(one), one.history, one._callbacks[0].values))
    assert same(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


# ---- optimizer state ------------------------------------------------------------------------------------------------


class Float32State(torch.optim.Optimizer):
    """Optimizer with float32 state for weights of any dtype: per parameter, in a list, and outside of parameters."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None):
        count = cast(Any, self.state).setdefault("all", {"count": torch.zeros(())})["count"]
        count.add_(1)
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state.update(mean=torch.zeros_like(p, dtype=torch.float32), more=[torch.zeros(2)])
            state["mean"].mul_(0.9).add_(p.grad.float())
            state["more"][0].add_(1 / 3)
            p.add_(state["mean"].to(p.dtype), alpha=-self.param_groups[0]["lr"])


TORCH_OPTIMIZERS = ["ASGD", "Adafactor", "AdamW", "NAdam", "RMSprop", "Rprop", "SGD"]


@pytest.mark.parametrize(
    "make",
    others_slow(
        [Float32State, *(getattr(torch.optim, name) for name in TORCH_OPTIMIZERS), dp.NAdam, dp.AdamW, dp.ESGD],
        *(Float32State, torch.optim.AdamW, torch.optim.SGD, dp.AdamW),
    ),
    ids=lambda make: f"{make.__module__.partition('.')[0]}-{make.__name__}",
)
def test_optimizer_state_is_restored_in_its_dtypes(make):
    after = []
    for search in (False, True):
        torch.manual_seed(5)
        data = problem(dtype=torch.bfloat16)
        opt = make(data.model.parameters(), lr=0.01)
        one = Learner.of(data, opt, engine=Engine("cpu"))
        one.fit(1)
        before = copy.deepcopy(opt.state_dict())
        if search:
            find_lr(one, 1e-4, 1e-1)
            assert equal(before, opt.state_dict())
        loss = data.model(cast(Any, data.train).x).square().mean()
        opt.backward(loss) if hasattr(opt, "backward") else loss.backward()
        opt.step()  # without a fit, because a fit would read the optimizer again
        after.append([p.detach().clone() for p in data.model.parameters()])
    assert equal(*after)
