"""The learning-rate range test: its curve, what it suggests, and that it leaves no trace."""

from __future__ import annotations

import copy
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from learner_support import learner, problem, same, weights
from torch import nn

import dashpot as dp
from dashpot.constraints import POSITIVE, Interval
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine
from dashpot.training import Callback, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.lr_finder import LRCurve, find_lr
from dashpot.utils.rng_state import random_state


def curve_of(function, start=1e-5, end=10.0, points=200):
    lrs = np.geomspace(start, end, points)
    return LRCurve(lrs.tolist(), [float(function(lr)) for lr in lrs], "by hand")


def test_the_steepest_descent_of_a_sigmoid_is_its_middle():
    # L = 2 - 1 / (1 + (m / lr)^2) falls fastest over log lr at lr = m; a moving average of a symmetric fall keeps that.
    curve = curve_of(lambda lr: 2 - 1 / (1 + (0.003 / lr) ** 2))
    step = (10 / 1e-5) ** (1 / 199)
    assert 0.003 / step <= curve.suggest().steepest <= 0.003 * step


def test_a_tenth_of_the_rate_of_the_lowest_loss():
    curve = curve_of(lambda lr: (math.log10(lr) + 1) ** 2)  # lowest at 0.1
    step = (10 / 1e-5) ** (1 / 199)
    assert 0.01 / step <= curve.suggest().minimum <= 0.01 * step
    assert curve.suggest().steepest < 0.1


def test_noise_moves_the_suggestions_little():
    draw = np.random.default_rng(0)
    curve = curve_of(lambda lr: 2.3 - 1.5 / (1 + (0.01 / lr) ** 1.5) + lr**2 + 0.02 * draw.standard_normal(), points=53)
    assert 0.003 < curve.suggest().steepest < 0.03
    assert 0.005 < curve.suggest().minimum < 0.05


def test_what_lies_beyond_the_minimum_does_not_count():
    losses = [2.0] * 10 + [1.9] * 10 + [1.0] * 10 + [5.0] * 10 + [1.5] * 10  # the steepest fall is the last one
    curve = LRCurve(np.geomspace(1e-5, 1, 50).tolist(), losses, "by hand")
    assert 1e-3 < curve.suggest().steepest < 1e-2


def test_a_loss_that_never_falls_suggests_nothing():
    curve = curve_of(lambda lr: 1 + lr)
    assert curve.suggest() == (None, None)
    assert "did not decrease" in curve.text()
    assert LRCurve([1e-5], [2.0], "by hand").suggest() == (None, None)
    assert "did not decrease" in str(LRCurve([1e-5], [2.0], "by hand"))


def test_smoothing_spans_a_factor_of_three():
    lrs = [1e-3 * 1.3**i for i in range(9)]
    losses = [0.0] * 4 + [1.0] + [0.0] * 4
    assert LRCurve(lrs, losses, "").smoothed == pytest.approx([0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0])  # 1.3^4 = 2.86


