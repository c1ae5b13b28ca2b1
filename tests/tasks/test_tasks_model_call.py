"""Calls of a model with tensors, mappings, named tuples, tuples and lists."""

from __future__ import annotations

from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from dashpot.errors import ArgumentError
from dashpot.tasks.model_call import call_model

A, B = torch.ones(2), torch.zeros(2)
Pair = namedtuple("Pair", ["a", "b"])


def model(forward) -> nn.Module:
    module = nn.Module()
    module.forward = forward
    return module


two = model(lambda a, b: (a, b))
optional = model(lambda a, b=None: (a, b))
one = model(lambda x: x)
any_names = model(lambda **named: named)
any_count = model(lambda *items: items)
keyword_only = model(lambda a, *, b: (a, b))


@pytest.mark.parametrize("module", [two, optional, keyword_only])
@pytest.mark.parametrize("x", [{"b": B, "a": A}, UserDict(a=A, b=B), Pair(A, B)])
def test_call_model_names_accepted_by_forward_passes_keywords(module, x):
    a, b = call_model(module, x)
    assert a is A
    assert b is B


def test_call_model_mapping_with_variable_keywords_passes_keywords():
    assert call_model(any_names, {"a": A}) == {"a": A}


@pytest.mark.parametrize("module", [two, optional, any_count])
def test_call_model_tuple_passes_positional_arguments(module):
    a, b = call_model(module, (A, B))
    assert a is A
    assert b is B


def test_call_model_list_of_two_for_two_required_arguments_passes_positional_arguments():
    a, b = call_model(two, [A, B])
    assert a is A
    assert b is B


@pytest.mark.parametrize("x", [A, [A, B], (A, B), {"a": A}, {1: A}, Pair(A, B), "text", None, pack_sequence([A])])
def test_call_model_single_argument_passes_input_unchanged(x):
    assert call_model(one, x) is x


def test_call_model_list_with_one_required_argument_passes_input_unchanged():
    x = [A, B]
    assert call_model(optional, x)[0] is x


def test_call_model_packed_sequence_is_one_argument_of_recurrent_network():
    network = nn.GRU(1, 2, batch_first=True)
    output, _ = call_model(network, pack_sequence([torch.ones(3, 1), torch.ones(2, 1)]))
    assert output.data.shape == (5, 2)


def test_call_model_wrapped_module_uses_signature_of_model():
    a, b = call_model(two, {"a": A, "b": B}, call=lambda **named: (named["a"], named["b"]))
    assert a is A
    assert b is B


@pytest.mark.parametrize("x", [{"a": A}, {"a": A, "b": B, "c": B}, (A, B, A), (A,), [A]])
def test_call_model_mismatch_with_required_arguments_raises(x):
    with pytest.raises(ArgumentError, match=r"must match the arguments of Module\.forward, a, b, got (the keys a|\d)"):
        call_model(two, x)


def test_call_model_partial_match_of_keys_raises():
    with pytest.raises(ArgumentError, match="got the keys a, c"):
        call_model(optional, {"a": A, "c": B})


def test_call_model_compiled_model_uses_signature_of_original():
    compiled = nn.Module()
    compiled._orig_mod = two
    compiled.forward = two.forward
    a, b = call_model(compiled, Pair(A, B))
    assert a is A
    assert b is B
