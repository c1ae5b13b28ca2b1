"""Stochastic rounding and compensated bfloat16: exact where it can be, inside stated sampling limits where not.

Sampling limits: every seed is fixed, so a test either always passes or always fails. Limits are 5 standard deviations
where a test makes one comparison or a few hundred; for true random numbers even the largest of 10^4 passes that.
"""

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from dashpot.engine.rounding import join, mix, noise, seed_word, split, stochastic, stream
from dashpot.errors import ArgumentError

Z = 5.0
LARGEST = 3.3895313892515355e38  # the largest finite bfloat16
ALL_NOISE = torch.arange(65536, dtype=torch.int32)
EVERY_BFLOAT16 = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
bounded = st.floats(-LARGEST, LARGEST, width=32)


def i32(value):
    return torch.tensor(value, dtype=torch.int32)


def indices(n):
    return torch.arange(n, dtype=torch.int32)


def bits(x):
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])


def same_bits(x, y):
    """Equal bit for bit; nan counts as nan, because casts are free to choose the payload."""
    assert x.dtype == y.dtype
    if not x.dtype.is_floating_point:
        return torch.equal(x, y)
    nan = x.isnan()
    return torch.equal(nan, y.isnan()) and torch.equal(bits(x)[~nan], bits(y)[~nan])


def every_exponent():
    """Float32 numbers of every exponent and sign, with fractions that sit on, beside and between bfloat16 numbers."""
    generator = torch.Generator().manual_seed(7)
    edges = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x17FFF, 0x18000, 0x7F7FFF, 0x7F8000, 0x7FFFFF]
    fractions = torch.cat([i32(edges), torch.randint(0, 2**23, (200,), generator=generator, dtype=torch.int32)])
    positive = ((indices(256)[:, None] << 23) + fractions).flatten()
    return torch.cat([positive, positive | i32(-(2**31))]).view(torch.float32)


def neighbours(x):
    """The bfloat16 numbers next to `x` towards 0 and away from 0, by Python integers: an independent reference."""
    (pattern,) = struct.unpack("<I", struct.pack("<f", x))
    below = pattern & 0xFFFF0000
    above = below if pattern == below else below + 0x10000
    return tuple(struct.unpack("<f", struct.pack("<I", p))[0] for p in (below, above))


# --- the hash -------------------------------------------------------------------------------------------------------


def reference_mix(word, salt):
    """The same hash in unbounded Python integers, reduced modulo 2^32 after every operation."""
    x = (word + (salt + 1) * 0x9E3779B9) % 2**32
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        x = (x ^ (x >> shift)) * factor % 2**32
    x ^= x >> 14
    return (x + 2**31) % 2**32 - 2**31


@settings(deadline=None, max_examples=200)
@given(word=st.integers(-(2**31), 2**31 - 1), salt=st.integers(-(2**31), 2**31 - 1))
def test_mix_is_the_published_hash_modulo_two_to_the_32(word, salt):
    expected = reference_mix(word, salt)
    assert int(mix(i32(word), salt)) == expected
    assert int(mix(i32(word), i32(salt))) == expected
    assert mix(i32([word, word]), i32(salt)).tolist() == [expected, expected]


def test_mix_is_one_to_one_in_the_salt():
    mixed = mix(i32(12345), indices(2**20))
    assert mixed.unique().numel() == 2**20


def test_stream_is_the_chain_of_mixes_for_integers_and_tensors():
    word = seed_word(11)
    expected = mix(mix(mix(i32(word), 5), 3), 2)
    assert expected.shape == ()
    assert torch.equal(stream(word, 5, 3, 2), expected)
    assert torch.equal(stream(i32(word), i32(5), i32(3), 2), expected)
    assert not torch.equal(stream(word, 3, 5, 2), expected)  # the order matters


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "0", None])
def test_a_seed_outside_its_range_is_refused_in_one_sentence(seed):
    with pytest.raises(ArgumentError, match=r"seed_word: seed must be an integer in \[0, 9\.22337e\+18\), got"):
        seed_word(seed)


