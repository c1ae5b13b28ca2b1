"""Exact resume: a fit that is interrupted between two steps and resumed gives bit-identical results."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fit_state_support import states_taken
from learner_support import KeepGradients, StopAt, learner, linear_learner, pairs, problem, same, weights
from registry import SUBJECTS, marked
from resume_support import EPOCHS, Resumed, assert_equal, assert_same, uninterrupted
from slow_values import others_slow
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import dashpot as dp
from dashpot.schedules import Cosine, Exponential, OneCycle
from dashpot.training import (
    EMA,
    SWA,
    Accumulate,
    Callback,
    ClipGradients,
    EarlyStopping,
    Engine,
    Learner,
    NonFinite,
    Recorder,
    Schedule,
    one_cycle,
)

STOPS = [(1,), (2,), (3,), (4,), (6,), (8,), (9,), (1, 2, 3, 5, 8)]


@pytest.mark.parametrize("stops", others_slow(STOPS, (3,), (4,)), ids=str)
def test_resume_from_any_batch_is_exact(tmp_path, stops):
    assert_same(uninterrupted(learner), Resumed(learner, tmp_path, stops).learner)


FEW = frozenset({"adam", "autosgm-3-debiased", "negated-twice", "sgd-nesterov", "sophia"})


@pytest.mark.parametrize("subject", marked(SUBJECTS, FEW), ids=str)  # states of all kinds: tests/contracts
def test_resume_within_epoch_is_exact_for_every_method(tmp_path, subject):
    make = partial(learner, lambda params, lr: subject.make(list(params), lr), lr=subject.lr)
    assert_same(uninterrupted(make), Resumed(make, tmp_path, [4]).learner)


SECOND_ORDER = [s for s in SUBJECTS if not s.captures and s.cls is not dp.SGM]


@pytest.mark.parametrize("subject", marked(SECOND_ORDER, frozenset({"esgd"})), ids=str)
def test_resume_is_exact_with_own_hessian_vector_products(tmp_path, subject):
    options = {name: value for name, value in subject.options.items() if name != "probe"}
    make = partial(learner, partial(subject.cls, **options), lr=subject.lr)
    assert_same(uninterrupted(make), Resumed(make, tmp_path, [2, 4, 7]).learner)


TORCH_OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
    "Adafactor": torch.optim.Adafactor,
    "Adam, a tensor lr": lambda params, lr: torch.optim.Adam(params, lr=torch.tensor(lr)),
}


@pytest.mark.diagonal
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", others_slow(TORCH_OPTIMIZERS, "SGD", "AdamW", "Adam, a tensor lr"))
def test_resume_is_exact_for_torch_optimizers_in_every_dtype(tmp_path, name, dtype):
    make = partial(learner, TORCH_OPTIMIZERS[name], lr=0.01, dtype=dtype)
    assert_same(uninterrupted(make), Resumed(make, tmp_path, [2, 4]).learner)


def test_resume_is_exact_with_accumulation(tmp_path):
    callbacks = lambda: [Accumulate(2)]  # noqa: E731
    make = partial(learner, examples=20)  # five batches, so the last step has only one
    assert_same(uninterrupted(make, callbacks), Resumed(make, tmp_path, [2, 5, 7], callbacks).learner)


def test_resume_is_exact_with_gradients_kept_by_callback(tmp_path):
    callbacks = lambda: [KeepGradients()]  # noqa: E731
    make = partial(learner, dp.SGD)
    resumed = Resumed(make, tmp_path, [4], callbacks).learner
    assert_same(uninterrupted(make, callbacks), resumed)
    assert not same(weights(resumed), weights(uninterrupted(make)))


def test_resume_is_exact_with_optimizer_schedules(tmp_path):
    make = partial(learner, partial(dp.AdamW, schedule={"lr": OneCycle(9), "betas[0]": Cosine(9, floor=0.5)}), lr=0.1)
    resumed = Resumed(make, tmp_path, [1, 5]).learner
    assert_same(uninterrupted(make), resumed)
    assert resumed.opt.steps_done() == 9


def test_resume_is_exact_with_tensor_lr_changed_in_place():
    class Halve(Callback):
        def after_step(self, learner):
            learner.opt.param_groups[0]["lr"].mul_(0.5)

    def made(params):
        return torch.optim.SGD(params, lr=torch.tensor(0.1))

    def fitted(callbacks=(), **options):
        torch.manual_seed(0)
        one = linear_learner(pairs(), made, lr=None, callbacks=[Halve()])
        one.fit(2, callbacks=callbacks, **options)
        return weights(one)

    whole = fitted()
    fitted([stop := StopAt(3)])
    assert same(fitted(resume=stop.state), whole)


def test_resume_is_exact_with_fp16_loss_scale(tmp_path):
    def make():
        engine = Engine("cpu", precision="fp16")
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)  # overflows initially
        return learner(engine=engine)

    expected, resumed = uninterrupted(make, epochs=12), Resumed(make, tmp_path, [2, 19], epochs=12).learner
    assert_same(expected, resumed)
    assert expected.engine.scaler.state_dict() == resumed.engine.scaler.state_dict()
    assert 0 < expected.steps < 36


def test_resume_is_exact_with_bf16_autocast(tmp_path):
    make = lambda: learner(engine=Engine("cpu", precision="bf16"))  # noqa: E731
    assert_same(uninterrupted(make), Resumed(make, tmp_path, [4]).learner)


def test_resume_is_exact_with_random_numbers_drawn_in_before_epoch(tmp_path):
    class Draws(Callback):
        def before_epoch(self, learner):
            torch.rand(3)

    callbacks = lambda: [Draws()]  # noqa: E731
    assert_same(uninterrupted(learner, callbacks), Resumed(learner, tmp_path, [2, 3, 4], callbacks).learner)


# ---- callbacks ------------------------------------------------------------------------------------------------------


NAMES = ("lr", "betas[1]", "grad_norm", "state:exp_avg")


CALLBACKS = {
    "ema": lambda: [EMA(0.9)],
    "ema of buffers": lambda: [EMA(0.9, buffers="average", warmup=False)],
    "swa": lambda: [SWA(1)],
    "one cycle": lambda: [one_cycle(0.1), Recorder(*NAMES)],
    "ours, by epoch": lambda: [Schedule(Cosine(3), per="epoch"), Recorder(*NAMES)],
    "torch's": lambda: [Schedule(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)), Recorder(*NAMES)],
    "a plateau": lambda: [
        Schedule(lambda opt: ReduceLROnPlateau(opt, patience=0, factor=0.5, threshold=10.0)),
        Recorder(*NAMES),
    ],
    "clipping": lambda: [ClipGradients(norm=0.1), Recorder(*NAMES)],
    "stopping early": lambda: [EarlyStopping(patience=1, min_delta=0.5, restore_best=True), Recorder(*NAMES)],
    "all": lambda: [
        Accumulate(2),
        EMA(0.5),
        one_cycle(0.1),
        ClipGradients(value=0.2),
        NonFinite("skip"),
        Recorder(*NAMES),
        EarlyStopping(patience=9),
    ],
}


# other callbacks: the tests of each callback
@pytest.mark.parametrize("name", others_slow(CALLBACKS, "ema of buffers", "all"))
def test_resume_is_exact_with_callbacks(tmp_path, name):
    make, at = partial(learner, examples=18), [2, 5, 7, 10]  # five batches in an epoch
    expected, parts = [], []

    def first():
        expected[:] = CALLBACKS[name]()
        return expected

    def again():
        parts[:] = CALLBACKS[name]()
        return parts

    whole = uninterrupted(make, first, 4)
    assert_same(whole, Resumed(make, tmp_path, [a for a in at if name != "all" or a != 7], again, 4).learner)
    for one, other in zip(expected, parts, strict=True):
        assert_equal(one.state_dict(), other.state_dict())
        if isinstance(one, Recorder):
            assert len(other.values["lr"]) == whole.steps


def test_resume_from_state_of_after_epoch_is_exact():
    found, takes = states_taken(1000, training=False)
    parts = [EMA(0.9), Schedule(Exponential(0.5), per="epoch")]
    whole = learner(callbacks=[*parts, takes])
    torch.manual_seed(3)
    whole.fit(3)
    for state in found[:2]:
        state["callbacks"].pop("At", None)
        resumed = learner(callbacks=parts)
        resumed.fit(3, resume=state)
        assert same(weights(whole), weights(resumed))


# ---- models ---------------------------------------------------------------------------------------------------------


class TiedModel(nn.Module):
    """Model with tied weights, a frozen module, two buffers (one non-persistent), and modules in either order."""

    def __init__(self, reversed_order: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = {"first": nn.Linear(4, 4), "second": nn.Linear(4, 4, bias=False), "last": nn.Linear(4, 3)}
        made["second"].weight = made["first"].weight
        made["frozen"] = nn.Linear(4, 4).requires_grad_(False)
        for name in sorted(made, reverse=reversed_order):
            self.add_module(name, made[name])
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("drift", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
            self.drift += 0.1 * (x.mean(0) - self.drift)
        x = self.frozen(torch.tanh(self.first(x - self.drift)))
        return self.last(torch.tanh(self.second(x)))


def tied_learner(reversed_order=False, cls=dp.AdamW, named=False):
    given, model = problem(), TiedModel(reversed_order)

    def make(_, lr):
        names = dict(model.named_parameters())
        late = ["last.weight", "last.bias"]
        groups = [
            {
                "params": [(n, names[n]) if named else names[n] for n in sorted(late, reverse=reversed_order)],
                "lr": 0.05,
            },
            {"params": [(n, p) if named else p for n, p in names.items() if n not in late], "weight_decay": 0.2},
        ]
        return cls(groups[::-1] if reversed_order else groups, lr=lr)

    shape = {"loss": given.loss, "metrics": given.metrics, "optimizer": make, "lr": 0.01}
    return Learner(model, given.train, given.evaluation, engine=Engine("cpu"), **shape)


@pytest.mark.diagonal
@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
@pytest.mark.parametrize("cls", [dp.AdamW, torch.optim.AdamW], ids=["ours", "torch"])
def test_state_is_matched_by_parameter_name(cls, named):
    expected = uninterrupted(lambda: tied_learner(cls=cls, named=named))
    torch.manual_seed(7)
    stop, first = StopAt(4), tied_learner(cls=cls, named=named)
    first.fit(EPOCHS, callbacks=[stop])
    reversed_order = tied_learner(reversed_order=True, cls=cls, named=named)
    for p in reversed_order.model.parameters():
        nn.init.zeros_(p)
    reversed_order.fit(EPOCHS, resume=stop.state)
    theirs = expected.model.state_dict()
    assert reversed_order.model.state_dict().keys() == theirs.keys()
    for name, value in reversed_order.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(reversed_order.model.drift, expected.model.drift)
    assert reversed_order.history == expected.history
    for group in reversed_order.opt.param_groups if named else ():
        known = dict(reversed_order.model.named_parameters())
        assert all(known[name] is p for name, p in zip(group["param_names"], group["params"], strict=True))


def test_tied_parameters_are_saved_once_and_stay_tied():
    stop, first = StopAt(2), tied_learner()
    first.fit(1, callbacks=[stop])
    state = first.state_dict()["model"]
    assert state["first.weight"] is state["second.weight"]
    second = tied_learner(reversed_order=True)
    second.fit(1, resume=stop.state)
    assert second.model.first.weight is second.model.second.weight


def test_frozen_parameters_are_restored(tmp_path):
    class Thaw(Callback):
        def before_epoch(self, learner):
            if learner.epoch == 1 and learner.training and learner.loop.position[1] == 0:
                learner.model.frozen.requires_grad_(True)
                learner.model.first.requires_grad_(False)

    callbacks = lambda: [Thaw()]  # noqa: E731
    assert_same(uninterrupted(tied_learner, callbacks), Resumed(tied_learner, tmp_path, [4, 7], callbacks).learner)
