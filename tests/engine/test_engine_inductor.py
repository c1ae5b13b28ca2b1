"""Compiled steps for accelerators, tested with CPU tensors because `Inductor` supports any device type.

Backends: `CountingBackend` (fast), "aot_eager" (functionalized), "inductor" (slow).
"""

import warnings

import pytest
import torch
from contracts.trajectories import distance, gradient, identical, parameters, run, values
from engine_support import CountingBackend, each_for_dynamo
from registry import SUBJECTS, each

import dashpot as dp
from dashpot.engine import inductor
from dashpot.engine.inductor import Inductor

SAME = 1e-12  # bound for ten steps in float64
SHAPES = ((3, 2), (4,), (2, 3, 4), (), (1,), (0, 3), (5, 1, 2, 2))
NAMED = {subject.name: subject for subject in SUBJECTS}


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(inductor, "_warned", set())  # every failure causes a warning, and warnings are errors


def compiled(optimizer, backend):
    """Use torch.compile for the steps of the optimizer's CPU tensors."""
    optimizer._backend.inductor = Inductor("compiled", 0, backend, frozenset({"cpu"}))
    return optimizer


def pair(subject, backend, steps=6, dtype=torch.float64, **options):
    """Return parameters after eager and compiled steps, and both optimizers."""
    eager, others = parameters(dtype, SHAPES), parameters(dtype, SHAPES)
    one = subject.make(eager, engine="eager", **options)
    two = compiled(subject.make(others, engine="eager", **options), backend)
    run(one, eager, steps)
    run(two, others, steps)
    programs = list(two._backend.inductor._programs.values())
    assert programs  # otherwise this would compare the eager engine with itself
    assert all(program._succeeded and not program._failed for program in programs)
    return eager, others, one, two


@each_for_dynamo()
def test_compiled_step_is_one_graph_and_matches_eager(subject):
    check_one_graph(subject, capturable=False)


@pytest.mark.slow
@each(lambda subject: subject.captures)
def test_capturable_step_is_one_graph_and_matches_eager(subject):
    check_one_graph(subject, capturable=True)


def check_one_graph(subject, capturable):
    count = CountingBackend()
    eager, others, one, two = pair(subject, count, capturable=capturable)
    assert distance(others, eager) < SAME
    assert len(count.graphs) == 1
    for p, q in zip(eager, others, strict=True):
        assert set(one.state[p]) == set(two.state[q])
        assert distance(list(two.state[q].values()), list(one.state[p].values())) < SAME


FAST = (("sgd-momentum", torch.float32), ("adamw", torch.bfloat16), ("nadam", torch.complex128))


@pytest.mark.parametrize(
    ("subject", "dtype"),
    [
        pytest.param(NAMED[name], dtype, marks=() if (name, dtype) in FAST else pytest.mark.slow, id=f"{name}-{dtype}")
        for name in ("sgd-momentum", "adamw", "nadam", "sgm-all-stages", "autosgm-2-debiased", "own-stage")
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.complex128)
    ],
)
def test_functionalized_graph_matches_eager_in_every_dtype(subject, dtype):
    eager, others, *_ = pair(subject, "aot_eager", dtype=dtype)
    # float32: scalars are float64 tensors instead of Python numbers, which changes the last bits in six steps;
    # bfloat16: such a change may round in the opposite direction, by 2^-8.
    bound = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.complex128: SAME, torch.float64: SAME}[dtype]
    assert (
        distance(
            [torch.view_as_real(p).double() if p.is_complex() else p.double() for p in others],
            [torch.view_as_real(p).double() if p.is_complex() else p.double() for p in eager],
        )
        <= bound
    )


STOCHASTIC, KAHAN, STATE = {"rounding": "stochastic"}, {"rounding": "kahan"}, {"state_dtype": torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "capturable"),
    [
        pytest.param(options, capturable, marks=marks, id=f"{options}-{capturable}")
        for options, capturable, marks in (
            (STOCHASTIC | STATE, True, ()),
            (KAHAN, False, ()),
            (STATE, False, pytest.mark.slow),
            (STOCHASTIC, True, pytest.mark.slow),
            (STOCHASTIC, False, pytest.mark.slow),
            (KAHAN, True, pytest.mark.slow),
            (STATE, True, pytest.mark.slow),
        )
    ],
)
def test_rounding_matches_eager(options, capturable):
    count = CountingBackend()
    eager, others, *_ = pair(NAMED["adamw"], count, dtype=torch.bfloat16, capturable=capturable, **options)
    assert distance([p.float() for p in others], [p.float() for p in eager]) <= 2**-7  # bound as above
    assert len(count.graphs) == 1