def test_seed_words_are_signed_and_scattered():
    words = [seed_word(seed) for seed in (*range(1000), *(2**k for k in range(10, 63)), 2**63 - 1)]
    assert all(-(2**31) <= word < 2**31 for word in words)
    assert len(set(words)) == len(words)  # chance of a collision among 1054 of 2^32: 1.3e-4
    flips = ((seed_word(seed) ^ seed_word(seed + 1)) % 2**32 for seed in range(1000))
    flipped = sum(bin(word).count("1") for word in flips)
    assert abs(flipped - 16 * 1000) < Z * math.sqrt(8 * 1000)  # each of 32 bits flips with chance 1/2


# --- the noise ------------------------------------------------------------------------------------------------------


def chi_square_z(values, bins):
    counts = torch.bincount(values.long(), minlength=bins).double()
    expected = values.numel() / bins
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return (statistic - (bins - 1)) / math.sqrt(2 * (bins - 1))  # normal for this many degrees of freedom


def correlation_z(a, b):
    """Standardised with the exact mean and variance of a uniform integer in [0, 65535]."""
    variance = (65536**2 - 1) / 12
    return ((a.double() - 32767.5) * (b.double() - 32767.5)).mean().item() / variance * math.sqrt(a.numel())


def bit_agreement_z(a, b):
    """The largest of the 256 correlations between a bit of `a` and a bit of `b`."""
    planes = [((x[:, None] >> indices(16)) & 1).float() * 2 - 1 for x in (a, b)]
    return ((planes[0].T @ planes[1]).abs().max() / math.sqrt(a.numel())).item()


N = 2**19
BASE = (4, 2, 1)  # step, tensor, slot
OTHERS = {
    "next step": (5, 2, 1),
    "step far on": (100_004, 2, 1),
    "next tensor": (4, 3, 1),
    "next slot": (4, 2, 2),
    "numbers swapped": (2, 4, 1),
}


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 1])
def test_noise_is_uniform(seed):
    values = noise(indices(2**22), stream(seed_word(seed), *BASE))
    assert values.dtype == torch.int32
    assert values.min() == 0
    assert values.max() == 65535
    assert abs(chi_square_z(values, 65536)) < Z
    mean_z = (values.double().mean().item() - 32767.5) / math.sqrt((65536**2 - 1) / 12 / values.numel())
    assert abs(mean_z) < Z


@pytest.mark.parametrize("lag", [1, 2, 16, 64, 128, 256, 384, 512, 2**16])  # 128 to 384 share a hash
def test_noise_of_neighbouring_elements_is_independent(lag):
    values = noise(indices(N + lag), stream(seed_word(3), *BASE))
    assert_independent(values[:-lag], values[lag:])


@pytest.mark.parametrize("lag", [0, 1, 128, 256, 384, 512])
def test_the_two_halves_are_independent_of_each_other_and_of_the_neighbours(lag):
    word = stream(seed_word(3), *BASE)
    assert_independent(noise(indices(N), word, 0), noise(indices(N) + lag, word, 1))


@pytest.mark.parametrize("numbers", OTHERS.values(), ids=OTHERS)
def test_noise_of_neighbouring_streams_is_independent(numbers):
    a, b = (noise(indices(N), stream(seed_word(3), *n)) for n in (BASE, numbers))
    assert_independent(a, b)


@pytest.mark.parametrize("change", [1, 2**16, -(2**31)])
def test_streams_whose_counters_overlap_are_independent(change):
    word = stream(seed_word(3), *BASE)
    a, b = noise(indices(N), word), noise(indices(N), word ^ change)
    assert_independent(a, b)
    if change < N:  # the same counters in another order: without the second word this would be 1.0
        assert (a == noise(indices(N) ^ change, word ^ change)).float().mean() < 1e-3


def test_noise_of_neighbouring_seeds_is_independent():
    assert_independent(*(noise(indices(N), stream(seed_word(seed), *BASE)) for seed in (8, 9)))


def test_one_element_over_many_steps_is_uniform_and_uncorrelated():
    steps = indices(2**18)
    words = mix(mix(mix(i32(seed_word(5)), steps), 2), 1)
    values = noise(torch.full_like(steps, 77), words)
    assert abs(chi_square_z(values >> 8, 256)) < Z
    assert abs(correlation_z(values[:-1], values[1:])) < Z
    assert bit_agreement_z(values[:-1], values[1:]) < Z


