"""Values in loaded state dicts are converted as in torch, or rejected without changes."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from contracts.trajectories import identical, parameters, run
from registry import SUBJECTS
from state_mutations import mutations

import dashpot as dp

SHAPES = ((3, 2), (4,), ())
ONE_OF_EACH_CLASS = [*{subject.cls: subject for subject in SUBJECTS if subject.keys}.values()]
QUICK = (dp.SGD, dp.AdamW, dp.NAdam, dp.ESGD)
ONE_OF_EACH_CLASS_MARKED = [
    pytest.param(subject, marks=() if subject.cls is dp.NAdam else pytest.mark.slow) for subject in ONE_OF_EACH_CLASS
]
DIVERGED = ("nan", "infinite", "negative", "2^53", "2^63")
"""Numbers accepted in slots without a range, for which the next step need not be finite."""


def made(subject, engine="eager", steps=2, dtype=torch.float32):
    params = parameters(dtype, shapes=SHAPES)
    optimizer = subject.make(params, engine=engine)
    run(optimizer, params, steps)
    return params, optimizer


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("subject", ONE_OF_EACH_CLASS_MARKED, ids=str)
def test_mutated_state_dict_is_rejected_or_usable(subject):
    made_for = [made(subject, engine) for engine in ("eager", "compiled")]
    saved = copy.deepcopy(made_for[0][1].state_dict())
    refused = 0
    for what, changed in mutations(saved):
        for params, optimizer in made_for:
            optimizer.load_state_dict(saved)
            if error := load_error(optimizer, changed):
                assert isinstance(error, dp.ArgumentError) or "param" in str(error), what
                assert same(optimizer.state_dict(), saved), what
                refused += 1
                break
            done = optimizer.steps_done()
            run(optimizer, params, range(2, 3))
            assert optimizer.steps_done() == done + 1, what
            assert what.endswith(DIVERGED) or all(torch.isfinite(p).all() for p in params), what
            restore(params)
    assert refused > 40


def load_error(optimizer, state):
    """Return the error that loading `state` raises, or None."""
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        return error
    return None


def restore(params):
    with torch.no_grad():
        for p, start in zip(params, parameters(torch.float32, shapes=SHAPES), strict=True):
            p.copy_(start)


ENGINES_AND_SUBJECTS = [
    pytest.param(engine, subject, marks=() if fast else pytest.mark.slow)
    for engine, subject, fast in [
        *(("eager", subject, subject.kind) for subject in SUBJECTS),
        *(("compiled", subject, subject.cls in QUICK) for subject in ONE_OF_EACH_CLASS),
    ]
]


@pytest.mark.parametrize(("engine", "subject"), ENGINES_AND_SUBJECTS, ids=str)
def test_loading_own_state_changes_nothing(engine, subject):
    params, optimizer = made(subject, engine)
    straight, other = made(subject, engine)
    before = copy.deepcopy(optimizer.state_dict())
    strides = [{key: value.stride() for key, value in optimizer.state[p].items()} for p in params]
    optimizer.load_state_dict(optimizer.state_dict())
    assert same(optimizer.state_dict(), before)
    assert strides == [{key: value.stride() for key, value in optimizer.state[p].items()} for p in params]
    run(optimizer, params, range(2, 4))
    run(other, straight, range(2, 4))
    assert identical(params, straight)


REJECTED = {
    "a list": ("exp_avg", [0.0, 0.0], "must be a dense floating-point tensor, got [0.0, 0.0]."),
    "a float": ("exp_avg", 0.5, "must be a dense floating-point tensor, got 0.5."),
    "sparse": (
        "exp_avg",
        torch.zeros(2).to_sparse(),
        "floating-point tensor, got a tensor of layout torch.sparse_coo.",
    ),
    "complex": ("exp_avg", torch.zeros(2) * 1j, "tensor, got a tensor of shape (2,) and torch.complex64."),
    "int64": ("exp_avg", torch.zeros(2, dtype=torch.int64), "got a tensor of shape (2,) and torch.int64."),
    "meta": ("exp_avg_sq", torch.zeros(2, device="meta"), "tensor, got a tensor on the meta device."),
    "None": ("exp_avg_sq", None, "must be a dense floating-point tensor, got None."),
    "shape": ("exp_avg_sq", torch.zeros(3), "must have shape (2,), got (3,)."),
    "nan": ("step", torch.tensor(float("nan")), "must be an integer in [0, 2^53), got nan in torch.float32."),
    "negative": ("step", -1, "must be an integer in [0, 2^53), got -1."),
    "fractional": ("step", 1.5, "must be an integer in [0, 2^53), got 1.5."),
    "2^63": ("step", 2**63, "must be an integer in [0, 2^53), got 9223372036854775808."),
    "the parameter's shape": ("step", torch.ones(2), "got a tensor of shape (2,) and torch.float32."),
    "a string": ("step", "3", "must be an integer in [0, 2^53), got '3'."),
}


@pytest.mark.parametrize("what", REJECTED)
@pytest.mark.parametrize("named", [False, True])
def test_message_names_parameter_and_slot(what, named):
    key, value, ending = REJECTED[what]
    w = torch.ones(2, requires_grad=True)
    optimizer = dp.AdamW([("fc.weight", w)] if named else [w])
    run(optimizer, [w], 1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0][key] = value
    with pytest.raises(dp.ArgumentError) as caught:
        optimizer.load_state_dict(saved)
    name = "'fc.weight'" if named else "0"
    assert str(caught.value).startswith(f"AdamW: state {key!r} of parameter {name} must ")
    assert str(caught.value).endswith(ending)


def test_quantized_slot_is_rejected():
    [p, *_], optimizer = made(next(s for s in SUBJECTS if s.name == "adam"))
    saved = copy.deepcopy(optimizer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated by torch
        saved["state"][0]["exp_avg"] = torch.quantize_per_tensor(torch.zeros(p.shape), 0.1, 0, torch.qint8)
    with pytest.raises(dp.ArgumentError, match="got a quantized tensor"):
        optimizer.load_state_dict(saved)


COUNTS = [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor([3.0]), torch.tensor(3.0).double()]


@pytest.mark.parametrize("step", COUNTS, ids=repr)
def test_counts_are_converted_as_in_torch(step):
    """Steps from the loaded state equal those of torch.optim.NAdam."""
    results = []
    for module in (torch.optim, dp):
        params = parameters(torch.float32, shapes=SHAPES)
        optimizer = module.NAdam(params)
        run(optimizer, params, 3)
        saved = copy.deepcopy(optimizer.state_dict())
        for state in saved["state"].values():
            state["step"] = copy.deepcopy(step)  # torch increments in place
            state["mu_product"] = float(state["mu_product"])
        optimizer.load_state_dict(saved)
        results.append(run(optimizer, params, range(3, 5)))
        if module is dp:
            state = optimizer.state[params[0]]
            assert [(state[key].shape, state[key].dtype) for key in ("step", "mu_product")] == [((), torch.float32)] * 2
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)  # the order of float32 arithmetic differs


@pytest.mark.parametrize("missing", ["step", "exp_avg_sq"])
def test_incomplete_state_is_rejected(missing):
    """torch.optim.Adam loads such state and fails at the next step."""
    params = parameters(shapes=((2,),))
    optimizer = dp.Adam(params)
    run(optimizer, params, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0][missing]
    with pytest.raises(dp.ArgumentError, match=f"Adam: the saved state of parameter 0 lacks {missing}"):
        optimizer.load_state_dict(saved)


def test_loaded_state_takes_the_parameters_memory_format():
    """A kernel requires state in the weight's memory format."""
    w = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    optimizer = dp.Adam([w], engine="compiled")
    run(optimizer, [w], 1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].contiguous()
    optimizer.load_state_dict(saved)
    assert optimizer.state[w]["exp_avg"].stride() == w.stride()
    assert torch.equal(optimizer.state[w]["exp_avg"], saved["state"][0]["exp_avg"])


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_state_loaded_in_inference_mode_can_be_stepped(engine):
    params = parameters(shapes=((2,),))
    optimizer = dp.NAdam(params, engine=engine)
    run(optimizer, params, 1)
    with torch.inference_mode():
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not any(value.is_inference() for value in optimizer.state[params[0]].values())
    run(optimizer, params, 1)


