"""The eager and the compiled engine agree for all methods, shapes and dtypes; new scalars do not cause compilations.

In float64, the bound is 1e-12 of max(1, |x|), because torch's vectorized square root is not correctly rounded (its last
bit differs from the processor's) and reductions are summed in a different order. In narrower dtypes, both engines are
compared with the float64 trajectory, and neither may deviate from it much more than the other.
"""

import pytest
import torch
from contracts.trajectories import distance, gradient, identical, parameters, values
from engine_support import SGD, eager_and_compiled, empty_cache, explanation, is_compiled, run_steps, set_gradients  # noqa: F401
from registry import SUBJECTS, each, each_second
from slow_values import others_slow

import dashpot as dp
from dashpot.engine.native import build

pytestmark = pytest.mark.needs_compiler

DOUBLE = 1e-12
SMALL = ((3, 2), (0, 3), (1,), (), (64,), (2, 3, 2, 2))
# Kernels sum in chunks of 16384 elements, and a tensor of 65536 or more elements is split among all threads.
LARGE = ((16384,), (16385,), (3, 5461), (65536,), (70000,), (1000, 70))
NAMED = {subject.name: subject for subject in SUBJECTS}
NARROW = [
    *((name, torch.float32) for name in ("sgd-nesterov", "autosgm-3-debiased", "own-stage")),
    *((name, torch.bfloat16) for name in ("adamw-decay", "autosgm-3-debiased")),
    ("adamw-decay", torch.float16),
]
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def pair_of(subject, params):
    return eager_and_compiled(subject.make, params)


def states(params, optimizer):
    return [value for p in params for key, value in sorted(optimizer.state[p].items())]


def check_equal_in_double(subject, shapes, steps):
    first, second = pair_of(subject, parameters(shapes=shapes))
    run_steps((first, second), range(steps))
    assert is_compiled(second[1]), explanation(second[1])
    assert distance(second[0], values(first[0])) < DOUBLE
    assert distance(states(*second), states(*first)) < DOUBLE


@each()
def test_compiled_equals_eager(subject):
    check_equal_in_double(subject, SMALL, 25)


@pytest.mark.slow
@each()
def test_compiled_equals_eager_over_100_steps(subject):
    check_equal_in_double(subject, SMALL, 100)


@pytest.mark.parametrize("name", ["sgd-momentum", "adamw-decay", "sgm-all-stages"])
def test_compiled_equals_eager_for_large_tensors(name):
    check_equal_in_double(NAMED[name], SMALL + LARGE, 8)


@pytest.mark.slow
@each_second()
def test_compiled_equals_eager_for_large_tensors_of_every_method(subject):
    check_equal_in_double(subject, SMALL + LARGE, 20)


def check_narrow(subject, dtype, steps):
    """Check that the error of the compiled engine is at most twice that of the eager engine, plus one rounding."""
    first, second = pair_of(subject, parameters(dtype))
    exact = [p.detach().double().requires_grad_() for p in parameters(dtype)]
    reference = subject.make(exact, engine="eager")
    for step in range(steps):
        set_gradients(first[0], step)
        set_gradients(second[0], step)
        for p, q in zip(first[0], exact, strict=True):
            q.grad = p.grad.double()
        for optimizer in (first[1], second[1], reference):
            optimizer.step()
    assert is_compiled(second[1]), explanation(second[1])
    eager, compiled = (distance([p.detach().double() for p in ps], values(exact)) for ps in (first[0], second[0]))
    assert compiled <= 2 * eager + 4 * ROUNDING[dtype]


@pytest.mark.parametrize(("name", "dtype"), NARROW, ids=str)
def test_compiled_is_as_accurate_as_eager(name, dtype):
    check_narrow(NAMED[name], dtype, 40)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@each_second()
def test_compiled_is_as_accurate_as_eager_for_every_method(subject, dtype):
    check_narrow(subject, dtype, 100)


# ---- memory ---------------------------------------------------------------------------------------------------------

ARRANGED = {
    "transposed": ((3, 5), lambda x: x.t().contiguous().t()),
    "channels last": ((2, 3, 4, 5), lambda x: x.contiguous(memory_format=torch.channels_last)),
    "permuted": ((4, 3, 2), lambda x: x.permute(1, 0, 2).contiguous().permute(1, 0, 2)),
    "plain": ((3, 5), lambda x: x.clone()),
}
GRADIENTS = {
    "plain": lambda g: g.contiguous(),
    "transposed": lambda g: g.permute(*reversed(range(g.dim()))).contiguous().permute(*reversed(range(g.dim()))),
    "strided": lambda g: torch.stack([g, g], dim=-1)[..., 0],
    "expanded": lambda g: g.flatten()[:1].expand(g.shape),
    "requiring gradients": lambda g: g.clone().requires_grad_() * 1,
}


