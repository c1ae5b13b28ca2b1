"""A fit that stops between two steps and goes on from its state ends with the same bits."""

from __future__ import annotations

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from learner_support import StopAt, learner, problem, same, weights
from registry import SUBJECTS, each
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine, OneCycle
from dashpot.training import Callback, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.average import EMA, SWA
from dashpot.training.callbacks.checkpoints import Checkpoints
from dashpot.training.callbacks.clip_gradients import ClipGradients
from dashpot.training.callbacks.early_stopping import EarlyStopping
from dashpot.training.callbacks.nonfinite import NonFinite
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.schedule import Schedule, one_cycle
from dashpot.training.state.checkpoint_file import read, write

EPOCHS = 3


class Resumed:
    """A fit that is left at several batches, each part in a learner of its own that starts from a file."""

    def __init__(self, make, folder, stops, callbacks=list, epochs=EPOCHS):
        torch.manual_seed(7)
        state = None
        for number, at in enumerate([*stops, None]):
            torch.manual_seed(7 if number == 0 else 99 + number)  # what was drawn before must not matter
            random.seed(number)
            np.random.seed(number)
            stop = [] if at is None else [StopAt(at)]
            self.learner = make()
            if state is not None:
                for p in self.learner.model.parameters():
                    nn.init.zeros_(p)
            self.learner.fit(epochs, callbacks=[*callbacks(), *stop], resume=state)
            if at is not None:
                write(folder / "state.ckpt", stop[0].state)
                state = read(folder / "state.ckpt")


def whole(make, callbacks=list, epochs=EPOCHS):
    torch.manual_seed(7)
    random.seed(0)
    np.random.seed(0)
    fitted = make()
    fitted.fit(epochs, callbacks=callbacks())
    return fitted


def assert_same(a: Learner, b: Learner) -> None:
    assert same(weights(a), weights(b))
    assert a.history == b.history
    assert (a.steps, a.loop.position) == (b.steps, b.loop.position)
    assert_equal(a.opt.state_dict(), b.opt.state_dict())


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (4,), (6,), (8,), (9,), (1, 2, 3, 5, 8)], ids=str)
def test_it_goes_on_from_any_batch(tmp_path, stops):
    assert_same(whole(learner), Resumed(learner, tmp_path, stops).learner)


@each()
def test_every_method_goes_on_in_the_middle_of_an_epoch(tmp_path, subject):
    make = partial(learner, lambda params, lr: subject.make(list(params), lr), lr=subject.lr)
    assert_same(whole(make), Resumed(make, tmp_path, [4]).learner)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if not s.captures and s.cls is not dp.SGM], ids=str)
def test_second_order_methods_take_their_own_products(tmp_path, subject):
    options = {name: value for name, value in subject.options.items() if name != "probe"}
    make = partial(learner, partial(subject.cls, **options), lr=subject.lr)
    assert_same(whole(make), Resumed(make, tmp_path, [2, 4, 7]).learner)


TORCHS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
    "Adafactor": torch.optim.Adafactor,
    "Adam, a tensor lr": lambda params, lr: torch.optim.Adam(params, lr=torch.tensor(lr)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TORCHS)
def test_torchs_optimizers_in_every_dtype(tmp_path, name, dtype):
    make = partial(learner, TORCHS[name], lr=0.01, dtype=dtype)
    assert_same(whole(make), Resumed(make, tmp_path, [2, 4]).learner)


def test_accumulation_of_gradients(tmp_path):
    callbacks = lambda: [Accumulate(2)]  # noqa: E731
    make = partial(learner, examples=20)  # five batches: the last window is short
    assert_same(whole(make, callbacks), Resumed(make, tmp_path, [2, 5, 7], callbacks).learner)