def assert_independent(a, b):
    assert abs(correlation_z(a, b)) < Z
    assert bit_agreement_z(a, b) < Z
    assert abs(chi_square_z((a >> 8 << 8) | (b >> 8), 65536)) < Z  # joint distribution of the upper bytes


# --- stochastic rounding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 32767, 32768, 65535])
def test_every_bfloat16_stays_what_it_is(n):
    x = EVERY_BFLOAT16.to(torch.float32)
    assert same_bits(stochastic(x, i32(n)), EVERY_BFLOAT16)  # zeros keep their sign, nans stay nans


def test_every_bfloat16_stays_what_it_is_for_every_noise():
    x = EVERY_BFLOAT16.to(torch.float32)
    for shift in range(16):  # each element meets a different noise in each round
        assert same_bits(stochastic(x, (ALL_NOISE * 40503 + shift * 4099) & 0xFFFF), EVERY_BFLOAT16)
    for value in (0.0, -0.0, 1.0, -LARGEST, LARGEST, math.inf, -math.inf, 2.0**-133, -(2.0**-126)):
        expected = torch.full((65536,), value, dtype=torch.bfloat16)
        assert same_bits(stochastic(torch.full((65536,), value), ALL_NOISE), expected)


@pytest.mark.parametrize("pattern", [0x7F800001, 0x7F80FFFF, 0x7FC00000, 0x7FFFFFFF, -1, -0x7FFFFF, -0x400000])
def test_a_nan_of_any_payload_stays_a_nan(pattern):
    x = torch.full((65536,), pattern, dtype=torch.int32).view(torch.float32)
    assert x.isnan().all()
    assert stochastic(x, ALL_NOISE).isnan().all()


@pytest.mark.parametrize(
    "x", [1.001, -1.001, 0.1, 1.9999999, -3.14159, 1e-3, 6.1e4, 1e-38, 1e-40, -1.4e-45, 3.389e38, 2.0**-126 * 1.003]
)
def test_the_mean_over_all_noise_is_exactly_x(x):
    x = torch.tensor(x)
    rounded = stochastic(x.expand(65536), ALL_NOISE).double()
    # Every term is a multiple of x's unit in the last place and the sum stays below 2^53 of them: float64 is exact.
    assert (rounded.sum() == 65536 * x.double()).item()


@settings(deadline=None, max_examples=300)
@given(x=bounded, n=st.integers(0, 65535))
def test_only_the_two_neighbours_appear_and_never_infinity(x, n):
    rounded = stochastic(torch.tensor(x), i32(n)).item()
    assert rounded in neighbours(x)
    assert math.isfinite(rounded)
    assert math.copysign(1, rounded) == math.copysign(1, x)


@settings(deadline=None, max_examples=300)
@given(x=float32s, n=st.integers(0, 65535))
def test_stochastic_rounding_is_symmetric_in_the_sign(x, n):
    x = torch.tensor(x)
    assert same_bits(stochastic(-x, i32(n)), -stochastic(x, i32(n)))


def test_above_the_largest_bfloat16_infinity_takes_the_place_of_the_next_number():
    x = torch.tensor([0x7F7F4000, 0x7F7FFFFF], dtype=torch.int32).view(torch.float32)[:, None]
    rounded = stochastic(x, ALL_NOISE)
    assert rounded.isinf().sum(dim=1).tolist() == [0x4000, 0xFFFF]
    assert (rounded[~rounded.isinf()].double() == LARGEST).all()


def test_drawn_noise_rounds_without_bias():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, generator=generator) * torch.logspace(-30, 30, 64)
    draws = 4096
    n = noise(indices(64 * draws), stream(seed_word(1), 0, 0, 0)).view(64, draws)
    error = stochastic(x[:, None].expand(64, draws), n).double().mean(dim=1) - x.double()
    below, above = torch.tensor([neighbours(v) for v in x.tolist()], dtype=torch.float64).T
    chance = (x.double() - below) / (above - below)
    z = error / ((above - below).abs() * (chance * (1 - chance) / draws).sqrt())
    assert z.abs().max() < Z
    assert abs((z**2).sum().item() - 64) < Z * math.sqrt(2 * 64)  # nor is the spread too small or too large