def test_loaded_tensors_have_their_own_storages():
    source, params = parameters(shapes=((6,),)), parameters(shapes=((6,),))
    first, second = dp.Adam(source), dp.Adam(params)
    run(first, source, 1)
    saved = first.state_dict()
    many = torch.zeros(100, 6, dtype=torch.float64)
    saved["state"][0] = {**saved["state"][0], "exp_avg": many[3], "step": torch.ones(1000)[7]}
    second.load_state_dict(saved)
    for value in second.state[params[0]].values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_loading_keeps_no_references(engine):
    """The previous and the loaded state are freed when the last reference is deleted, without garbage collection."""
    [w] = params = parameters(shapes=((6,),))
    optimizer = dp.Adam(params, engine=engine)
    run(optimizer, params, 1)
    gc.disable()
    try:
        before, saved = weakref.ref(optimizer.state[w]["exp_avg"]), copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(saved)
        given, now = (weakref.ref(state["exp_avg"]) for state in (saved["state"][0], optimizer.state[w]))
        del saved
        optimizer.state.clear()
        assert before() is given() is now() is None
    finally:
        gc.enable()


def test_none_momentum_buffer_is_ignored():
    """Without momentum, torch.optim.SGD saved `momentum_buffer: None`."""
    [w] = params = parameters(shapes=((2,),))
    optimizer = dp.SGD(params, momentum=0.9)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {"momentum_buffer": None}}})
    assert optimizer.state[w] == {}
    run(optimizer, params, 1)


def test_other_keys_and_entries_are_kept():
    [w] = params = parameters(shapes=((2,),))
    optimizer = dp.Adam(params)
    run(optimizer, params, 1)
    optimizer.state[w].update(note="mine", seen=np.float64(2.0), norms=torch.ones(7), nothing=None)
    saved = optimizer.state_dict()
    saved["state"]["run"] = "abc"
    optimizer.load_state_dict(saved)
    state = optimizer.state[w]
    assert (state["note"], type(state["seen"]), state["norms"].shape, state["nothing"]) == ("mine", float, (7,), None)
    assert optimizer.state["run"] == "abc"
    run(optimizer, params, 1)


def test_state_of_an_uninitialized_parameter_is_rejected():
    lazy = torch.nn.LazyLinear(2)
    optimizer = dp.Adam(lazy.parameters())
    entry = {"step": 1, "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)}
    with pytest.raises(dp.ArgumentError, match="parameter 0 is uninitialized; run the model once"):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: entry}})
