"""bfloat16 weights and state: small steps are not lost, and both engines use the same random bits."""

import io
import math

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, run, values
from engine_support import clone_leaves, eager_and_compiled, explanation, is_compiled, is_equal, run_steps, snapshot
from registry import SUBJECTS

import dashpot as dp

pytestmark = pytest.mark.needs_compiler

ENGINES = ("eager", "compiled")
HALF = torch.bfloat16
NAMED = {subject.name: subject for subject in SUBJECTS}

engines = pytest.mark.parametrize("engine", ENGINES)


def ones(count, dtype=HALF):
    return torch.ones(count, dtype=dtype, requires_grad=True)


STEPS, SIZE = 400, 1.9e-3  # from 1.0 to 0.24; the size is less than half the spacing of numbers below 1, 2^-9


def after_small_steps(engine, rounding, count=1024):
    """Return a weight of 1.0 after `STEPS` steps of `-SIZE` (gradient 1, learning rate `SIZE`)."""
    p = ones(count)
    optimizer = dp.SGD([p], lr=SIZE, engine=engine, rounding=rounding)
    p.grad = torch.ones_like(p)
    for _ in range(STEPS):
        optimizer.step()
    return p, optimizer


# ---- small steps ----------------------------------------------------------------------------------------------------


@engines
def test_nearest_rounding_loses_small_steps(engine):
    """The spacing of numbers below 1 is 2^-8, and half the spacing exceeds the step."""
    p, _ = after_small_steps(engine, "nearest")
    assert torch.equal(p, ones(1024))


@engines
def test_kahan_keeps_small_steps(engine):
    p, optimizer = after_small_steps(engine, "kahan")
    joined = p.double() + optimizer.state[p]["compensation"].double()
    # Each step has an error of 2^-17 |x| in the split (see rounding.split) and 2^-24 in float32.
    assert (joined - (1 - STEPS * SIZE)).abs().max().item() <= STEPS * (2**-17 + 2**-24)
    assert len(p.unique()) == 1


@engines
def test_stochastic_rounding_is_unbiased(engine):
    p, _ = after_small_steps(engine, "stochastic")
    # A step of s with spacing u adds the variance s (u - s) < s u, with u <= 2^-8 below 1: `STEPS` of them have a
    # standard deviation below sqrt(STEPS * SIZE * 2^-8) = 0.0545 for one element.
    bound = 5 * math.sqrt(STEPS * SIZE * 2**-8) / math.sqrt(p.numel())
    assert abs(p.double().mean().item() - (1 - STEPS * SIZE)) < bound
    assert len(p.unique()) > 10


@pytest.mark.diagonal
@engines
@pytest.mark.parametrize("rounding", ["kahan", "stochastic"])
def test_decay_is_rounded_together_with_step(engine, rounding):
    """A decoupled decay of 3e-4 per step would be lost if it were rounded separately."""
    steps, p = 300, ones(1024)
    optimizer = dp.AdamW([p], lr=0.01, weight_decay=0.03, engine=engine, rounding=rounding)
    for _ in range(steps):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    kept = optimizer.state[p].get("compensation", torch.zeros_like(p))
    expected = (1 - 3e-4) ** steps
    deviation = steps * 2**-17 if rounding == "kahan" else 5 * math.sqrt(steps * 3e-4 * 2**-8 / p.numel())
    assert abs((p.double() + kept.double()).mean().item() - expected) < deviation
    assert p.double().mean().item() < 0.95


# ---- both engines ---------------------------------------------------------------------------------------------------

SHAPES = ((3, 2), (64,), (), (20001,), (1,), (511,), (513,), (641,))  # hashes are shared within 512 elements


def arranged(shape=(2, 3, 4, 5)):
    (p,) = parameters(HALF, shapes=(shape,))
    return p.detach().contiguous(memory_format=torch.channels_last)