@pytest.mark.parametrize("name", ["adamw-decay", "sgm-all-stages"])
@pytest.mark.parametrize("layout", ARRANGED)
def test_parameters_and_gradients_in_different_memory_formats(name, layout):
    """The memory format of the gradient changes at every step."""
    shape, arrange = ARRANGED[layout]
    (plain,) = parameters(shapes=(shape,))
    first, second = pair_of(NAMED[name], [arrange(plain.detach())])
    stride = second[0][0].stride()
    for step, kind in enumerate([*GRADIENTS, *reversed(GRADIENTS)]):
        run_steps((first, second), [step], arrange=lambda g, index, kind=kind: GRADIENTS[kind](g))
        assert distance(second[0], values(first[0])) < DOUBLE, kind
    assert is_compiled(second[1])
    assert second[0][0].stride() == stride


def test_non_dense_parameter_uses_eager_engine():
    params = [torch.randn(4, 6, 2, dtype=torch.float64)[..., 0] for _ in range(2)]
    one, two = ([p.detach().clone() for p in params] for _ in range(2))
    two = [torch.stack([p, p], -1)[..., 0].requires_grad_() for p in two]
    one = [p.requires_grad_() for p in one]
    pairs = (one, dp.AdamW(one, engine="eager")), (two, dp.AdamW(two, engine="compiled"))
    run_steps(pairs, range(3))
    assert "not dense in memory" in explanation(pairs[1][1])
    assert distance(two, values(one)) < DOUBLE


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("adamw-decay", torch.complex64), *((n, torch.complex128) for n in ("adamw-decay", "sgm-all-stages", "nadam"))],
)
def test_complex_parameters(name, dtype):
    first, second = pair_of(NAMED[name], parameters(dtype))
    run_steps((first, second), range(20))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < (DOUBLE if dtype == torch.complex128 else 1e-4)


def test_conjugated_and_negated_gradients():
    """torch marks such gradients only with a bit; their address, strides and dtype are unchanged."""
    (p,) = parameters(torch.complex128, shapes=((4,),))
    (q,) = parameters(shapes=((4,),))
    first, second = pair_of(NAMED["adamw-decay"], [p, q])
    for step in range(6):
        for params, optimizer in (first, second):
            set_gradients(params, step)
            if step % 2:
                params[0].grad = params[0].grad.conj()
                params[1].grad = torch._neg_view(params[1].grad)
            optimizer.step()
    assert distance(second[0], values(first[0])) < DOUBLE


@pytest.mark.parametrize("name", ["adamw-decay", "sgm-all-stages"])
def test_results_do_not_depend_on_threads(name):
    ran = []
    for threads in (1, 2):
        params = parameters(shapes=SMALL + LARGE)
        optimizer = NAMED[name].make(params, engine="compiled", max_norm=1.0)
        torch.set_num_threads(threads)
        try:
            run_steps([(params, optimizer)], range(3))
        finally:
            torch.set_num_threads(1)
        ran.append([*values(params), optimizer.last_grad_norm])
    assert identical(*ran)


# ---- which parameters have gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw-decay", "sgm-all-stages"])
def test_changing_set_of_parameters_with_gradients(name):
    first, second = pair_of(NAMED[name], parameters(shapes=(*SMALL, (5,), (7,))))
    run_steps((first, second), range(40), missing=lambda step, index: (step * 7 + index * 5) % 11 < 4)
    run_steps((first, second), range(40, 43), missing=lambda step, index: True)
    run_steps((first, second), range(43, 46))
    assert distance(second[0], values(first[0])) < DOUBLE
    counts = [[float(optimizer.state[p]["step"]) for p in params] for params, optimizer in (first, second)]
    assert counts[0] == counts[1]
    assert second[1].steps_done() == first[1].steps_done()


def test_late_parameters_have_their_own_step_counts():
    first, second = pair_of(NAMED["adamw-decay"], parameters())
    for params, _ in (first, second):
        params[0].requires_grad_(False)
    run_steps((first, second), range(5), missing=lambda step, index: index == 0)
    for params, _ in (first, second):
        params[0].requires_grad_(True)
    run_steps((first, second), range(5, 15))
    assert [float(second[1].state[p]["step"]) for p in second[0]] == [10, 15, 15]
    assert distance(second[0], values(first[0])) < DOUBLE