def test_gradients_that_a_callback_keeps(tmp_path):
    class Momentum(Callback):
        def zero_grad(self, learner, proceed):
            for p in learner.model.parameters():
                p.grad *= 0.85

    callbacks = lambda: [Momentum()]  # noqa: E731
    make = partial(learner, dp.SGD)
    resumed = Resumed(make, tmp_path, [4], callbacks).learner
    assert_same(whole(make, callbacks), resumed)
    assert not same(weights(resumed), weights(whole(make)))


def test_schedules_inside_the_optimizer(tmp_path):
    make = partial(learner, partial(dp.AdamW, schedule={"lr": OneCycle(9), "betas[0]": Cosine(9, floor=0.5)}), lr=0.1)
    resumed = Resumed(make, tmp_path, [1, 5]).learner
    assert_same(whole(make), resumed)
    assert resumed.opt.steps_done() == 9


def test_half_precision_with_its_loss_scale(tmp_path):
    def make():
        engine = Engine("cpu", precision="fp16")
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)  # overflows at first
        return learner(engine=engine)

    expected, resumed = whole(make, epochs=12), Resumed(make, tmp_path, [2, 19, 31], epochs=12).learner
    assert_same(expected, resumed)
    assert expected.engine.scaler.state_dict() == resumed.engine.scaler.state_dict()
    assert 0 < expected.steps < 36


def test_bfloat16_autocast(tmp_path):
    make = lambda: learner(engine=Engine("cpu", precision="bf16"))  # noqa: E731
    assert_same(whole(make), Resumed(make, tmp_path, [4]).learner)


# ---- callbacks -------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_go_on_as_if_nothing_had_been(tmp_path, name):
    make, at = partial(learner, examples=18), [2, 5, 7, 10]  # five batches in an epoch
    expected, parts = [], []

    def first():
        expected[:] = CALLBACKS[name]()
        return expected

    def again():
        parts[:] = CALLBACKS[name]()
        return parts

    uninterrupted = whole(make, first, 4)
    assert_same(uninterrupted, Resumed(make, tmp_path, [a for a in at if name != "all" or a != 7], again, 4).learner)
    for one, other in zip(expected, parts, strict=True):
        assert_equal(one.state_dict(), other.state_dict())
        if isinstance(one, Recorder):
            assert len(other.values["lr"]) == uninterrupted.steps


# ---- data ------------------------------------------------------------------------------------------------------------


class Augmented(TensorDataset):
    """Noise from torch's, numpy's and Python's global generators on every example."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(4) + 0.1 * np.random.rand() + 0.1 * random.random(), y


def loaded(workers=0, own=None, **options):
    """A learner on a shuffling DataLoader of augmented examples, for training and evaluation."""
    given = problem(examples=14)
    data = Augmented(given.train.x, given.train.y)
    options = {"batch_size": 4, "num_workers": workers, **options}
    if workers:
        options["multiprocessing_context"] = "fork"
    draw = {} if own is None else {"generator": torch.Generator().manual_seed(own)}
    train = DataLoader(data, shuffle=True, **draw, **options)
    evaluation = DataLoader(data, shuffle=True, **options)
    shape = {"loss": given.loss, "metrics": given.metrics, "optimizer": dp.AdamW, "lr": 0.01}
    return Learner(given.model, train, evaluation, engine=Engine("cpu"), **shape)


@pytest.mark.parametrize("own", [None, 3], ids=["global", "own generator"])
@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (6,), (8,), (2, 3, 9, 11)], ids=str)
def test_a_loader_that_shuffles_and_augments(tmp_path, stops, own):
    make = partial(loaded, own=own)
    assert_same(whole(make), Resumed(make, tmp_path, stops).learner)


@pytest.mark.parametrize("own", [None, 3], ids=["global", "own generator"])
def test_a_loader_with_worker_processes(tmp_path, own):
    make = partial(loaded, workers=2, own=own)
    assert_same(whole(make, epochs=2), Resumed(make, tmp_path, [2, 4, 5], epochs=2).learner)


def test_every_checkpoint_of_a_run_leads_to_its_end(tmp_path):
    """Those after an epoch, too, where the loader's generator has gone on since the epoch began."""
    make = partial(loaded, own=3)
    expected = whole(make, lambda: [Checkpoints(tmp_path / "all", every_steps=1, keep=None)])
    paths = sorted((tmp_path / "all").iterdir())
    assert len(paths) == EPOCHS * (4 + 1)
    for path in paths:
        torch.manual_seed(99)
        resumed = make()
        resumed.fit(EPOCHS, resume=read(path))
        assert_same(expected, resumed)