PRECISE = {
    "stochastic": {"rounding": "stochastic"},
    "stochastic with state": {"rounding": "stochastic", "state_dtype": HALF},
    "kahan": {"rounding": "kahan"},
    "kahan with state": {"rounding": "kahan", "state_dtype": HALF},
    "state": {"state_dtype": HALF},
}


@pytest.mark.parametrize("how", PRECISE)
def test_engines_agree_bit_for_bit_without_square_root(how):
    """Elementwise arithmetic rounds identically, and random numbers depend on the element, not on the memory format."""
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True, **PRECISE[how]}
    first, second = eager_and_compiled(
        lambda ps, **engine: dp.SGD(ps, **options, **engine),
        [*parameters(HALF, shapes=SHAPES), arranged()],
    )
    run_steps((first, second), range(10))
    assert is_compiled(second[1]), explanation(second[1])
    assert is_equal(snapshot(*first), snapshot(*second))


def test_bfloat16_state_of_float32_weights_agrees_bit_for_bit():
    first, second = eager_and_compiled(
        lambda ps, **engine: dp.SGD(ps, lr=0.01, momentum=0.9, state_dtype=HALF, **engine),
        parameters(torch.float32, shapes=SHAPES),
    )
    run_steps((first, second), range(10))
    assert is_compiled(second[1])
    assert second[1].state[second[0][0]]["momentum_buffer"].dtype == HALF
    assert is_equal(snapshot(*first), snapshot(*second))


@pytest.mark.parametrize("name", ["adamw-decay", pytest.param("autosgm-1-zero", marks=pytest.mark.slow)])
def test_engines_agree_in_nearly_all_bits_with_square_root(name):
    """A difference in the last bit changes the rounding of about one element in 2^15."""
    first, second = eager_and_compiled(
        lambda ps, **engine: NAMED[name].make(ps, rounding="stochastic", state_dtype=HALF, **engine),
        parameters(HALF, shapes=((20000,),)),
    )
    run_steps((first, second), range(10))
    assert is_compiled(second[1])
    differing = (first[0][0] != second[0][0]).double().mean().item()
    assert differing < 0.02
    assert distance([second[0][0].double()], [first[0][0].double()]) <= 2 * 2**-7


def test_random_bits_do_not_depend_on_threads():
    ran = []
    for threads in (1, 2):
        params = parameters(HALF, shapes=((70000,), (300,)))
        optimizer = dp.SGD(params, lr=0.01, momentum=0.9, engine="compiled", rounding="stochastic", state_dtype=HALF)
        torch.set_num_threads(threads)
        try:
            run_steps([(params, optimizer)], range(3))
        finally:
            torch.set_num_threads(1)
        ran.append(snapshot(params, optimizer))
    assert is_equal(*ran)


# ---- seeds and resuming ---------------------------------------------------------------------------------------------


def stochastic(params, **how):
    return dp.SGD(params, **{"lr": 0.01, "momentum": 0.9, "rounding": "stochastic", "state_dtype": HALF, **how})


