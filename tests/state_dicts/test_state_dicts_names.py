"""State is matched by name despite module wrappers, and a short message reports mismatches."""

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
def test_wrapper_names_are_ignored(what, saved_wrapped, order):
    names = [OTHERS[what][i] for i in order]
    (a, first), (b, second) = optimizer(NAMES, 0 if saved_wrapped else 2), optimizer(names, 2 if saved_wrapped else 0)
    source, target = (second, first) if saved_wrapped else (first, second)
    target.load_state_dict(source.state_dict())
    for place, i in enumerate(order):
        torch.testing.assert_close(first.state[a[i]]["exp_avg"], second.state[b[place]]["exp_avg"], rtol=0, atol=0)
    assert target.param_groups[0]["param_names"] == list(names if target is second else NAMES)


def test_different_wrapper_names_on_both_sides():
    (_, first), (_, second) = optimizer(prefixed("module."), 1), optimizer(prefixed("_orig_mod."))
    second.load_state_dict(first.state_dict())
    assert second.steps_done() == 1


@pytest.mark.parametrize("names", [prefixed("decoder."), ("encoder.1.weight", *NAMES[1:]), NAMES[:2]], ids=str)
def test_other_name_differences_are_rejected(names):
    saved = prefixed("encoder.") if names[0].startswith("decoder") else NAMES
    (_, first), (_, second) = optimizer(saved, 1), optimizer(names)
    with pytest.raises(dp.ArgumentError, match="AdamW: saved parameter names must match the optimizer's: "):
        second.load_state_dict(first.state_dict())
    assert not second.state


def mismatch_message(wanted, saved):
    (_, first), (_, second) = optimizer(saved, 1), optimizer(wanted)
    with pytest.raises(dp.ArgumentError) as caught:
        second.load_state_dict(first.state_dict())
    return str(caught.value)


def test_name_mismatch_message_suggests_the_nearest():
    assert mismatch_message(("norm1.weight", "fc.weight", "fc.bias"), ("norm.weight", "fc.weight", "b")) == (
        "AdamW: saved parameter names must match the optimizer's: "
        "2 of 3 names are not saved, 2 of 3 saved names are unknown.\n"
        "  missing 'fc.bias'\n"
        "  missing 'norm1.weight', nearest saved name 'norm.weight'\n"
        "  unknown 'b'"
    )


def test_name_mismatch_message_shows_prefixes():
    message = mismatch_message(("actor.a.w", "actor.b.w"), ("critic.a.w", "critic.b.w"))
    assert message.endswith(
        "\n  All names of the optimizer begin with 'actor.' and all saved names begin with 'critic.'."
    )


def test_name_mismatch_message_omits_matching_names():
    message = mismatch_message(NAMES, ("module.encoder.0.weight", "module.encoder.0.bias", "module.tail"))
    assert "1 of 3 names are not saved, 1 of 3 saved names are unknown.\n  missing 'head.weight'" in message


def test_name_mismatch_message_is_short():
    wanted = [f"layers.{i}.attention.weight" for i in range(1500)]
    saved = [f"blocks.{i}.attn.kernel" + "x" * 500 for i in range(1500)]
    message = mismatch_message(wanted, saved)
    assert "1500 of 1500 names are not saved" in message
    assert len(message.splitlines()) <= 10
    assert len(message) < 2000


def test_names_that_differ_only_by_a_wrapper_are_distinct():
    names = ("a._orig_mod.weight", "a.weight")
    (a, first), (b, second) = optimizer(names, 2), optimizer(names[::-1])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.state[a[0]]["exp_avg"], second.state[b[1]]["exp_avg"])