def test_a_sampler_with_a_generator_and_replacement(tmp_path):
    def make():
        given = loaded()
        data = given.train.source.dataset
        sampler = RandomSampler(data, replacement=True, generator=torch.Generator().manual_seed(5), num_samples=40)
        loader = DataLoader(data, batch_size=4, sampler=sampler)
        return Learner(
            given.model, loader, loss=nn.functional.cross_entropy, optimizer=dp.AdamW, lr=0.01, engine=Engine("cpu")
        )

    assert_same(whole(make, epochs=2), Resumed(make, tmp_path, [3, 10, 16], epochs=2).learner)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_that_stay_cannot_be_resumed_and_say_so(tmp_path):
    made = loaded(workers=1, persistent_workers=True)
    with pytest.raises(ArgumentError, match=r"train cannot be resumed exactly: .*persistent_workers=True"):
        made.fit(1, callbacks=[Checkpoints(tmp_path)])


# ---- a model and an optimizer that are made in another order --------------------------------------------------------


class Parts(nn.Module):
    """Tied weights, a frozen part, buffers of both kinds; its modules are registered in either order."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = {"first": nn.Linear(4, 4), "second": nn.Linear(4, 4, bias=False), "last": nn.Linear(4, 3)}
        made["second"].weight = made["first"].weight
        made["frozen"] = nn.Linear(4, 4).requires_grad_(False)
        for name in sorted(made, reverse=turned):
            self.add_module(name, made[name])
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("drift", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
            self.drift += 0.1 * (x.mean(0) - self.drift)
        x = self.frozen(torch.tanh(self.first(x - self.drift)))
        return self.last(torch.tanh(self.second(x)))


def of_parts(turned=False, cls=dp.AdamW, named=False):
    given, model = problem(), Parts(turned)

    def make(_, lr):
        names = dict(model.named_parameters())
        late = ["last.weight", "last.bias"]
        groups = [
            {"params": [(n, names[n]) if named else names[n] for n in sorted(late, reverse=turned)], "lr": 0.05},
            {"params": [(n, p) if named else p for n, p in names.items() if n not in late], "weight_decay": 0.2},
        ]
        return cls(groups[::-1] if turned else groups, lr=lr)

    shape = {"loss": given.loss, "metrics": given.metrics, "optimizer": make, "lr": 0.01}
    return Learner(model, given.train, given.evaluation, engine=Engine("cpu"), **shape)


@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
@pytest.mark.parametrize("cls", [dp.AdamW, torch.optim.AdamW], ids=["ours", "torch"])
def test_state_goes_by_name_whatever_the_order(cls, named):
    expected = whole(lambda: of_parts(cls=cls, named=named))
    torch.manual_seed(7)
    stop, first = StopAt(4), of_parts(cls=cls, named=named)
    first.fit(EPOCHS, callbacks=[stop])
    turned = of_parts(turned=True, cls=cls, named=named)
    for p in turned.model.parameters():
        nn.init.zeros_(p)
    turned.fit(EPOCHS, resume=stop.state)
    theirs = expected.model.state_dict()
    assert turned.model.state_dict().keys() == theirs.keys()
    for name, value in turned.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(turned.model.drift, expected.model.drift)
    assert turned.history == expected.history
    for group in turned.opt.param_groups if named else ():
        known = dict(turned.model.named_parameters())
        assert all(known[name] is p for name, p in zip(group["param_names"], group["params"], strict=True))


def test_tied_parameters_are_saved_once_and_stay_tied():
    stop, first = StopAt(2), of_parts()
    first.fit(1, callbacks=[stop])
    state = first.state_dict()["model"]
    assert state["first.weight"] is state["second.weight"]
    second = of_parts(turned=True)
    second.fit(1, resume=stop.state)
    assert second.model.first.weight is second.model.second.weight


def test_what_was_frozen_or_thawed_on_the_way_stays_so(tmp_path):
    class Thaw(Callback):
        def before_epoch(self, learner):
            if learner.epoch == 1 and learner.training and learner.loop.position[1] == 0:
                learner.model.frozen.requires_grad_(True)
                learner.model.first.requires_grad_(False)

    callbacks = lambda: [Thaw()]  # noqa: E731
    assert_same(whole(of_parts, callbacks), Resumed(of_parts, tmp_path, [4, 7], callbacks).learner)


def test_random_numbers_drawn_at_the_start_of_an_epoch(tmp_path):
    class Draws(Callback):
        def before_epoch(self, learner):
            torch.rand(3)

    callbacks = lambda: [Draws()]  # noqa: E731
    assert_same(whole(learner, callbacks), Resumed(learner, tmp_path, [2, 3, 4], callbacks).learner)


# ---- the state itself ------------------------------------------------------------------------------------------------


def left_at(at, make=learner, callbacks=(), epochs=EPOCHS):
    stop, made = StopAt(at), make()
    made.fit(epochs, callbacks=[*callbacks, stop])
    return stop.state, made


@pytest.mark.parametrize("make", [dp.AdamW, torch.optim.AdamW], ids=["ours", "torch"])
def test_one_state_serves_many_fits_and_is_not_changed(make):
    state, _ = left_at(4, partial(learner, make))
    before = copy.deepcopy(state)
    first, second = learner(make), learner(make)
    first.fit(EPOCHS, resume=state)
    assert_equal(state, before)
    second.fit(EPOCHS, resume=state)
    assert_same(first, second)


def test_a_state_does_not_follow_what_happens_afterwards():
    class Keeps(StopAt):
        def after_batch(self, learner):
            if learner.training and learner.loop.position == (0, 2):
                self.state = learner.state_dict()
                self.copied = copy.deepcopy(self.state)

    keeps = Keeps(2)
    learner(partial(torch.optim.NAdam), lr=torch.tensor(0.01)).fit(1, callbacks=[keeps])
    assert_equal(keeps.state, keeps.copied)


def test_a_finished_fit_returns_at_once_with_its_history(tmp_path):
    made = learner()
    made.fit(2, callbacks=[Checkpoints(tmp_path)])
    state, again, seen = made.state_dict(), learner(), []

    class Watch(Callback):
        def before_batch(self, learner):
            seen.append(learner.batch.index)

        def after_fit(self, learner):
            seen.append("after_fit")

    again.fit(2, resume=state, callbacks=[Watch()])
    assert seen == ["after_fit"]
    assert_same(made, again)
    again.fit(3, resume=state)
    assert len(again.history) == 3
    with pytest.raises(RunError, match="2 finished epochs, got 1"):
        again.fit(1, resume=state)


def test_no_state_is_taken_in_the_middle_of_a_step_or_of_an_evaluation():
    class Early(Callback):
        def after_batch(self, learner):
            if learner.training and not learner.batch.is_last_microbatch:
                with pytest.raises(RunError, match="got 1 accumulated micro-batches"):
                    learner.state_dict()
            if not learner.training:
                with pytest.raises(RunError, match="got the evaluation of epoch 1"):
                    learner.state_dict()

    learner().fit(1, callbacks=[Accumulate(2), Early()])


# ---- refusals --------------------------------------------------------------------------------------------------------


def untouched(make, state, message, **options):
    """`fit(resume=state)` is refused with a message, and model and optimizer are as they were."""
    made = make()
    before = weights(made)
    with pytest.raises(RunError, match=message):
        made.fit(EPOCHS, resume=state, **options)
    assert same(before, weights(made))
    assert not made.opt.state
    assert all(p.requires_grad for p in made.model.parameters())


def test_another_model_is_listed():
    state, _ = left_at(4)
    state["model"]["extra"] = torch.zeros(1)
    state["model"]["0.weight"] = torch.zeros(9, 4)
    state["model"]["0.bias"] = state["model"]["0.bias"].double()
    del state["model"]["1.weight"]
    found = (
        r"does not match the model: extra is only in the checkpoint; 1\.weight is only in the model; "
        r"0\.weight has shape \(9, 4\) in the checkpoint, \(8, 4\) in the model; "
        r"0\.bias has dtype torch\.float64 in the checkpoint"
    )
    untouched(learner, state, found)


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        (learner, partial(learner, torch.optim.AdamW), "optimizer: saved dashpot.AdamW, current torch.AdamW"),
        (learner, partial(learner, dp.SGD), "optimizer: saved dashpot.AdamW, current dashpot.SGD"),
        (learner, partial(learner, lr=0.02), "lr: saved 0.01, current 0.02; pass override=True"),
        (learner, partial(learner, partial(dp.AdamW, betas=(0.5, 0.9))), r"betas: saved \(0.9, 0.999\), current \(0.5"),
        (learner, partial(learner, partial(dp.AdamW, schedule=Cosine(9))), "schedule: saved None, current .*Cosine"),
        (learner, partial(learner, partial(dp.AdamW, max_norm=1.0)), "options: saved .*, current .*max_norm=1.0"),
        (learner, lambda: learner(engine=Engine("cpu", precision="bf16")), "precision: saved fp32, current bf16"),
        (
            learner,
            partial(learner, batch_size=5),
            "must not change within an epoch differ: batches: saved 3, current 2",
        ),
        (
            lambda: learner(lambda params, lr: dp.SGM.from_recipe(params, dp.Recipe(dp.Filter(0.9), lr=lr))),
            lambda: learner(
                lambda params, lr: dp.SGM.from_recipe(params, dp.Recipe(dp.Filter(0.9, normalise="running"), lr=lr))
            ),
            "recipe: saved .*, current .*running",
        ),
    ],
)
def test_other_settings_are_listed(there, here, message):
    state, _ = left_at(4, there)
    untouched(here, state, message)


def test_another_list_of_callbacks_is_listed():
    class Counts(Callback):
        count = 0

        def after_batch(self, learner):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    class Silent(Callback):
        pass

    state, _ = left_at(4, callbacks=[Counts(), Silent()])
    untouched(learner, state, "callback Counts is only in the checkpoint")
    made = learner()
    made.fit(EPOCHS, resume=state, override=True)
    state["callbacks"].pop("Counts")
    untouched(learner, state, "callback Counts is only in this fit", callbacks=[Counts()])


def test_override_goes_on_with_the_settings_of_here():
    state, there = left_at(4)
    here = learner(partial(dp.AdamW, betas=(0.9, 0.9)), lr=0.5)
    here.fit(EPOCHS, resume=state, override=True)
    [group] = here.opt.param_groups
    assert (group["lr"], group["betas"]) == (0.5, (0.9, 0.9))
    assert group["steps_done"] == 9
    assert there.opt.param_groups[0]["lr"] == 0.01


def test_an_optimizer_of_other_parameters_is_listed_and_nothing_changes():
    state, _ = left_at(4)
    half = lambda params, lr: dp.AdamW(list(params)[:3], lr=lr)  # noqa: E731
    untouched(
        partial(learner, half),
        state,
        r"groups of 6 parameters, current groups of 3.* \(only saved: 1\.bias, 4\.bias, 4",
    )
    state["optimizer"]["state"]["0.weight"]["exp_avg"] = torch.zeros(2)
    untouched(learner, state, "optimizer state of the checkpoint cannot be loaded: .*exp_avg")