@pytest.mark.parametrize("capturable", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_new_numbers_and_sizes_do_not_recompile(capturable):
    count = CountingBackend()
    params = parameters(shapes=((3, 2), (4,), (2, 3, 4)))
    optimizer = compiled(dp.AdamW(params, engine="eager", capturable=capturable, max_norm=1.0), count)
    run(optimizer, params, 2)
    group = optimizer.param_groups[0]
    changes = (
        {"lr": 0.5},
        {"lr": torch.tensor(0.1)},
        {"betas": (0.5, 0.6)},
        {"weight_decay": 0.3},
        {"eps": 1e-3},
        {"maximize": True},
    )
    for step, change in enumerate(changes, start=2):
        group.update(change)
        run(optimizer, params, range(step, step + 1))
    optimizer.set_options(max_norm=0.01, clip_value=0.1)
    run(optimizer, params, range(8, 30), missing=lambda step, index: index == step % 3)
    optimizer.add_param_group({"params": parameters(shapes=((7, 7), (50,)), seed=1), "lr": 0.2})
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    run(optimizer, everything, range(30, 33))
    assert len(count.graphs) == 1


def test_new_structure_recompiles_once():
    count = CountingBackend()
    params = parameters(shapes=((4,), (3, 2)))
    optimizer = compiled(dp.SGD(params, engine="eager"), count)
    for weight_decay, graphs in ((0, 1), (0.1, 2), (0, 2), (0.2, 2)):
        optimizer.param_groups[0]["weight_decay"] = weight_decay
        run(optimizer, params, 2)
        assert len(count.graphs) == graphs


@pytest.mark.parametrize("capturable", [pytest.param(False, marks=pytest.mark.slow), True])
def test_missing_gradients_and_memory_layouts_match_eager(capturable):
    def layouts():
        base = parameters(shapes=((6, 4), (4, 4), (2, 3, 4, 5), (4,)))
        views = [
            base[0].detach()[:, ::2],  # not dense, so stepped eagerly
            base[1].detach().t(),  # dense in a different order
            base[2].detach().contiguous(memory_format=torch.channels_last),
            base[3].detach(),
        ]
        return [v.requires_grad_() for v in views]

    def missing(step, index):
        return (index + step) % 3 == 0

    eager, others, count = layouts(), layouts(), CountingBackend()
    run(dp.AdamW(eager, engine="eager", capturable=capturable), eager, 9, missing=missing)
    run(compiled(dp.AdamW(others, engine="eager", capturable=capturable), count), others, 9, missing=missing)
    assert distance(others, eager) < SAME
    assert len(count.graphs) == 1


def test_skipped_step_changes_nothing():
    params = parameters(shapes=SHAPES)
    optimizer = compiled(dp.SGD(params, 0.1, 0.9, engine="eager", capturable=True, nonfinite="skip"), "aot_eager")
    run(optimizer, params, 2)
    kept, state = values(params), [values(optimizer.state[p].values()) for p in params]
    for index, p in enumerate(params):
        p.grad = gradient(p, 2, index)
    params[1].grad[0] = float("nan")
    optimizer.step()
    assert optimizer.last_step == "skipped"
    assert identical(params, kept)
    assert all(identical(optimizer.state[p].values(), old) for p, old in zip(params, state, strict=True))


def test_compiled_step_increments_version_counters():
    (w,) = parameters(shapes=((4,),))
    optimizer = compiled(dp.SGD([w], engine="eager", momentum=0.9), "aot_eager")
    loss = (w * w).sum()
    w.grad = torch.ones_like(w)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_auto_compiles_from_minimum_size():
    small, large = parameters(shapes=((4,),)), parameters(shapes=((4,), (8,)))
    for params, graphs in ((small, 0), (large, 1)):
        count = CountingBackend()
        optimizer = dp.SGD(params, engine="eager")
        optimizer._backend.inductor = Inductor("auto", 10, count, frozenset({"cpu"}))
        run(optimizer, params, 2)
        assert len(count.graphs) == graphs


def test_auto_counts_elements_of_all_groups():
    params, count = parameters(shapes=((6,), (6,))), CountingBackend()
    optimizer = dp.SGD([{"params": [p]} for p in params], engine="eager")
    optimizer._backend.inductor = Inductor("auto", 10, count, frozenset({"cpu"}))
    run(optimizer, params, 1)
    assert len(count.graphs) == 1


def test_default_devices_exclude_cpu():
    optimizer = dp.SGD(parameters(), engine="compiled")
    assert "cuda" in optimizer._backend.inductor.devices
    assert "cpu" not in optimizer._backend.inductor.devices


@pytest.mark.parametrize("capturable", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_failing_compiler_warns_once_and_matches_eager(capturable):
    def broken(graph, inputs):
        raise RuntimeError("no Triton")

    eager, others = parameters(shapes=SHAPES), parameters(shapes=SHAPES)
    run(dp.AdamW(eager, engine="eager", capturable=capturable), eager, 5)
    optimizer = compiled(dp.AdamW(others, engine="eager", capturable=capturable), broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(optimizer, others, 5)
    texts = [str(item.message) for item in caught if issubclass(item.category, RuntimeWarning)]
    assert len(texts) == 1
    assert "no Triton" in texts[0]
    assert "engine='eager'" in texts[0]
    assert distance(others, eager) < SAME


def test_out_of_memory_propagates(monkeypatch):
    def full(program, inputs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(inductor._Program, "_compiled", full)
    params = parameters(shapes=((4,),))
    with pytest.raises(torch.OutOfMemoryError):
        run(compiled(dp.SGD(params, engine="eager"), "eager"), params, 1)


def test_shape_dependent_stage_runs_eagerly():
    class Rows(dp.Stage):
        """A stage that depends on the shape, which flat views do not preserve."""

        def apply(self, x, s, c, ctx):
            return x._replace(v=x.v / x.v.shape[0]), s

    from dataclasses import dataclass

    recipe, count = dp.Recipe(dataclass(frozen=True)(Rows)(), lr=0.1), CountingBackend()
    eager, others = parameters(shapes=((3, 2),)), parameters(shapes=((3, 2),))
    run(dp.SGM.from_recipe(eager, recipe, engine="eager"), eager, 3)
    run(compiled(dp.SGM.from_recipe(others, recipe, engine="eager"), count), others, 3)
    assert identical(others, eager)
    assert not count.graphs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # raised by the import of torch's compiler
@pytest.mark.parametrize("name", ["adamw", "sgm-all-stages", "autosgm-1-zero"])
def test_inductor_kernels_match_eager(name):
    eager, others, *_ = pair(NAMED[name], "inductor", steps=20, max_norm=1.0)
    assert distance(others, eager) < SAME
