"""Invalid edits of the state by users raise an error before anything is written, in both engines."""

import pytest
import torch

import dashpot as dp

ENGINES = ("eager", "compiled")
SLOTS = {
    "None": (lambda x: None, "must be a dense tensor, got NoneType"),
    "float": (lambda x: 0.5, "must be a dense tensor, got float"),
    "array": (lambda x: x.numpy(), "must be a dense tensor, got ndarray"),
    "sparse": (lambda x: x.to_sparse(), "must be a dense tensor, got layout torch.sparse_coo"),
    "meta": (lambda x: x.to("meta"), "must be on its parameter's device, cpu, got meta"),
    "integers": (lambda x: x.long(), "must be a real floating tensor, got torch.int64"),
    "complex": (lambda x: x.to(torch.complex64), "must be a real floating tensor, got torch.complex64"),
    "expanded": (lambda x: x[:1].clone().expand_as(x), "got a conjugated or expanded view"),
    "shape": (lambda x: x[:1].clone(), r"shape \(4, 3\), got \(1, 3\)"),
}
COUNTS = {
    "nan": lambda: torch.tensor(float("nan")),
    "inf": lambda: torch.tensor(float("inf")),
    "negative": lambda: torch.tensor(-2.0),
    "negative integer": lambda: -7,
    "fraction": lambda: torch.tensor(2.5),
    "huge": lambda: torch.tensor(1e30),
    "complex": lambda: torch.tensor(3 + 1j),
    "two": lambda: torch.tensor([1.0, 2.0]),
    "meta": lambda: torch.tensor(3.0, device="meta"),
    "text": lambda: "x",
    "None": lambda: None,
}


def _trained(engine, dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    params = [torch.nn.Parameter(torch.randn(4, 3, dtype=dtype, generator=draw)) for _ in range(3)]
    optimizer = dp.AdamW(params, lr=0.1, engine=engine)
    for p in params:
        p.grad = torch.randn(4, 3, dtype=dtype, generator=draw)
    optimizer.step()
    return params, optimizer


def _check_rejected(params, optimizer, match):
    before = [p.detach().clone() for p in params]
    with pytest.raises(dp.ArgumentError, match=match):
        optimizer.step()
    assert all(map(torch.equal, before, params))
    assert [float(optimizer.state[params[i]]["step"]) for i in (0, 2)] == [1.0, 1.0]
    assert optimizer.param_groups[0]["steps_done"] == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", SLOTS)
def test_invalid_slot_raises(case, engine):
    edit, match = SLOTS[case]
    params, optimizer = _trained(engine)
    state = optimizer.state[params[1]]
    state["exp_avg"] = edit(state["exp_avg"])
    _check_rejected(params, optimizer, rf"AdamW: state 'exp_avg' .*{match}")


@pytest.mark.parametrize("engine", ENGINES)
def test_conjugated_slot_raises(engine):
    params, optimizer = _trained(engine, torch.complex64)
    state = optimizer.state[params[1]]
    state["exp_avg"] = state["exp_avg"].conj()
    _check_rejected(params, optimizer, "got a conjugated or expanded view")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", COUNTS)
def test_invalid_step_count_raises(case, engine):
    params, optimizer = _trained(engine)
    optimizer.state[params[1]]["step"] = COUNTS[case]()
    _check_rejected(params, optimizer, r"AdamW: state 'step' must be an integer in \[0, 2\^53\), got")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [float("nan"), -2.0, 2.5])
def test_step_count_edited_in_place_raises(count, engine):
    params, optimizer = _trained(engine)
    optimizer.state[params[1]]["step"].fill_(count)
    _check_rejected(params, optimizer, r"AdamW: state 'step' must be an integer in \[0, 2\^53\), got")
