"""What a second review of the training loop found: rows without a rate, and what came back otherwise than it was."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from learner_support import StopAt, learner, problem
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.schedules import Cosine
from dashpot.training import Callback, CancelBatch, CancelEpoch, Engine, Learner, find_lr
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.checkpoints import Checkpoints
from dashpot.training.callbacks.epoch_summary import EpochCallback
from dashpot.training.callbacks.nonfinite import NonFinite
from dashpot.training.callbacks.recorder import Recorder


class At(Callback):
    """Does something with the learner in an event of some batches of training."""

    order = -1

    def __init__(self, event: str, batches: tuple[int, ...], act) -> None:
        self.batches, self.act = batches, act
        setattr(self, event, self._look)

    def _look(self, learner):
        if learner.training and learner.batch.index in self.batches:
            self.act(learner)


def cancel(kind):
    def act(learner):
        raise kind

    return act


def spoil(learner):
    next(learner.model.parameters()).grad.fill_(torch.inf)


# ---- the rate of an epoch's row (13) --------------------------------------------------------------------------------


class Rows(EpochCallback):
    """Keeps the rows."""

    def before_fit(self, learner):
        super().before_fit(learner)
        self.rows = []

    def on_epoch_summary(self, learner, summary):
        self.rows.append(summary)


def scheduled(params, lr):
    return dp.AdamW(params, lr=lr, schedule=Cosine(12))


@pytest.mark.filterwarnings("ignore:.*non-finite:RuntimeWarning")
@pytest.mark.parametrize(
    "callbacks",
    [
        [At("after_backward", (2,), spoil), NonFinite("skip")],
        [At("before_batch", (2,), cancel(CancelBatch))],
        [At("before_batch", (2,), cancel(CancelEpoch))],
    ],
    ids=["skipped", "batch cancelled", "epoch cancelled"],
)
def test_a_row_has_the_rate_of_the_last_step_that_was_taken(callbacks):
    rows, recorder = Rows(), Recorder("lr")
    one = learner(scheduled)
    one.fit(2, callbacks=[*callbacks, rows, recorder])
    assert one.steps == 4  # two of the three batches of each epoch
    assert [row.lr for row in rows.rows] == recorder.values["lr"][1::2]


def test_a_step_that_was_cancelled_after_it_was_taken_counts():
    class Late(Callback):
        order = 50

        def step(self, learner, proceed):
            proceed()
            raise CancelBatch

    rows = Rows()
    learner().fit(1, callbacks=[Late(), rows])
    assert [row.lr for row in rows.rows] == [0.01]


def test_a_row_of_an_epoch_without_a_step_has_no_rate():
    rows = Rows()
    learner().fit(2, callbacks=[At("before_batch", (0, 1, 2), cancel(CancelBatch)), rows])
    assert [row.lr for row in rows.rows] == [None, None]


def test_the_rate_of_a_row_goes_on_through_a_resume():
    whole, stop, resumed = Rows(), StopAt(2), Rows()
    learner(scheduled).fit(1, callbacks=[At("before_batch", (2,), cancel(CancelBatch)), whole])
    learner(scheduled).fit(1, callbacks=[At("before_batch", (2,), cancel(CancelBatch)), Rows(), stop])
    assert stop.state is not None
    again = At("before_batch", (2,), cancel(CancelBatch))
    learner(scheduled).fit(1, callbacks=[again, resumed], resume=stop.state)
    assert whole.rows[0].lr is not None
    assert resumed.rows[0].lr == whole.rows[0].lr


@pytest.mark.parametrize("schedule", [None, Cosine(12)], ids=["constant", "scheduled"])
def test_a_rate_that_is_a_tensor_is_read_when_the_epoch_is_over(schedule):
    def make(params, lr):
        return dp.AdamW(params, lr=cast(Any, torch.tensor(lr)), schedule=schedule)

    rows, recorder = Rows(), Recorder("lr")
    learner(make).fit(1, callbacks=[rows, recorder])
    assert [row.lr for row in rows.rows] == recorder.values["lr"][-1:]


@pytest.mark.parametrize("schedule", [None, Cosine(12)], ids=["constant", "scheduled"])
def test_no_step_waits_for_a_rate_on_a_device(schedule):
    opt = dp.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1, schedule=schedule)
    opt.param_groups[0]["lr"] = torch.zeros((), device="meta")  # whoever reads its number fails
    rows, one = Rows(), cast(Any, SimpleNamespace(opt=opt, batch=SimpleNamespace(stepped=True)))
    rows.before_fit(one)
    rows.step(one, lambda: None)


def test_a_rate_that_is_changed_in_place_after_the_step_is_not_the_rows():
    class Changes(Callback):
        def after_step(self, learner):
            learner.opt.param_groups[0]["lr"].mul_(0.5)

    rows = Rows()
    learner(lambda params, lr: torch.optim.SGD(params, lr=torch.tensor(lr)), lr=0.5).fit(1, callbacks=[Changes(), rows])
    assert [row.lr for row in rows.rows] == [0.125]


# ---- an optimizer after find_lr (14) --------------------------------------------------------------------------------


class Wide(torch.optim.Optimizer):
    """Has state in float32 whatever the weights are in: a tensor, one in a list, and one that is no parameter's."""

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


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