def grouped(params, **how):
    groups = [
        {"params": params[:2], "lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.0},
        {"params": params[2:4], "maximize": True},
        {"params": params[4:], "eps": 1e-3, "lr": 0.05},
    ]
    return dp.AdamW(groups, weight_decay=0.3, **how)


def mixed():
    """Return parameters of three dtypes."""
    return [*parameters(), *parameters(torch.float32, seed=1), *parameters(torch.complex64, seed=2)]


def test_groups_with_different_settings_and_dtypes():
    first, second = eager_and_compiled(grouped, mixed())
    run_steps((first, second), range(30))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < 1e-5  # float32 weights of size 1 after 30 roundings of 2^-24
    assert distance(second[0][:3], values(first[0][:3])) < DOUBLE


def test_group_added_later():
    first, second = eager_and_compiled(
        lambda ps, **how: dp.AdamW(ps[:2], weight_decay=0.1, **how), parameters(shapes=SMALL)
    )
    run_steps((first, second), range(5), missing=lambda step, index: index > 1)
    for params, optimizer in (first, second):
        optimizer.add_param_group({"params": params[2:], "lr": 0.1})
    run_steps((first, second), range(5, 15))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < DOUBLE


# ---- scalars are data -----------------------------------------------------------------------------------------------


def scheduled(params, **how):
    schedule = {"lr": dp.schedules.Cosine(50), "momentum": dp.schedules.Exponential(0.99)}
    return dp.SGD(params, **SGD, schedule=schedule, **how)


def test_schedules_of_several_settings():
    first, second = eager_and_compiled(scheduled, parameters(shapes=SMALL))
    run_steps((first, second), range(60))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < DOUBLE


CHANGES = [
    {"lr": 0.3},
    {"betas": (0.2, 0.6)},
    {"eps": 1e-2},
    {"weight_decay": 0.1},
    {"weight_decay": 0.0},
    {"weight_decay": 0.1, "lr": 0.0},
    {"maximize": True},
    {"lr": torch.tensor(0.01, dtype=torch.float64)},
    {"lr": torch.tensor(0.02, dtype=torch.float64, requires_grad=True)},
    {"lr": 1e-3, "maximize": False},
]


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize(
    "kind",
    others_slow([dp.AdamW, dp.Adam, dp.NAdam], dp.AdamW),
    ids=lambda kind: kind.__name__,
)
def test_changed_settings_compile_nothing(kind):
    params = parameters(shapes=((3, 2), (4,), (), (5,), (300,)))
    first, second = eager_and_compiled(lambda ps, **how: kind(ps, lr=0.01, weight_decay=0.0, **how), params)
    run_steps((first, second), range(2))
    before = build.compilations()
    for step, change in enumerate(CHANGES, start=2):
        for _, optimizer in (first, second):
            optimizer.param_groups[0].update(change)
        run_steps((first, second), [step], missing=lambda step, index: index == step % 5)
        assert distance(second[0], values(first[0])) < DOUBLE, change
    assert build.compilations() == before
    assert is_compiled(second[1])


def test_float32_tensor_lr():
    """The eager engine multiplies lr in float32, kernels in float64; they differ by 2^-24 of each step of size 0.01."""
    first, second = eager_and_compiled(lambda ps, **how: dp.AdamW(ps, lr=torch.tensor(0.01), **how), parameters())
    run_steps((first, second), range(20))
    assert is_compiled(second[1])
    assert distance(second[0], values(first[0])) < 20 * 0.01 * 2**-24


@pytest.mark.usefixtures("empty_cache")
def test_switching_clipping_compiles_nothing():
    first, second = pair_of(NAMED["adamw-decay"], parameters())
    run_steps((first, second), range(2))
    before = build.compilations()
    for step, change in enumerate(
        [{"max_norm": 0.5}, {"max_norm": None, "clip_value": 0.1}, {"clip_value": None}, {"nonfinite": "skip"}], start=2
    ):
        for _, optimizer in (first, second):
            optimizer.set_options(**change)
        run_steps((first, second), [step])
        assert distance(second[0], values(first[0])) < DOUBLE, change
    assert build.compilations() == before


@pytest.mark.usefixtures("empty_cache")
def test_new_sizes_and_numbers_of_tensors_compile_nothing():
    for _ in range(2):
        params = parameters(shapes=((3,),))
        run_steps([(params, dp.AdamW(params, engine="compiled"))], range(1))
        before = build.compilations()
        for count, size in ((1, 1), (2, 7), (50, 3), (1, 20000)):
            params = parameters(shapes=((size,),) * count)
            optimizer = dp.AdamW(params, engine="compiled", lr=0.5, betas=(0.1, 0.2))
            run_steps([(params, optimizer)], range(2))
            assert is_compiled(optimizer)
    assert build.compilations() == before


@pytest.mark.usefixtures("empty_cache")
def test_new_structure_compiles_once():
    """This checks that the counter used by the tests above works."""
    before = build.compilations()
    recipe = dp.Recipe(dp.Filter(0.5, slot="a slot of this test"), dp.SecondMoment(0.5), dp.Filter(0.25))
    params = parameters()
    optimizer = dp.SGM.from_recipe(params, recipe, engine="compiled")
    run_steps([(params, optimizer)], range(3))
    assert build.compilations() == before + 1


def test_gradient_at_reused_address_is_read_again():
    """The tensor is the same but has new values, as after zero_grad(set_to_none=False)."""
    first, second = pair_of(NAMED["adamw-decay"], parameters())
    for step in range(4):
        for params, optimizer in (first, second):
            for index, p in enumerate(params):
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                p.grad.copy_(gradient(p, step, index))
            optimizer.step()
    assert distance(second[0], values(first[0])) < DOUBLE
