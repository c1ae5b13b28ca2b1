"""Names of wrapped modules: state finds its parameter, or a short message says which names differ."""

import pytest
import torch
from contracts.trajectories import parameters, run

import dashpot as dp

NAMES = ("encoder.0.weight", "encoder.0.bias", "head.weight")
SHAPES = ((2,), (2,), (2,))


def optimizer(names, steps=0):
    params = parameters(shapes=[(2,)] * len(names))
    opt = dp.AdamW(list(zip(names, params, strict=True)))
    run(opt, params, steps)
    return params, opt


def prefixed(prefix):
    return tuple(prefix + name for name in NAMES)


OTHERS = {
    "compiled": prefixed("_orig_mod."),
    "DDP": prefixed("module."),
    "compiled DDP": prefixed("_orig_mod.module."),
    "DDP of compiled": prefixed("module._orig_mod."),
    "twice": prefixed("module.module."),
    "inside another module": prefixed("model.net."),
    "FSDP1": ("_fsdp_wrapped_module.encoder.0._fsdp_wrapped_module.weight", *prefixed("_fsdp_wrapped_module.")[1:]),
    "a compiled block": ("encoder.0._orig_mod.weight", "encoder.0._orig_mod.bias", "head.weight"),
    "a checkpointed block": ("encoder._checkpoint_wrapped_module.0.weight", *NAMES[1:]),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("saved_wrapped", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
def test_a_wrappers_prefix_makes_no_difference(what, saved_wrapped, order):
    names = [OTHERS[what][i] for i in order]
    (a, first), (b, second) = optimizer(NAMES, 0 if saved_wrapped else 2), optimizer(names, 2 if saved_wrapped else 0)
    source, target = (second, first) if saved_wrapped else (first, second)
    target.load_state_dict(source.state_dict())
    for place, i in enumerate(order):
        torch.testing.assert_close(first.state[a[i]]["exp_avg"], second.state[b[place]]["exp_avg"], rtol=0, atol=0)
    assert target.param_groups[0]["param_names"] == list(names if target is second else NAMES)


def test_two_wrappers_differ_on_both_sides():
    (_, first), (_, second) = optimizer(prefixed("module."), 1), optimizer(prefixed("_orig_mod."))
    second.load_state_dict(first.state_dict())
    assert second.steps_done() == 1


@pytest.mark.parametrize("names", [prefixed("decoder."), ("encoder.1.weight", *NAMES[1:]), NAMES[:2]], ids=str)
def test_names_that_differ_otherwise_do_not_match(names):
    saved = prefixed("encoder.") if names[0].startswith("decoder") else NAMES
    (_, first), (_, second) = optimizer(saved, 1), optimizer(names)
    with pytest.raises(dp.ArgumentError, match="AdamW: saved parameter names must match the optimizer's: "):
        second.load_state_dict(first.state_dict())
    assert not second.state


def refusal(wanted, saved):
    (_, first), (_, second) = optimizer(saved, 1), optimizer(wanted)
    with pytest.raises(dp.ArgumentError) as caught:
        second.load_state_dict(first.state_dict())
    return str(caught.value)


def test_the_nearest_names_are_named():
    assert refusal(("norm1.weight", "fc.weight", "fc.bias"), ("norm.weight", "fc.weight", "b")) == (
        "AdamW: saved parameter names must match the optimizer's: "
        "2 of 3 names are not saved, 2 of 3 saved names are unknown.\n"
        "  missing 'fc.bias'\n"
        "  missing 'norm1.weight', nearest saved name 'norm.weight'\n"
        "  unknown 'b'"
    )


def test_the_prefixes_are_named():
    message = refusal(("actor.a.w", "actor.b.w"), ("critic.a.w", "critic.b.w"))
    assert message.endswith(
        "\n  All names of the optimizer begin with 'actor.' and all saved names begin with 'critic.'."
    )


def test_names_behind_a_prefix_that_are_the_same_are_not_listed():
    message = refusal(NAMES, ("module.encoder.0.weight", "module.encoder.0.bias", "module.tail"))
    assert "1 of 3 names are not saved, 1 of 3 saved names are unknown.\n  missing 'head.weight'" in message


def test_thousands_of_names_take_ten_lines():
    wanted = [f"layers.{i}.attention.weight" for i in range(1500)]
    saved = [f"blocks.{i}.attn.kernel" + "x" * 500 for i in range(1500)]
    message = refusal(wanted, saved)
    assert "1500 of 1500 names are not saved" in message
    assert len(message.splitlines()) <= 10
    assert len(message) < 2000


def test_names_that_a_wrapper_alone_tells_apart_stay_apart():
    names = ("a._orig_mod.weight", "a.weight")
    (a, first), (b, second) = optimizer(names, 2), optimizer(names[::-1])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.state[a[0]]["exp_avg"], second.state[b[1]]["exp_avg"])