def test_a_thousand_small_steps_arrive_with_stochastic_rounding_and_never_leave_to_nearest():
    count, steps, lr = 4096, 1000, 1e-3
    word, index = i32(seed_word(2)), indices(count)
    w = torch.ones(count, dtype=torch.bfloat16)
    nearest = w.clone()
    for step in range(steps):
        w = stochastic(w.float() + lr, noise(index, stream(word, step, 0, 0)))
        nearest = (nearest.float() + lr).to(torch.bfloat16)
    # A step changes w by one unit u or not at all, with mean lr: its variance is at most lr * u, and u <= 2^-6 below 4.
    deviation = math.sqrt(steps * lr * 2**-6 / count)
    float32_roundings = steps * 2**-23
    assert abs(w.double().mean().item() - 2.0) < Z * deviation + float32_roundings
    assert w.unique().numel() > 10  # the elements walk independently
    assert (nearest == 1.0).all()


def test_an_average_held_in_bfloat16_follows_the_float32_one_only_with_stochastic_rounding():
    count, steps, beta = 4096, 3000, 0.999
    word, index = i32(seed_word(6)), indices(count)
    exact = torch.zeros(count)
    held, nearest = exact.to(torch.bfloat16), exact.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        g = 0.75 + 0.1 * torch.randn(count, generator=generator)
        exact = beta * exact + (1 - beta) * g
        held = stochastic(beta * held.float() + (1 - beta) * g, noise(index, stream(word, step, 0, 1)))
        nearest = (beta * nearest.float() + (1 - beta) * g).to(torch.bfloat16)
    assert exact.max() < 1
    # One rounding has variance u^2 / 4 at most, u = 2^-8 below 1; the average sums them with weights beta^(2 k).
    deviation = 2**-9 / math.sqrt(1 - beta**2)
    error = held.double() - exact.double()
    assert abs(error.mean().item()) < Z * deviation / math.sqrt(count)
    assert error.abs().max() < (Z + 1) * deviation  # 4096 elements; the bound on the variance is loose
    assert (nearest.double() - exact.double()).mean() < -0.25  # stalled far below


# --- high and low ---------------------------------------------------------------------------------------------------


def error_bound(x):
    return torch.maximum(x.double().abs() * 2.0**-17, torch.tensor(2.0**-134, dtype=torch.float64))


def test_split_and_join_keep_17_significant_bits_at_every_exponent():
    x = every_exponent()
    high, low = split(x)
    assert same_bits(high, x.to(torch.bfloat16))
    back = join(high, low)
    finite = high.isfinite()
    assert ((back.double() - x.double()).abs() <= error_bound(x))[finite].all()
    assert (back.double() == high.double() + low.double())[finite].all()  # the sum is exact
    assert (low[~finite] == 0).all()
    assert same_bits(back[~finite], high[~finite].float())


def test_the_error_bound_of_split_is_attained():
    # 1 + 2^-9 + 2^-17: the remainder lies half way between two numbers of 8 bits, and 2^-17 is lost.
    x = torch.tensor(1 + 2.0**-9 + 2.0**-17)
    assert (join(*split(x)).double() - x.double()).abs() == 2.0**-17
    assert (x.to(torch.bfloat16).double() - x.double()).abs() > 2.0**-9


@settings(deadline=None, max_examples=500)
@given(x=bounded)
def test_split_and_join_stay_within_the_bound(x):
    x = torch.tensor(x)
    assert (join(*split(x)).double() - x.double()).abs() <= error_bound(x)


def test_every_bfloat16_is_its_own_high_with_nothing_low():
    x = EVERY_BFLOAT16.to(torch.float32)
    high, low = split(x)
    assert same_bits(high, EVERY_BFLOAT16)
    assert (low == 0).all()
    zero = x == 0
    assert same_bits(join(high, low)[~zero], x[~zero])  # nan and infinity come back as they are
    assert (join(high, low)[zero] == 0).all()


def test_split_after_join_changes_no_value():
    # The pair itself may change: half way between two values of `high`, the even one comes with the opposite `low`.
    x = every_exponent()
    value = join(*split(x[x.abs() <= LARGEST]))
    assert torch.equal(join(*split(value)), value)


