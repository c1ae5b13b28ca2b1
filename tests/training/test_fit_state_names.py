"""Names in checkpoints, with and without the prefixes of torch.compile and DDP."""

from __future__ import annotations

import copy

import pytest
import torch
from learner_support import StopAt, pairs, same, weights
from torch import nn

import dashpot as dp
from dashpot.errors import RunError
from dashpot.training import EMA, SWA, EarlyStopping, Engine, Learner
from dashpot.training.state.tensor_names import renames
from dashpot.training.state.weights import check_model, load_model_state

# Dynamo reads this attribute of the inputs of a compiled submodule.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Wrapper(nn.Module):
    """Module that stores the wrapped module as `module`, like DDP."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Tanh()), nn.Linear(4, 2))


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model[1] = compiled(model[1])
    model[2] = compiled(model[2])
    return model


def plain(model):
    return model


KINDS = {"plain": plain, "compiled": compiled, "compiled inside": compiled_inside, "wrapped": Wrapper}


def fit(kind, epochs=3, callbacks=(), **options):
    torch.manual_seed(5)
    average = options.pop("average", EMA)
    model = KINDS[kind](network())
    next(p for name, p in model.named_parameters() if name.endswith("0.bias")).requires_grad_(False)
    subject = Learner(
        model,
        pairs(),
        pairs(),
        loss=nn.functional.cross_entropy,
        optimizer=dp.AdamW,
        lr=0.01,
        callbacks=[average(0.9) if average is EMA else average(0), EarlyStopping("loss", patience=9), *callbacks],
        engine=Engine("cpu"),
    )
    subject.fit(epochs, **options)
    return subject


@pytest.mark.needs_compiler
@pytest.mark.parametrize("average", [EMA, pytest.param(SWA, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("saved_by", "resumed_by"),
    [
        ("plain", "compiled"),
        pytest.param("compiled", "plain", marks=pytest.mark.slow),
        pytest.param("compiled inside", "wrapped", marks=pytest.mark.slow),
        pytest.param("plain", "compiled inside", marks=pytest.mark.slow),
        pytest.param("compiled", "compiled inside", marks=pytest.mark.slow),
        pytest.param("wrapped", "compiled", marks=pytest.mark.slow),
        ("plain", "wrapped"),
    ],
)
def test_resume_with_other_wrappers_is_bit_identical(saved_by, resumed_by, average):
    expected = fit(resumed_by, average=average)
    stop = StopAt(4)
    fit(saved_by, callbacks=[stop], average=average)
    before = copy.deepcopy(stop.state)
    resumed = fit(resumed_by, resume=stop.state, average=average)
    assert same(weights(resumed), weights(expected))
    assert resumed.history == expected.history
    assert str(before) == str(stop.state)


@pytest.mark.needs_compiler
def test_weights_are_loaded_in_both_directions():
    for source, target in (("compiled", "plain"), ("plain", "compiled"), ("compiled inside", "wrapped")):
        first, second = KINDS[source](network()), KINDS[target](network())
        with torch.no_grad():
            for p in first.parameters():
                p.add_(1.0)
        load_model_state(second, first.state_dict())
        assert same(list(first.state_dict().values()), list(second.state_dict().values()))


@pytest.mark.needs_compiler
def test_mismatch_of_compiled_and_other_model_lists_differences():
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    with pytest.raises(RunError) as caught:
        check_model(other, compiled(network()).state_dict())
    assert str(caught.value).startswith(
        "The checkpoint does not match the model: _orig_mod.1.0.weight is only in the checkpoint; _orig_mod.1.0.bias "
    )
    assert str(caught.value).endswith("_orig_mod.2.weight is only in the checkpoint; and 3 more.")
    other = network()
    other[2] = nn.Linear(4, 7)
    with pytest.raises(RunError, match=r" 2.weight has shape \(2, 4\) in the checkpoint, \(7, 4\) in the model"):
        check_model(other, compiled(network()).state_dict())


def test_renames_of_ambiguous_or_different_names_are_empty():
    assert renames(["a.weight", "a._orig_mod.weight"], ["a.weight"]) == {}
    assert renames(["a.weight"], ["b.weight"]) == {}
    assert renames(["module.a", "module.b"], ["module.a", "module.b"]) == {}
    assert renames(["module.a", "b"], ["a", "b"]) == {}
