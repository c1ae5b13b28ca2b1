"""Callback Freeze: frozen parameters, epochs, batch norm, resume, several processes and errors."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from learner_support import At, StopAt, learner, same, weights
from slow_values import others_slow
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Problem
from dashpot.training import Accumulate, ClipGradients, Engine, Freeze, Learner, Recorder

MAKERS = {
    "torch.SGD": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "SGD": partial(dp.SGD, momentum=0.9, weight_decay=0.1),
    "torch.AdamW": torch.optim.AdamW,
    "AdamW": dp.AdamW,
    "ESGD": dp.ESGD,
}
FROZEN = ["0.weight", "0.bias", "1.weight", "1.bias"]


class Snapshots(At):
    """Copies of the parameters after every epoch."""

    def __init__(self):
        self.taken = []
        super().__init__(
            "after_epoch", lambda learner: self.taken.append(params(learner)) if learner.training else None
        )


def params(one):
    return {name: p.detach().clone() for name, p in one.model.named_parameters()}


def changed(before, after):
    return [name for name in before if not torch.equal(before[name], after[name])]


@pytest.mark.parametrize("make", MAKERS)
def test_frozen_parameters_do_not_change(make):
    one = learner(MAKERS[make])
    before = params(one)
    one.fit(2, callbacks=[Freeze("0.*", "1.*")])
    assert changed(before, params(one)) == ["4.weight", "4.bias"]
    assert all(p.requires_grad for p in one.model.parameters())


@pytest.mark.parametrize("make", others_slow(MAKERS, "torch.AdamW", "ESGD"))
def test_gradual_unfreezing_changes_parameters_from_their_epoch(make):
    one, seen = learner(MAKERS[make]), Snapshots()
    start = params(one)
    one.fit(4, callbacks=[Freeze("0.*", until_epoch=3), Freeze("1.*", until_epoch=1), seen])
    epochs = [changed(a, b) for a, b in zip([start, *seen.taken[:-1]], seen.taken, strict=True)]
    assert epochs == [["4.weight", "4.bias"], *[["1.weight", "1.bias", "4.weight", "4.bias"]] * 2, list(start)]


def test_parameters_freeze_from_an_epoch():
    one, seen = learner(MAKERS["SGD"]), Snapshots()
    start = params(one)
    one.fit(3, callbacks=[Freeze("0.*", from_epoch=1, until_epoch=2), seen])
    epochs = [changed(a, b) for a, b in zip([start, *seen.taken[:-1]], seen.taken, strict=True)]
    assert epochs == [list(start), [name for name in start if not name.startswith("0.")], list(start)]


def test_training_the_rest_equals_an_optimizer_over_the_rest():
    """The results equal those of an optimizer without the frozen parameters, in float64 with clipping."""

    def fit(make, callbacks):
        torch.manual_seed(1)
        one = learner(make, dtype=torch.float64)
        one.fit(2, callbacks=[ClipGradients(norm=0.1), Accumulate(2), *callbacks])
        return weights(one)

    def rest(params, lr):
        *_, weight, bias = params
        return MAKERS["AdamW"]([weight, bias], lr=lr)

    assert same(fit(MAKERS["AdamW"], [Freeze(*FROZEN)]), fit(rest, [At("after_backward", clear_others, -40)]))


def clear_others(one):
    for name, p in one.model.named_parameters():
        if name in FROZEN:
            p.grad = None


def test_initially_frozen_parameters_stay_frozen():
    one = learner(MAKERS["AdamW"])
    one.model[0].weight.requires_grad_(False)
    before = params(one)
    one.fit(2, callbacks=[Freeze("0.*", until_epoch=1)])
    assert "0.weight" not in changed(before, params(one))
    assert "0.bias" in changed(before, params(one))
    assert not one.model[0].weight.requires_grad


def test_overlapping_callbacks_freeze_until_the_last_ends():
    one, seen = learner(MAKERS["AdamW"]), Snapshots()
    start = params(one)
    one.fit(3, callbacks=[Freeze("0.*", until_epoch=1), Freeze("*.weight", until_epoch=2), seen])
    assert changed(start, seen.taken[0]) == ["1.bias", "4.bias"]
    assert changed(seen.taken[0], seen.taken[1]) == ["0.bias", "1.bias", "4.bias"]
    assert changed(seen.taken[1], seen.taken[2]) == list(start)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batchnorm_mode_of_frozen_layers(mode):
    one, seen = learner(MAKERS["AdamW"]), []
    statistics = one.model[1].running_mean.clone()

    def record(one):
        if one.training:
            seen.append((one.epoch, one.model[1].training, one.model[1].running_mean.clone()))

    one.fit(2, callbacks=[Freeze("1.*", until_epoch=1, batchnorm=mode), At("after_batch", record)])
    first = [(training, torch.equal(mean, statistics)) for epoch, training, mean in seen[:3]]
    assert first == [(mode == "train", mode == "eval")] * 3
    assert [training for epoch, training, _ in seen if epoch == 1] == [True] * 3


@pytest.mark.parametrize("batches", others_slow(range(1, 9), 2, 4))
def test_resume_at_any_batch_is_bit_identical(batches):
    def callbacks():
        return [Freeze("0.*", until_epoch=2, batchnorm="eval"), Freeze("1.*", until_epoch=1, batchnorm="eval")]

    torch.manual_seed(1)
    whole = learner(dp.AdamW, callbacks=callbacks())
    whole.fit(3)
    torch.manual_seed(1)
    learner(dp.AdamW, callbacks=[*callbacks(), stop := StopAt(batches)]).fit(3)
    resumed = learner(dp.AdamW, callbacks=callbacks())
    resumed.fit(3, resume=stop.state)
    assert same(weights(whole), weights(resumed))
    assert all(p.requires_grad for p in resumed.model.parameters())


def test_changed_patterns_are_rejected_at_a_resume():
    learner(dp.AdamW, callbacks=[Freeze("0.*"), stop := StopAt(2)]).fit(2)
    with pytest.raises(RunError, match=r"Freeze: patterns: saved 0\.\*, current 1\.\*; pass override=True"):
        learner(dp.AdamW, callbacks=[Freeze("1.*")]).fit(2, resume=stop.state)
    one = learner(dp.AdamW, callbacks=[Freeze("1.*")])
    one.fit(2, resume=stop.state, override=True)
    before = {name: value for name, value in stop.state["model"].items() if name in params(one)}
    assert [name for name in changed(before, params(one)) if name.startswith("1.")] == []
    assert "0.weight" in changed(before, params(one))


def test_tied_parameters_freeze_by_either_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    given = Problem(model, Batches(x, x, 4), nn.functional.mse_loss)
    Learner.of(given, dp.SGD, lr=0.1, engine=Engine("cpu")).fit(1, callbacks=[Freeze("b.weight")])
    assert torch.equal(model.a.weight, before["a.weight"])
    assert not torch.equal(model.a.bias, before["a.bias"])


def test_recorder_has_the_gradient_norm_of_the_trained_parameters():
    one, seen = learner(dp.SGD), Recorder("grad_norm")
    norms = []

    def norm(one):
        grads = [p.grad for p in one.model[4].parameters()]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    one.fit(1, callbacks=[Freeze(*FROZEN), At("after_backward", norm), seen])
    assert seen.values["grad_norm"] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Freeze, r"^Freeze: patterns must be one or more names of parameters, got \(\)\.$"),
        (lambda: Freeze(3), r"patterns must be one or more names of parameters, got \(3,\)"),
        (lambda: Freeze("0.*", from_epoch=-1), r"from_epoch must be an integer in \[0, inf\), got -1"),
        (lambda: Freeze("0.*", until_epoch=0), r"until_epoch must be None or an integer in \(0, inf\), got 0"),
        (lambda: Freeze("0.*", from_epoch=2, until_epoch=2), r"until_epoch must be None or an integer in \(2, inf\)"),
        (lambda: Freeze("0.*", batchnorm="off"), "batchnorm must be one of 'train', 'eval', got 'off'"),
    ],
)
def test_invalid_arguments_raise(make, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        make()


def test_pattern_without_parameter_raises_before_training():
    one = learner()
    before = params(one)
    sentence = "Freeze: patterns must match a parameter, got '9.*'; the parameters are "
    with pytest.raises(ArgumentError, match=f"^{re.escape(sentence)}0.weight, "):
        one.fit(1, callbacks=[Freeze("0.*", "9.*")])
    with pytest.raises(ArgumentError, match=re.escape("got '0'; did you mean '0.*'?")):
        one.fit(1, callbacks=[Freeze("0")])
    assert changed(before, params(one)) == []
    with pytest.raises(ArgumentError, match="all parameters are frozen"):
        one.fit(1, callbacks=[Freeze("*")])
    assert all(p.requires_grad for p in one.model.parameters())
