"""What a review of the training loop found: each of these went wrong silently, or with a message that did not help."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from learner_support import StopAt, learner, same, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.means import Means
from dashpot.training import Callback, CancelBatch, CancelEpoch, Engine, Learner, find_lr
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.average import EMA
from dashpot.training.callbacks.clip_gradients import ClipGradients
from dashpot.training.callbacks.progress import Progress
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.distributed.data_sharding import count_examples
from dashpot.training.losses import scalar_loss

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2


def small(train, make: Any = torch.optim.SGD, *, model: Any = None, lr: float | None = 0.1, **options):
    torch.manual_seed(3)
    model = nn.Linear(3, 2) if model is None else model
    options = {"loss": nn.functional.cross_entropy, **options}
    return Learner(model, train, optimizer=make, lr=lr, engine=Engine("cpu"), **options)


def pairs(size=4):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, 12, size)]


# ---- examples (1) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lambda y: (y, y.float()), lambda y: {"label": y}], ids=["tuple", "dict"])
def test_examples_are_counted_in_the_tensors_of_y(pack):
    def first(y):
        return y[0] if isinstance(y, tuple) else y["label"]

    one = small(
        [(x, pack(y)) for x, y in pairs()],
        loss=lambda output, y: nn.functional.cross_entropy(output, first(y)),
        metrics={"share": lambda output, y: (first(y) >= 0).sum()},
    )
    one.fit(1)
    plain = small(pairs())
    plain.fit(1)
    assert one.history[0]["train"]["share"] == 1.0
    assert one.history[0]["train"]["loss"] == plain.history[0]["train"]["loss"]


def test_a_batch_without_y_counts_its_x():
    one = small([(X[:5], None), (X[5:], torch.tensor(0.0))], loss=lambda output, y: output.square().mean())
    one.fit(1)
    assert one.loop.means.count == 12
    with pytest.raises(ArgumentError, match="countable x or y"):
        small([(None, None)]).fit(1)


def test_examples_in():
    assert count_examples(np.zeros(3)) == 3
    assert count_examples(torch.tensor(1.0)) is None
    assert count_examples([None, (torch.zeros(4, 2),)]) == 4


# ---- gradients that are kept, and the loss scale (3, 22) ------------------------------------------------------------


def fp16(scale=2.0**10):
    engine = Engine("cpu", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return engine


class Momentum(Callback):
    def zero_grad(self, learner, proceed):
        for p in learner.model.parameters():
            p.grad *= 0.85


def test_gradients_that_are_kept_across_steps_are_as_large_under_a_loss_scale():
    def fitted(engine, callbacks):
        one = small(pairs(), callbacks=callbacks)
        one.engine = one.train.engine = engine
        one.fit(2)
        return torch.cat([value.flatten() for value in weights(one)])

    true = fitted(Engine("cpu"), [Momentum()])
    # The weights move by 6 steps with gradients below 1, each rounded to the 11 bits of float16.
    assert torch.allclose(fitted(fp16(), [Momentum()]), true, atol=5e-3)
    assert not torch.allclose(fitted(fp16(), []), true, atol=0.05)  # what the kept gradients do is much larger


def test_a_fit_can_follow_one_whose_optimizer_failed_under_a_loss_scale():
    class Fails(torch.optim.SGD):
        fail: ClassVar[bool] = True

        def step(self, closure=None):
            if self.fail:
                raise OSError("full")
            return super().step(closure)

    torch.manual_seed(4)
    model = nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    one = small(pairs(), Fails(model.parameters(), lr=0.1), model=model, lr=None)
    one.engine = one.train.engine = fp16()
    with pytest.raises(OSError, match="full"):
        one.fit(1)
    Fails.fail = False
    one.fit(1, callbacks=[ClipGradients(norm=1.0)])
    assert one.steps == 3
    assert max((p - q).abs().max().item() for p, q in zip(model.parameters(), before, strict=True)) <= 0.3  # 3 lr norm


# ---- loaders with a state of their own (4, 23, 25) ------------------------------------------------------------------


class Orders:
    """Another order for every `number`."""

    number = 0

    def __len__(self):
        return 12

    def __iter__(self):
        return iter(torch.randperm(12, generator=torch.Generator().manual_seed(self.number)).tolist())


class ByEpoch(Orders):
    """Is told the number of the epoch."""

    def set_epoch(self, epoch):
        self.number = epoch


class Counting(Orders):
    """Counts how often it was asked."""

    def __init__(self):
        self.state = {"count": 0}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state

    def __iter__(self):
        self.state["count"] += 1
        self.number = self.state["count"]
        return super().__iter__()


@pytest.mark.parametrize("kind", [ByEpoch, Counting])
@pytest.mark.parametrize("at", [1, 3, 4, 5])
def test_a_sampler_with_epochs_of_its_own_goes_on_within_an_epoch(kind, at):
    def loaded():
        return small(DataLoader(TensorDataset(X, Y), batch_size=4, sampler=kind()))

    whole, stopped, resumed = loaded(), loaded(), loaded()
    whole.fit(3)
    stopped.fit(3, callbacks=[stop := StopAt(at)])
    resumed.fit(3, resume=stop.state)
    assert same(weights(whole), weights(resumed))
    assert whole.history == resumed.history
    assert whole.train.source.sampler.number == resumed.train.source.sampler.number == (2 if kind is ByEpoch else 3)


@pytest.mark.parametrize(("said", "gave"), [(4, "3"), (2, "more")])
def test_data_of_another_length_than_they_say_are_refused(said, gave):
    class Lies(list):
        def __len__(self):
            return said

    with pytest.raises(RunError, match=f"= {said} batches, got {gave}"):
        small(Lies(pairs())).fit(1)


def test_the_rest_of_an_epoch_has_batches_of_the_size_of_its_beginning():
    small_batches, stop = learner(examples=12, batch_size=4), StopAt(1)
    small_batches.fit(1, callbacks=[stop])
    with pytest.raises(RunError, match="must not change within an epoch differ: batch size: saved 4, current 5"):
        learner(examples=12, batch_size=5).fit(1, resume=stop.state, override=True)
    with pytest.raises(RunError, match="number of examples: saved 12, current 11"):
        learner(examples=11, batch_size=4).fit(1, resume=stop.state, override=True)


# ---- states (5, 13, 21, 28) -----------------------------------------------------------------------------------------


def test_averages_in_the_model_are_no_state_to_go_on_from():
    one = learner(callbacks=[EMA(0.9)])
    one.fit(1)
    with pytest.raises(RunError, match="EMA has put its averages into the model"):
        one.state_dict()
    one.fit(1, callbacks=[stop := StopAt(2)])  # cancelled: nothing is left
    assert stop.state is not None
    one.state_dict()
    plain = learner(callbacks=[EMA(0.9, keep=False)])
    plain.fit(1)
    plain.state_dict()


def test_a_rate_in_a_tensor_resumes_after_it_has_moved():
    class Halve(Callback):
        def after_step(self, learner):
            learner.opt.param_groups[0]["lr"].mul_(0.5)

    def made(params):
        return torch.optim.SGD(params, lr=torch.tensor(0.1))

    def fitted(callbacks=(), **options):
        torch.manual_seed(0)
        one = small(pairs(), made, lr=None, callbacks=[Halve()])
        one.fit(2, callbacks=callbacks, **options)
        return weights(one)

    whole = fitted()
    fitted([stop := StopAt(3)])
    assert same(fitted(resume=stop.state), whole)


@pytest.mark.parametrize("state", ["run/checkpoints", {"weight": X}], ids=["path", "weights"])
def test_what_is_no_state_is_refused_in_a_sentence(state):
    with pytest.raises(RunError, match=r"resume must be the result of learner.state_dict\(\)"):
        learner().fit(1, resume=state)


def test_there_is_no_state_before_a_fit():
    with pytest.raises(RunError, match="during or after a fit"):
        learner().state_dict()


def test_observers_may_come_and_go_others_may_not(capsys):
    torch.manual_seed(1)
    (whole := learner()).fit(2)
    torch.manual_seed(1)
    learner().fit(2, callbacks=[stop := StopAt(4), Recorder("lr")])
    (bare := learner()).fit(2, resume=stop.state)
    (other := learner()).fit(2, callbacks=[Progress()], resume=stop.state)
    assert same(weights(bare), weights(whole))
    assert same(weights(other), weights(whole))

    class Mine(Recorder):
        essential = True

    with pytest.raises(RunError, match="callback Mine is only in this fit"):
        learner().fit(2, callbacks=[Mine("lr")], resume=stop.state)


# ---- arguments (6, 7, 16-20, 24) ------------------------------------------------------------------------------------


def test_a_callback_is_given_once():
    one = Recorder("lr")
    with pytest.raises(ArgumentError, match="got the same Recorder twice"):
        learner(callbacks=[one]).fit(1, callbacks=[one])
    learner(callbacks=[one]).fit(1, callbacks=[Recorder("lr")])


def test_no_metric_is_called_loss():
    with pytest.raises(ArgumentError, match="must not contain the reserved name 'loss'"):
        small(pairs(), metrics={"loss": lambda output, y: output.sum()})


def test_only_labels_out_of_range_are_blamed():
    output = torch.randn(4, 3)
    entropy = nn.functional.cross_entropy
    with pytest.raises(ArgumentError, match=r"integers in \[0, 2\].*got 3"):
        scalar_loss(entropy, output, torch.tensor([0, -100, 3, 1]))
    with pytest.raises(RuntimeError, match="weight tensor"):
        scalar_loss(lambda o, y: entropy(o, y, weight=torch.ones(2)), output, torch.tensor([0, -100, 2, 1]))
    binary = nn.functional.binary_cross_entropy_with_logits
    with pytest.raises(RuntimeError, match="Float"):
        scalar_loss(binary, torch.randn(4, 1), torch.tensor([[0], [1], [1], [0]]))


@pytest.mark.parametrize("made", [True, False])
def test_an_optimizer_that_wants_a_closure_is_refused(made):
    model = nn.Linear(3, 2)
    make = torch.optim.LBFGS(model.parameters()) if made else torch.optim.LBFGS
    with pytest.raises(ArgumentError, match="got LBFGS, which requires one"):
        small(pairs(), make, model=model, lr=None).fit(1)


def test_a_loss_without_trained_parameters_is_refused():
    model = nn.Linear(3, 2)
    one = small(pairs(), model=model)
    model.requires_grad_(False)
    with pytest.raises(ArgumentError, match="must depend on a trained parameter"):
        one.fit(1)


def test_an_attribute_with_the_name_of_an_action_or_event_is_refused():
    for name, kind in (("step", "action"), ("after_fit", "event")):
        one = Callback()
        setattr(one, name, 0)
        with pytest.raises(ArgumentError, match=f"{kind} '{name}' must be a method, got 0"):
            learner(callbacks=[one])


def test_metrics_are_numbers():
    def hits(output, y):
        return (output.argmax(1) == y).sum()

    forms = {"tensor": hits, "number": lambda o, y: hits(o, y).item(), "row": lambda o, y: hits(o, y).reshape(1)}
    one = small(pairs(), metrics=forms)
    one.fit(1)
    means = one.history[0]["train"]
    assert means["tensor"] == means["number"] == means["row"] > 0
    with pytest.raises(ArgumentError, match=r"metric 'each' must give .* one number, got shape \(4,\)"):
        small(pairs(), metrics={"each": lambda output, y: output.argmax(1) == y}).fit(1)
    with pytest.raises(ArgumentError, match="got None"):
        Means({"none": cast("Any", lambda output, y: None)}).add(X, Y, torch.tensor(0.0), 12)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_copies_weights_refuses_those_without_a_shape():
    for use in (lambda one: one.fit(1, callbacks=[EMA(0.9)]), find_lr):
        with pytest.raises(ArgumentError, match=r"weight of the model must be initialized"):
            use(small(pairs(), model=nn.Sequential(nn.LazyLinear(2))))
    small(pairs(), model=nn.Sequential(nn.LazyLinear(2))).fit(1)


# ---- cancellations (14, 15) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_a_phase_that_is_cut_short_has_its_means(training):
    seen = []

    class Cuts(Callback):
        def after_batch(self, learner):
            if learner.training == training:
                raise CancelEpoch

        def cleanup_epoch(self, learner):
            seen.append((learner.training, learner.loop.position, dict(learner.history[learner.epoch])))

    one = learner(callbacks=[Cuts()])
    one.fit(1)
    assert set(one.history[0]["train"]) == set(one.history[0]["eval"]) == {"loss", "accuracy"}
    assert [there for there, *_ in seen] == [True, False]
    assert all(means["train" if there else "eval"] for there, _, means in seen)
    assert seen[-1][1] == one.loop.position == (1, 0)


class CancelAt(Callback):
    def __init__(self, where, batch):
        self.batch = batch
        self.where = where
        setattr(self, where, self.cancel)

    def cancel(self, learner, proceed=lambda: None):
        if learner.batch.index == self.batch:
            raise CancelBatch
        proceed()


@pytest.mark.parametrize("where", ["before_batch", "after_predict", "after_loss"])
def test_a_step_whose_last_batch_is_cancelled_uses_the_others(where):
    """Of 3 + 1 batches the third is cancelled: the first step is with two thirds of the mean gradient of the others."""
    data = [*pairs(4), (X[:4], Y[:4])]
    one = small(data, callbacks=[Accumulate(3), CancelAt(where, 2)])
    one.fit(1)
    model = small(data).model
    for batches, share in ((data[:2], 1 / 3), (data[3:], 1.0)):
        losses = [nn.functional.cross_entropy(model(x), y) * share for x, y in batches]
        slopes = torch.autograd.grad(torch.stack(losses).sum(), list(model.parameters()))
        with torch.no_grad():
            for p, slope in zip(model.parameters(), slopes, strict=True):
                p -= 0.1 * slope
    assert one.steps == 2
    for p, q in zip(one.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)  # float32, another order of sums


@pytest.mark.parametrize("where", ["backward", "after_backward", "step"])
def test_a_batch_that_is_cancelled_after_its_gradient_takes_its_step_along(where):
    data = [*pairs(4), (X[:4], Y[:4])]
    one = small(data, callbacks=[Accumulate(3), CancelAt(where, 2)])
    one.fit(1)
    assert one.steps == 1
    alone = small(data[3:])
    alone.fit(1)
    assert same(weights(one), weights(alone))