def test_its_rates_and_losses_are_those_of_a_loop_by_hand():
    for make in (torch.optim.SGD, dp.SGD):
        torch.manual_seed(3)
        one = learner(make, lr=0.5)
        model = copy.deepcopy(one.model)
        curve = find_lr(one, 1e-3, 1.0, factor=1.3)
        torch.manual_seed(3)
        opt, lrs, losses = torch.optim.SGD(model.parameters(), lr=1e-3), [], []
        model.train()
        for i in range(27):
            x, y = list(one.train.source.epoch(i // 3))[i % 3]  # three batches an epoch: the data begin again
            loss = nn.functional.cross_entropy(model(x), y)
            opt.param_groups[0]["lr"] = 1e-3 * 1.3**i
            lrs.append(opt.param_groups[0]["lr"])
            losses.append(loss.item())
            opt.zero_grad()
            loss.backward()
            opt.step()
        assert curve.lrs == lrs[: len(curve.lrs)]
        assert len(curve.lrs) == 27  # 1.3^26 < 1000 < 1.3^27
        assert curve.losses == pytest.approx(losses, rel=1e-6)  # two implementations of SGD in float32
        assert curve.ended == "last rate reached"


def test_steps_in_place_of_a_factor():
    curve = find_lr(learner(), 1e-4, 1e-2, steps=5)
    assert curve.lrs == pytest.approx([1e-4 * 10 ** (i / 2) for i in range(5)], rel=1e-12)


def scripted(*losses):
    """A learner whose losses are these numbers, one after the other."""
    rest = iter(losses)
    data = problem()
    return Learner(
        data.model,
        data.train,
        data.evaluation,
        loss=lambda output, y: output.sum() * 0 + next(rest),
        optimizer=dp.SGD,
        lr=0.1,
        engine=Engine("cpu"),
    )


@pytest.mark.parametrize(
    ("losses", "stop_at", "kept"),
    [
        ((2.0, 1.0, 2.9, 12.2, 1.0), 3.0, 3),  # means 2, 1.5, 1.97, 4.53, of five rates at most
        ((2.0, 1.0, 1.9, 7.2, 1.0), 2.0, 3),
        ((9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.9, 1.0, 1.0, 1.0, 1.0, 30.0), 3.0, 11),  # one that is hard by chance
        ((2.0, math.nan, 1.0), 3.0, 1),
        ((2.0, 1.0, math.inf), 3.0, 2),
        ((-1.0, -2.0, 1.9, 7.2, 0.0), 3.0, 3),  # 3 times the way from the lowest mean, -1.5, to 0: up to 1.5
    ],
)
def test_it_ends_where_the_loss_grows_or_is_not_finite(losses, stop_at, kept):
    curve = find_lr(scripted(*losses), stop_at=stop_at)
    assert curve.losses == pytest.approx(losses[:kept])
    assert len(curve.lrs) == kept
    assert "loss" in curve.ended


def test_not_one_step():
    with pytest.raises(RunError, match="no step could be taken: loss is nan"):
        find_lr(scripted(math.nan))


# ---- everything is put back -----------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """A layer with a buffer that is not saved, and one that it replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        self.last = x.detach().mean()
        return x


def everything(one):
    """All that a range test could change, as values to compare."""
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


class Explodes(Callback):
    def __init__(self, error, event):
        self.error, self.event = error, event
        setattr(self, event, self._fail)

    def _fail(self, learner, *_):
        if learner.batch.index == 1:
            raise self.error


def prepared(kind, precision="fp32"):
    data = problem()
    data.model.append(Noisy())
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


@pytest.mark.parametrize("kind", ["factory", "made", "torch", "second order"])
@pytest.mark.parametrize("fitted", [False, True], ids=["fresh", "fitted"])
@pytest.mark.parametrize(
    "end", [None, (ValueError("told to"), "after_predict"), (KeyboardInterrupt(), "after_backward")], ids=str
)
def test_it_leaves_no_trace(kind, fitted, end):
    torch.manual_seed(5)
    one = prepared(kind)
    if fitted:
        one.fit(2)
        one.model[0].weight.grad = torch.ones_like(one.model[0].weight)
    else:
        one._module = one.engine.setup(one.model)
    before, recorded = everything(one), copy.deepcopy(one._callbacks[0]._values)
    if end is None:
        assert len(find_lr(one, 1e-4, 1e-1).losses) > 5
    else:
        with pytest.raises(type(end[0])):
            find_lr(one, 1e-4, 1e-1, callbacks=[Explodes(*end)])
    after = everything(one)
    assert [name for name in before if not equal(before[name], after[name])] == []
    assert one._callbacks[0]._values == recorded
    assert one.model[0].weight.requires_grad


def test_training_after_it_is_as_without_it():
    results = []
    for look in (False, True):
        torch.manual_seed(5)
        random.seed(5)
        one = prepared("made")
        if look:
            find_lr(one)
        one.fit(2)
        results.append((weights(one), one.history, one._callbacks[0].values))
    assert same(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_the_schedule_of_an_optimizer_is_off():
    seen = Recorder("lr", "betas[0]")

    def make(params, lr):
        return dp.Adam(params, lr=lr, schedule={"lr": Cosine(5), "betas[0]": Cosine(5)})

    curve = find_lr(learner(make), 1e-4, 1e-3, callbacks=[seen])
    assert seen.values["lr"] == curve.lrs
    assert set(seen.values["betas[0]"]) == {0.9}


def test_groups_keep_their_ratio():
    seen = Recorder("lr", "lr:1")
    data = problem()
    first, *others = data.model.parameters()
    opt = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others, "lr": 0.05}])
    curve = find_lr(Learner.of(data, opt, engine=Engine("cpu")), 1e-4, 1e-3, callbacks=[seen])
    assert seen.values["lr"] == curve.lrs
    assert seen.values["lr:1"] == pytest.approx([lr / 10 for lr in curve.lrs])


