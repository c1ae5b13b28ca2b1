"""Learning-rate range test: rates, losses, end conditions and arguments."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from learner_support import At, learner, on_batch, problem, raise_if
from torch import nn

import dashpot as dp
from dashpot.constraints import POSITIVE, Interval
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine
from dashpot.training import Accumulate, Callback, CancelBatch, Engine, Learner, Recorder, find_lr


def test_rates_and_losses_equal_those_of_a_plain_loop():
    for make in (torch.optim.SGD, dp.SGD):
        torch.manual_seed(3)
        one = learner(make, lr=0.5)
        model = copy.deepcopy(one.model)
        curve = find_lr(one, 1e-3, 1.0, factor=1.3)
        torch.manual_seed(3)
        opt, lrs, losses = torch.optim.SGD(model.parameters(), lr=1e-3), [], []
        model.train()
        for i in range(27):
            x, y = list(one.train.source.epoch(i // 3))[i % 3]  # three batches per epoch: the data are repeated
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


def test_steps_replace_factor():
    curve = find_lr(learner(), 1e-4, 1e-2, steps=5)
    assert curve.lrs == pytest.approx([1e-4 * 10 ** (i / 2) for i in range(5)], rel=1e-12)


def scripted_losses(*losses):
    """Return a learner whose losses are the given numbers, in order."""
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
        ((2.0, 1.0, 2.9, 12.2, 1.0), 3.0, 3),  # means 2, 1.5, 1.97, 4.53, over at most five rates
        ((2.0, 1.0, 1.9, 7.2, 1.0), 2.0, 3),
        ((9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.9, 1.0, 1.0, 1.0, 1.0, 30.0), 3.0, 11),  # a single outlier
        ((2.0, math.nan, 1.0), 3.0, 1),
        ((2.0, 1.0, math.inf), 3.0, 2),
        ((-1.0, -2.0, 1.9, 7.2, 0.0), 3.0, 3),  # limit: lowest mean -1.5 + 2 |-1.5| = 1.5
    ],
)
def test_ends_if_loss_grows_or_is_not_finite(losses, stop_at, kept):
    curve = find_lr(scripted_losses(*losses), stop_at=stop_at)
    assert curve.losses == pytest.approx(losses[:kept])
    assert len(curve.lrs) == kept
    assert "loss" in curve.ended


def test_raises_if_no_step_is_taken():
    with pytest.raises(RunError, match="no step could be taken: loss is nan"):
        find_lr(scripted_losses(math.nan))


def test_optimizer_schedule_is_disabled():
    seen = Recorder("lr", "betas[0]")

    def make(params, lr):
        return dp.Adam(params, lr=lr, schedule={"lr": Cosine(5), "betas[0]": Cosine(5)})

    curve = find_lr(learner(make), 1e-4, 1e-3, callbacks=[seen])
    assert seen.values["lr"] == curve.lrs
    assert set(seen.values["betas[0]"]) == {0.9}


def test_group_rates_keep_their_ratio():
    seen = Recorder("lr", "lr:1")
    data = problem()
    first, *others = data.model.parameters()
    opt = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others, "lr": 0.05}])
    curve = find_lr(Learner.of(data, opt, engine=Engine("cpu")), 1e-4, 1e-3, callbacks=[seen])
    assert seen.values["lr"] == curve.lrs
    assert seen.values["lr:1"] == pytest.approx([lr / 10 for lr in curve.lrs])


def test_losses_are_those_of_accumulated_steps():
    one = learner(dp.SGD, batch_size=2)  # five batches per epoch, in steps of 2, 2 and 1
    seen = Recorder()
    curve = find_lr(one, 1e-3, 1.0, steps=7, callbacks=[Accumulate(2), seen])
    assert curve.losses == pytest.approx(seen.values["loss"], rel=1e-6)
    assert not hasattr(one, "loop")


@pytest.mark.parametrize("batches", [(0,), (2,), (1,), (0, 2)], ids=str)
def test_losses_exclude_cancelled_microbatches(batches):
    seen = Recorder()
    one = learner(dp.SGD, batch_size=2)  # five batches per epoch, in steps of 2, 2 and 1
    without = At("before_batch", raise_if(CancelBatch, on_batch(*batches)), -1)
    curve = find_lr(one, 1e-3, 1e-2, steps=7, stop_at=1e3, callbacks=[Accumulate(2), without, seen])
    assert len(curve.losses) == 7
    assert curve.losses == pytest.approx(seen.values["loss"], rel=1e-6)


def test_fp16_repeats_skipped_steps():
    one = learner(dp.SGD, engine=Engine("cpu", precision="fp16"))
    one.engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)  # overflows until the scale has decreased
    curve = find_lr(one, 1e-4, 1e-2, steps=6)
    assert len(curve.losses) == 6
    assert curve.lrs[0] == 1e-4
    assert one.engine.scaler.state_dict()["scale"] == 2.0**26


def test_ends_after_consecutive_skipped_steps():
    class SkipSteps(Callback):
        def step(self, learner, proceed):
            learner.batch.stepped = False

    with pytest.raises(RunError, match="32 consecutive steps were skipped"):
        find_lr(learner(), callbacks=[SkipSteps()])


def test_factory_gets_lr_if_it_accepts_one():
    data = problem()
    for make in (dp.SGD, lambda params: dp.SGD(params, lr=0.3), partial(dp.SGD, weight_decay=0.1)):
        assert find_lr(Learner.of(data, make, engine=Engine("cpu")), 1e-4, 1e-3).lrs[0] == 1e-4


def test_invalid_arguments_raise():
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