@engines
def test_resumed_run_rounds_equally(engine):
    """The seed is saved in the groups, and replaces the seed given at construction."""
    params = parameters(HALF, shapes=SHAPES)
    optimizer = stochastic(params, engine=engine, seed=11)
    run_steps([(params, optimizer)], range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = clone_leaves(params)
    other = stochastic(others, engine=engine, seed=0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.param_groups[0]["seed"] == 11
    for pair in ((params, optimizer), (others, other)):
        run_steps([pair], range(5, 10))
    assert is_equal(snapshot(params, optimizer), snapshot(others, other))


def test_engine_can_change_at_checkpoint():
    straight, first, second = (parameters(HALF, shapes=SHAPES) for _ in range(3))
    optimizer = stochastic(straight, engine="eager", seed=4)
    run_steps([(straight, optimizer)], range(10))
    one = stochastic(first, engine="compiled", seed=4)
    run_steps([(first, one)], range(5))
    with torch.no_grad():
        for p, q in zip(second, first, strict=True):
            p.copy_(q)
    two = stochastic(second, engine="eager", seed=9)
    two.load_state_dict(one.state_dict())
    run_steps([(second, two)], range(5, 10))
    assert is_equal(snapshot(second, two), snapshot(straight, optimizer))


@engines
def test_different_seeds_round_differently(engine):
    ran = []
    for seed in (0, 0, 1, 2**40):
        params = parameters(HALF, shapes=((5000,),))
        ran.append(values(run(stochastic(params, engine=engine, seed=seed), params, 1))[0])
    assert torch.equal(ran[0], ran[1])
    assert not torch.equal(ran[0], ran[2])
    assert not torch.equal(ran[0], ran[3])


def noise_of(engine, steps=1, tensors=1, **how):
    """Return the mask of elements that each step rounds up; exact results are halfway between two bfloat16 numbers."""
    params = [torch.ones(20000, dtype=HALF, requires_grad=True) for _ in range(tensors)]
    optimizer = dp.SGD(params, lr=2.0**-9, engine=engine, rounding="stochastic", **how)
    seen = []
    for _ in range(steps):
        for p in params:
            p.data.fill_(1)
            p.grad = torch.ones_like(p)
        optimizer.step()
        seen.append([(p == 1).double() for p in params])
    return seen


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


@engines
def test_steps_and_tensors_round_independently(engine):
    seen = noise_of(engine, steps=2, tensors=2)
    draws = [seen[0][0], seen[0][1], seen[1][0], seen[1][1]]
    for i, a in enumerate(draws):
        assert abs(a.mean().item() - 0.5) < 5 * 0.5 / math.sqrt(a.numel())
        assert all(abs(correlation(a, b)) < 5 / math.sqrt(a.numel()) for b in draws[i + 1 :])


def test_frozen_parameter_does_not_change_rounding_of_others():
    ran = []
    for frozen in (False, True):
        params = [torch.ones(5000, dtype=HALF, requires_grad=True) for _ in range(2)]
        optimizer = stochastic(params, engine="compiled")
        for p in params[int(frozen) :]:
            p.grad = gradient(p, 0)
        optimizer.step()
        ran.append(params[1].detach().clone())
    assert torch.equal(*ran)


@engines
def test_slots_and_weight_round_independently(engine):
    """After the first step, both averages and the weight are halfway between two numbers."""
    recipe = dp.Recipe(dp.Filter(0.5, normalise="none"), dp.Filter(0.5, normalise="none", slot="second"), lr=2.0**-9)
    p = torch.ones(20000, dtype=HALF, requires_grad=True)
    optimizer = dp.SGM.from_recipe([p], recipe, engine=engine, rounding="stochastic", state_dtype=HALF)
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state[p]
    for key in ("momentum_buffer", "second"):
        state[key].fill_(1)
    p.data.fill_(1)
    p.grad.fill_(1 + 2.0**-7)
    optimizer.step()
    draws = [(x == x.max()).double() for x in (p, state["momentum_buffer"], state["second"]) if len(x.unique()) > 1]
    assert len(draws) >= 2
    for i, a in enumerate(draws):
        assert all(abs(correlation(a, b)) < 5 / math.sqrt(a.numel()) for b in draws[i + 1 :])


def test_seed_is_in_groups_only_with_stochastic_rounding():
    assert "seed" not in dp.SGD(parameters(HALF), lr=0.1, seed=3).param_groups[0]
    assert "seed" not in dp.SGD(parameters(HALF), lr=0.1, rounding="kahan", seed=3).param_groups[0]
    assert dp.SGD(parameters(HALF), lr=0.1, rounding="stochastic", seed=3).param_groups[0]["seed"] == 3
    assert dp.SGD(parameters(HALF), lr=0.1, state_dtype=HALF, seed=3).param_groups[0]["seed"] == 3


# ---- what is kept ---------------------------------------------------------------------------------------------------

KEPT = [
    (torch.float32, {}, {"exp_avg": torch.float32, "exp_avg_sq": torch.float32}, 8),
    (torch.float32, {"state_dtype": HALF}, {"exp_avg": HALF, "exp_avg_sq": HALF}, 4),
    (HALF, {}, {"exp_avg": torch.float32, "exp_avg_sq": torch.float32}, 8),
    (HALF, {"state_dtype": HALF}, {"exp_avg": HALF, "exp_avg_sq": HALF}, 4),
    (HALF, {"rounding": "kahan"}, {"exp_avg": torch.float32, "exp_avg_sq": torch.float32, "compensation": HALF}, 10),
    (HALF, {"rounding": "kahan", "state_dtype": HALF}, {"exp_avg": HALF, "exp_avg_sq": HALF, "compensation": HALF}, 6),
    (torch.float64, {"state_dtype": HALF}, {"exp_avg": torch.float64, "exp_avg_sq": torch.float64}, 16),
    (torch.float16, {"state_dtype": HALF}, {"exp_avg": torch.float32, "exp_avg_sq": torch.float32}, 8),
]


@pytest.mark.parametrize(("dtype", "options", "dtypes", "bytes_each"), KEPT)
def test_state_memory(dtype, options, dtypes, bytes_each):
    """The state is created before an engine is selected, so that it is the same for both engines."""
    p = torch.ones(1000, dtype=dtype, requires_grad=True)
    optimizer = dp.AdamW([p], engine="eager", **options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = {key: value for key, value in optimizer.state[p].items() if key != "step"}
    assert {key: value.dtype for key, value in state.items()} == dtypes
    assert sum(value.untyped_storage().nbytes() for value in state.values()) == 1000 * bytes_each


@engines
def test_rounding_does_not_affect_wide_weights(engine):
    for dtype in (torch.float64, torch.float32):
        params, others = parameters(dtype), parameters(dtype)
        run(dp.SGD(params, lr=0.1, momentum=0.9, engine=engine, rounding="stochastic"), params, 5)
        run(dp.SGD(others, lr=0.1, momentum=0.9, engine="eager"), others, 5)
        assert is_equal(values(params), values(others))


@engines
def test_per_tensor_state_keeps_compute_precision(engine):
    params = parameters(HALF)
    optimizer = dp.NAdam(params, engine=engine, state_dtype=HALF)
    run_steps([(params, optimizer)], range(2))
    assert all(optimizer.state[p]["mu_product"].dtype == torch.float32 for p in params)


# ---- training -------------------------------------------------------------------------------------------------------


def trained(dtype, steps=300, **how):
    """Return the float64 loss of a linear regression with 32 inputs after a run of AdamW."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(256, 32, generator=generator)
    target = inputs @ torch.randn(32, 1, generator=generator) + 0.1 * torch.randn(256, 1, generator=generator)
    w = torch.zeros(32, 1, dtype=dtype, requires_grad=True)
    optimizer = dp.AdamW([w], lr=0.03, weight_decay=0.0, engine="compiled", **how)
    for _ in range(steps):
        error = inputs @ w.float() - target
        optimizer.zero_grad()
        (error * error).mean().backward()
        optimizer.step()
    return ((inputs.double() @ w.double() - target.double()) ** 2).mean().item()


def test_bfloat16_state_trains_as_well_as_float32_state():
    """The final losses, which are near the irreducible noise of 0.01, agree to 5 percent."""
    wide, narrow = trained(torch.float32), trained(torch.float32, state_dtype=HALF)
    assert wide < 0.02
    assert narrow == pytest.approx(wide, rel=0.05)


@pytest.mark.slow
def test_kahan_and_stochastic_weights_train_better_than_nearest():
    """Rounding to nearest loses small steps late in training; Kahan summation is close to float32."""
    schedule = {"schedule": dp.schedules.Cosine(300)}
    plain, kahan = trained(HALF, **schedule), trained(HALF, rounding="kahan", **schedule)
    assert kahan <= plain
    assert kahan == pytest.approx(trained(torch.float32, **schedule), rel=0.05)