def test_accumulation_looks_at_whole_steps():
    one = learner(dp.SGD, batch_size=2)  # five batches an epoch: steps of 2, 2 and 1
    seen = Recorder()
    curve = find_lr(one, 1e-3, 1.0, steps=7, callbacks=[Accumulate(2), seen])
    assert curve.losses == pytest.approx(seen.values["loss"], rel=1e-6)
    assert not hasattr(one, "loop")


def test_fp16_takes_skipped_steps_again():
    one = learner(dp.SGD, engine=Engine("cpu", precision="fp16"))
    one.engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)  # too much for half precision: it has to fall
    curve = find_lr(one, 1e-4, 1e-2, steps=6)
    assert len(curve.losses) == 6
    assert curve.lrs[0] == 1e-4
    assert one.engine.scaler.state_dict()["scale"] == 2.0**26


def test_steps_that_are_skipped_for_ever_end_it():
    class Skips(Callback):
        def step(self, learner, proceed):
            learner.batch.stepped = False

    with pytest.raises(RunError, match="32 consecutive steps were skipped"):
        find_lr(learner(), callbacks=[Skips()])


def test_what_makes_the_optimizer_is_given_a_rate_if_it_takes_one():
    data = problem()
    for make in (dp.SGD, lambda params: dp.SGD(params, lr=0.3), partial(dp.SGD, weight_decay=0.1)):
        assert find_lr(Learner.of(data, make, engine=Engine("cpu")), 1e-4, 1e-3).lrs[0] == 1e-4


def test_it_is_drawn():
    curve = find_lr(learner(), 1e-4, 1.0)
    figure = curve.plot()
    assert [trace.name.split(":")[0] for trace in figure.data][:2] == ["loss", "smoothed"]
    assert figure.layout.xaxis.type == "log"
    lines = curve.text(width=40, height=8).splitlines()
    assert sum("*" in line for line in lines[:8]) >= 1
    assert max(map(len, lines[:10])) <= 11 + 40
    assert lines[-1].startswith("The test ended at")


def test_bad_arguments():
    one = learner()
    for value in POSITIVE.refused():
        with pytest.raises(ArgumentError, match="find_lr: start must be"):
            find_lr(one, start=value)
    for value in (1e-5, 0.0, math.nan, "1"):
        with pytest.raises(ArgumentError, match="find_lr: end must be a number in"):
            find_lr(one, end=value)
    for name in ("factor", "stop_at"):
        for value in (1.0, 0.5, math.nan, "2"):
            with pytest.raises(ArgumentError, match=f"find_lr: {name} must be"):
                find_lr(one, **{name: value})
    for value in Interval(2, math.inf, "left", integer=True).refused():
        if value is not None:
            with pytest.raises(ArgumentError, match="find_lr: steps must be"):
                find_lr(one, steps=value)
    with pytest.raises(ArgumentError, match="factor must be None if steps is given"):
        find_lr(one, factor=2.0, steps=5)
