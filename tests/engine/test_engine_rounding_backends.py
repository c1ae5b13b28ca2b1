"""Rounding under tracing, torch.compile, vmap, views and invalid dtypes."""

import math

import pytest
import torch
from rounding_support import ALL_NOISE, every_exponent, i32, indices, same_bits
from torch.fx.experimental.proxy_tensor import make_fx

from dashpot.engine.rounding import join, mix, noise, seed_word, split, stochastic, stream
from dashpot.errors import ArgumentError


def round_trip(x, index, word):
    n = noise(index, stream(word, 3, 1))
    high, low = split(x)
    return n, stochastic(x, n), high, low, join(high, low)


def all_inputs():
    x = torch.cat([every_exponent(), torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])])
    return x, indices(x.numel()), i32(seed_word(4))


def assert_all_same(results, expected):
    for result, reference in zip(results, expected, strict=True):
        assert same_bits(result, reference)


def test_traced_graph_matches_bit_for_bit():
    x, index, word = all_inputs()
    graph = make_fx(round_trip, tracing_mode="symbolic")(x[:10], index[:10], i32(1))
    assert_all_same(graph(x, index, word), round_trip(x, index, word))


def test_traced_graph_uses_portable_operations():
    graph = make_fx(round_trip)(*all_inputs()).graph
    names = {node.target.overloadpacket.__name__ for node in graph.nodes if node.op == "call_function"}
    assert names <= {
        "add",
        "mul",
        "sub",
        "where",
        "gt",
        "view",
        "_to_copy",
        "bitwise_xor",
        "bitwise_and",
        "__rshift__",
        "abs",
        "lt",
        "ne",
        "isnan",
        "scalar_tensor",  # a Python number in torch.where
        "detach",  # a no-op recorded after each bitcast
    }
    dtypes = {node.meta["val"].dtype for node in graph.nodes if "val" in node.meta}
    assert dtypes == {torch.int16, torch.int32, torch.float32, torch.bfloat16, torch.bool}


@pytest.mark.slow  # importing torch's compiler takes seconds
def test_dynamo_eager_matches_bit_for_bit():
    x, index, word = all_inputs()
    torch.compiler.reset()
    compiled = torch.compile(round_trip, backend="eager", fullgraph=True, dynamic=True)
    assert_all_same(compiled(x, index, word), round_trip(x, index, word))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # raised by the import of torch's compiler
def test_inductor_matches_bit_for_bit():
    # Inductor removes the casts float32 -> bfloat16 -> float32 inside a kernel, so split must not depend on them.
    x, index, word = all_inputs()
    torch.compiler.reset()
    compiled = torch.compile(round_trip, fullgraph=True, dynamic=True)
    assert_all_same(compiled(x, index, word), round_trip(x, index, word))


def test_vmap_matches_separate_calls():
    generator = torch.Generator().manual_seed(5)
    x, index = torch.randn(6, 50, generator=generator), indices(50)
    words = mix(i32(1), indices(6))
    mapped = torch.func.vmap(round_trip, in_dims=(0, None, 0))(x, index, words)
    separate = [round_trip(x[k], index, words[k]) for k in range(6)]
    assert_all_same(mapped, [torch.stack(parts) for parts in zip(*separate, strict=True)])


def test_noncontiguous_views_round_like_copies():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).t()[:, ::2]
    n = noise(indices(120), i32(9)).view(20, 6).t()
    assert same_bits(stochastic(x, n), stochastic(x.contiguous(), n.contiguous()))
    assert same_bits(split(x)[1], split(x.contiguous())[1])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3)])
def test_any_shape_is_supported(shape):
    x = torch.full(shape, 1.001)
    n = torch.full(shape, 65535, dtype=torch.int32)
    assert stochastic(x, n).shape == shape
    assert (stochastic(x, n) == 1.0078125).all()
    assert join(*split(x)).shape == shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mix(torch.tensor(1), 0), "mix: word must be a tensor of torch.int32, got torch.int64"),
        (lambda: mix(i32(1), torch.tensor(1)), "mix: salt must be a tensor of torch.int32, got torch.int64"),
        (lambda: noise(torch.arange(3), i32(1)), "noise: index must be a tensor of torch.int32, got torch.int64"),
        (
            lambda: stochastic(torch.ones(2, dtype=torch.float64), ALL_NOISE[:2]),
            "stochastic: x must be a tensor of torch.float32, got torch.float64",
        ),
        (
            lambda: stochastic(torch.ones(2), torch.arange(2)),
            "stochastic: noise must be a tensor of torch.int32, got torch.int64",
        ),
        (lambda: split(torch.ones(2).half()), "split: x must be a tensor of torch.float32, got torch.float16"),
        (
            lambda: join(torch.ones(2), torch.ones(2)),
            "join: high must be a tensor of torch.bfloat16, got torch.float32",
        ),
        (
            lambda: join(torch.ones(2).bfloat16(), torch.ones(2)),
            "join: low must be a tensor of torch.bfloat16, got torch.float32",
        ),
    ],
)
def test_wrong_dtype_raises(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