def test_a_thousand_small_steps_arrive_in_a_split_weight():
    w = split(torch.ones(16))
    for _ in range(1000):
        w = split(join(*w) + 1e-3)
    # From 1 to 2 one step loses at most 2^-17 in the split and 2^-24 in the float32 sum; past 2 twice that.
    assert (join(*w).double() - 2.0).abs().max() < 1000 * (2.0**-17 + 2.0**-24)


def test_random_steps_into_a_split_weight_stay_near_the_float64_sum():
    generator = torch.Generator().manual_seed(3)
    exact = torch.ones(4096, dtype=torch.float64)
    w, nearest = split(torch.ones(4096)), torch.ones(4096, dtype=torch.bfloat16)
    for _ in range(1000):
        step = 1e-3 * torch.rand(4096, generator=generator)
        exact += step.double()
        w = split(join(*w) + step)
        nearest = (nearest.float() + step).to(torch.bfloat16)
    error = (join(*w).double() - exact).abs()
    # A rounding of the split is uniform in +-2^-17 at most and independent from step to step: sd 2^-17 sqrt(1000 / 3).
    assert error.max() < (Z + 1) * 2.0**-17 * math.sqrt(1000 / 3)
    assert (nearest == 1).all()


# --- engines --------------------------------------------------------------------------------------------------------


def all_of_it(x, index, word):
    n = noise(index, stream(word, 3, 1))
    high, low = split(x)
    return n, stochastic(x, n), high, low, join(high, low)


def everything():
    x = torch.cat([every_exponent(), torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])])
    return x, indices(x.numel()), i32(seed_word(4))


def assert_all_same(results, expected):
    for result, reference in zip(results, expected, strict=True):
        assert same_bits(result, reference)


def test_a_traced_graph_replays_the_same_bits_for_other_inputs():
    x, index, word = everything()
    graph = make_fx(all_of_it, tracing_mode="symbolic")(x[:10], index[:10], i32(1))
    assert_all_same(graph(x, index, word), all_of_it(x, index, word))


def test_the_graph_holds_only_operations_that_every_engine_translates():
    graph = make_fx(all_of_it)(*everything()).graph
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
        "scalar_tensor",  # a Python number beside a condition
        "detach",  # torch records it after each bitcast; it changes nothing
    }
    dtypes = {node.meta["val"].dtype for node in graph.nodes if "val" in node.meta}
    assert dtypes == {torch.int16, torch.int32, torch.float32, torch.bfloat16, torch.bool}


def test_dynamo_with_the_eager_backend_gives_the_same_bits():
    x, index, word = everything()
    torch.compiler.reset()
    compiled = torch.compile(all_of_it, backend="eager", fullgraph=True, dynamic=True)
    assert_all_same(compiled(x, index, word), all_of_it(x, index, word))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, on importing its compiler
def test_inductor_gives_the_same_bits():
    # Inductor leaves out float32 -> bfloat16 -> float32 inside a kernel: split must not depend on that pair.
    x, index, word = everything()
    torch.compiler.reset()
    compiled = torch.compile(all_of_it, fullgraph=True, dynamic=True)
    assert_all_same(compiled(x, index, word), all_of_it(x, index, word))


def test_vmap_over_words_and_values_equals_separate_calls():
    generator = torch.Generator().manual_seed(5)
    x, index = torch.randn(6, 50, generator=generator), indices(50)
    words = mix(i32(1), indices(6))
    mapped = torch.func.vmap(all_of_it, in_dims=(0, None, 0))(x, index, words)
    separate = [all_of_it(x[k], index, words[k]) for k in range(6)]
    assert_all_same(mapped, [torch.stack(parts) for parts in zip(*separate, strict=True)])


def test_views_that_are_not_contiguous_round_like_copies():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).t()[:, ::2]
    n = noise(indices(120), i32(9)).view(20, 6).t()
    assert same_bits(stochastic(x, n), stochastic(x.contiguous(), n.contiguous()))
    assert same_bits(split(x)[1], split(x.contiguous())[1])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3)])
def test_tensors_of_any_shape_are_taken(shape):
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
def test_a_wrong_dtype_is_refused_by_name(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