TORCHS = ["ASGD", "Adafactor", "AdamW", "NAdam", "RMSprop", "Rprop", "SGD"]


@pytest.mark.parametrize(
    "make",
    [Wide, *(getattr(torch.optim, name) for name in TORCHS), dp.NAdam, dp.AdamW, dp.ESGD],
    ids=lambda make: f"{make.__module__.partition('.')[0]}-{make.__name__}",
)
def test_an_optimizer_comes_back_in_its_own_dtypes(make):
    after = []
    for look in (False, True):
        torch.manual_seed(5)
        data = problem(dtype=torch.bfloat16)
        opt = make(data.model.parameters(), lr=0.01)
        one = Learner.of(data, opt, engine=Engine("cpu"))
        one.fit(1)
        before = copy.deepcopy(opt.state_dict())
        if look:
            find_lr(one, 1e-4, 1e-1)
            assert alike(before, opt.state_dict())
        loss = data.model(cast(Any, data.train).x).square().mean()
        opt.backward(loss) if hasattr(opt, "backward") else loss.backward()
        opt.step()  # by hand, as a fit would look at the optimizer anew
        after.append([p.detach().clone() for p in data.model.parameters()])
    assert alike(*after)


# ---- workers that stay, of the evaluation (16) ----------------------------------------------------------------------


def staying(data):
    dataset = TensorDataset(data.x, data.y)
    return DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)


def test_an_evaluation_with_workers_that_stay_cannot_be_resumed_and_says_so(tmp_path):
    data = problem()
    one = Learner(
        data.model, data.train, staying(data.evaluation), loss=data.loss, optimizer=dp.AdamW, engine=Engine("cpu")
    )
    with pytest.raises(ArgumentError, match=r"evaluation cannot be resumed exactly: .*persistent_workers=True"):
        one.fit(1, callbacks=[Checkpoints(tmp_path)])
    assert list(tmp_path.iterdir()) == []
    one.fit(1, callbacks=[Checkpoints(tmp_path)], evaluate=False)  # where they are not asked, nothing is refused


# ---- data without a length, and with an attribute named epoch (21, 25) ----------------------------------------------


class Endless(IterableDataset):
    """Has no length; its loader has a `__len__` all the same, which fails."""

    def __iter__(self):
        return iter([(torch.zeros(4), torch.tensor(0))] * 8)


@pytest.mark.parametrize("owner", ["train", "evaluation"])
def test_a_loader_of_data_without_a_length_is_refused(owner):
    data = problem()
    sources = {"train": data.train, "evaluation": data.evaluation, owner: DataLoader(Endless(), 4)}
    match = rf"^Learner: {owner} must be .*another sized iterable of pairs \(x, y\), got .*, which has no length\.$"
    with pytest.raises(ArgumentError, match=match):
        Learner(data.model, **sources, loss=data.loss, optimizer=dp.AdamW, engine=Engine("cpu"))


class Counting(DataLoader):
    """A loader that keeps the number of an epoch."""

    epoch = 0


def test_only_a_method_named_epoch_makes_a_stream():
    seen = []
    for kind in (DataLoader, Counting):
        data = problem()
        loader = kind(TensorDataset(cast(Any, data.train).x, cast(Any, data.train).y), batch_size=4)
        one = Learner(data.model, loader, loss=nn.functional.cross_entropy, optimizer=dp.AdamW, engine=Engine("cpu"))
        torch.manual_seed(2)
        one.fit(1)
        seen.append(one.history)
    assert seen[0] == seen[1]


# ---- find_lr and a window whose first batch is cancelled (F) --------------------------------------------------------


@pytest.mark.parametrize("batches", [(0,), (2,), (1,), (0, 2)], ids=str)
def test_find_lr_looks_at_the_batches_that_make_a_step(batches):
    seen = Recorder()
    one = learner(dp.SGD, batch_size=2)  # five batches an epoch: steps of 2, 2 and 1
    without = At("before_batch", batches, cancel(CancelBatch))
    curve = find_lr(one, 1e-3, 1e-2, steps=7, stop_at=1e3, callbacks=[Accumulate(2), without, seen])
    assert len(curve.losses) == 7
    assert curve.losses == pytest.approx(seen.values["loss"], rel=1e-6)
