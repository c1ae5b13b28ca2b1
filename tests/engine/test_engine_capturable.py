"""`capturable=True`: the same results as the ordinary step, without host syncs."""

import copy

import pytest
import torch
from contracts.trajectories import distance, gradient, identical, parameters, run, values
from registry import SUBJECTS, each, each_second
from torch.utils._python_dispatch import TorchDispatchMode

import dashpot as dp
from dashpot.optimizers import cuda_graph

SAME = 1e-12  # float64 over ten steps: torch computes the scalars with the same double arithmetic


class ForbidReads(TorchDispatchMode):
    """Raises an exception when the value of a tensor is read on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


def run_both(subject, steps=8, missing=lambda step, index: False, **options):
    """Return parameters of an ordinary and a capturable run with the same gradients, and the capturable optimizer."""
    ordinary, others = parameters(), parameters()
    run(subject.make(ordinary, **options), ordinary, steps, missing=missing)
    optimizer = subject.make(others, capturable=True, **options)
    run(optimizer, others, steps, missing=missing)
    return ordinary, others, optimizer


def test_sync_detector_detects_read():
    with ForbidReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(torch.zeros(()))


@each(lambda subject: subject.captures)
def test_results_match_ordinary_step(subject):
    ordinary, others, _ = run_both(subject)
    assert distance(others, ordinary) < SAME


@each_second(lambda subject: subject.captures)
def test_results_match_with_clipping_and_late_parameters(subject):
    def missing(step, index):
        return step == 3 or (index == 1 and step < 2)

    ordinary, others, optimizer = run_both(subject, missing=missing, max_norm=0.5, clip_value=0.3)
    assert distance(others, ordinary) < SAME
    assert [optimizer.state[p]["step"].item() for p in others] == [7, 5, 7]
    assert optimizer.last_step == "clipped"


@each(lambda subject: subject.captures)
def test_step_reads_no_tensor_value(subject):
    params = parameters()
    optimizer = subject.make(params, capturable=True, max_norm=0.5, nonfinite="skip", schedule=dp.schedules.Cosine(9))
    with ForbidReads():
        for step in range(3):
            for index, p in enumerate(params):
                p.grad = gradient(p, step, index)
            optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), torch.full((), 4.0)
            optimizer.step()
    assert optimizer.last_step in ("applied", "clipped")


OPTIONS = (
    {},
    {"max_norm": 1.0, "nonfinite": "skip", "clip_value": 0.5},
    {"rounding": "stochastic", "state_dtype": torch.bfloat16},
    {"rounding": "kahan", "max_norm": 1.0},
)


@pytest.mark.diagonal
@each_second(lambda subject: subject.captures)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_step_runs_on_meta_tensors(subject, options):
    """On the meta device, reading a value raises an exception. Counts, slots and scalars must be on this device."""
    dtype = torch.bfloat16 if "rounding" in options else torch.float32
    params = [torch.zeros(shape, device="meta", dtype=dtype, requires_grad=True) for shape in ((3, 2), (4,), ())]
    optimizer = subject.make(params, lr=torch.tensor(0.1, device="meta"), capturable=True, **options)
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        if "max_norm" in options:
            optimizer.grad_scale = torch.ones((), device="meta")
            optimizer.found_inf = torch.zeros((), device="meta")
        optimizer.step()
    assert {value.device.type for state in optimizer.state.values() for value in state.values()} == {"meta"}
    assert all(state["step"].dtype == torch.float32 for state in optimizer.state.values())


@each_second(lambda subject: subject.captures and "own-stage" not in subject.name)
def test_low_precision_matches_ordinary_step(subject):
    options = {"rounding": "stochastic", "state_dtype": torch.bfloat16, "seed": 5}
    params, others = parameters(torch.bfloat16), parameters(torch.bfloat16)
    run(subject.make(params, **options), params, 3)
    run(subject.make(others, capturable=True, **options), others, 3)
    # The scalars (float64 tensors or Python numbers) differ in their last bits, which changes the rounding of one in
    # 65536 such differences, so a few elements may differ by a bfloat16 step, 2^-8 of their size.
    assert distance([p.float() for p in others], [p.float() for p in params]) <= 2**-7


@pytest.mark.diagonal
@each_second(lambda subject: subject.captures)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_skipped_step_changes_nothing(subject, bad):
    params = parameters()
    optimizer = subject.make(params, capturable=True, nonfinite="skip")
    run(optimizer, params, 3)
    kept, state = values(params), copy.deepcopy(optimizer.state_dict()["state"])
    with ForbidReads():
        for index, p in enumerate(params):
            p.grad = gradient(p, 3, index)
        params[0].grad[0, 0] = bad
        optimizer.step()
    assert optimizer.last_step == "skipped"
    assert identical(params, kept)
    now = optimizer.state_dict()["state"]
    assert all(torch.equal(now[i][key], state[i][key]) for i in state for key in state[i])
    run(optimizer, params, range(3, 5))
    assert optimizer.last_step == "applied"
    assert optimizer.state[params[0]]["step"] == 5


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("capturable", [False, True])
def test_grad_scaler_scales_and_skips(finite, capturable):
    params, plain = parameters(torch.float32), parameters(torch.float32)
    optimizer, reference = dp.AdamW(params, lr=0.1, capturable=capturable), torch.optim.AdamW(plain, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    scaler.scale(torch.zeros(()))
    for index, (p, q) in enumerate(zip(params, plain, strict=True)):
        q.grad = gradient(q, 0, index)
        p.grad = q.grad * 8
    if not finite:
        params[0].grad[0, 0] = float("inf")
    sent = values([p.grad for p in params])
    scaler.step(optimizer)
    scaler.update()
    if finite:
        reference.step()
    assert distance(params, plain) < 1e-6  # one step in float32
    assert optimizer.last_step == ("applied" if finite else "skipped")
    assert scaler.get_scale() == (8.0 if finite else 4.0)
    assert identical([p.grad for p in params], sent)


def test_tensor_lr_is_not_copied():
    params, others = parameters(), parameters()
    rate = torch.tensor(0.1, dtype=torch.float64)
    one, two = dp.AdamW(params, lr=0.1), dp.AdamW(others, lr=rate, capturable=True)
    run(one, params, 3)
    run(two, others, 3)
    rate.fill_(0.01)
    one.param_groups[0]["lr"] = 0.01
    run(one, params, range(3, 6))
    run(two, others, range(3, 6))
    assert two.param_groups[0]["lr"] is rate
    assert distance(others, params) < SAME


@pytest.mark.diagonal
@each_second(lambda subject: subject.captures)
@pytest.mark.parametrize("to_capturable", [False, True])
def test_checkpoint_loads_across_capturable(subject, to_capturable):
    straight, params = parameters(), parameters()
    run(subject.make(straight), straight, 10)
    first = subject.make(params, capturable=not to_capturable)
    run(first, params, 5)
    second = subject.make(params, capturable=to_capturable)
    second.load_state_dict(first.state_dict())
    assert bool(second.param_groups[0].get("capturable")) is to_capturable
    run(second, params, range(5, 10))
    assert distance(params, straight) < SAME


def test_loaded_step_count_moves_to_parameter_device():
    """The meta device represents an accelerator, because it is available on every machine."""
    cpu, away = [torch.zeros(2, requires_grad=True)], [torch.zeros(2, device="meta", requires_grad=True)]
    first, second, third = dp.Adam(cpu), dp.Adam(away, capturable=True), dp.Adam(away)
    run(first, cpu, 2)
    second.load_state_dict(first.state_dict())
    third.load_state_dict(first.state_dict())
    assert second.state[away[0]]["step"].device.type == "meta"
    assert third.state[away[0]]["step"].device.type == "cpu"
    assert second.steps_done() == 2  # the count is read from the device on load, not at the next step


def test_capturable_torch_checkpoint_loads():
    params = parameters()
    first = torch.optim.Adam(params, capturable=True)
    for p in params:
        first.state[p] = {"step": torch.tensor(4.0), "exp_avg": torch.ones_like(p), "exp_avg_sq": torch.ones_like(p)}
    second = dp.Adam(parameters(), capturable=True)
    second.load_state_dict(first.state_dict())
    assert second.steps_done() == 4


@each_second(lambda subject: subject.captures)
def test_copy_continues_independently_on_device(subject):
    params = parameters()
    optimizer = subject.make(params, capturable=True)
    run(optimizer, params, 3)
    others, second = copy.deepcopy((params, optimizer))
    kept = values(others)
    run(optimizer, params, range(3, 6))
    assert identical(others, kept)
    run(second, others, range(3, 6))
    assert identical(others, params)


# ---- rejected settings ----------------------------------------------------------------------------------------------


@each(lambda subject: subject in SUBJECTS[:1] or subject.recipe is not None)
def test_nonfinite_raise_is_rejected(subject):
    with pytest.raises(dp.ArgumentError, match="nonfinite='raise' requires a host sync"):
        subject.make(parameters(), capturable=True, nonfinite="raise").step()


def test_capturable_must_agree_between_groups():
    (w, b, _) = parameters()
    with pytest.raises(dp.ArgumentError, match="capturable must be the same in all parameter groups"):
        dp.Adam([{"params": [w]}, {"params": [b], "capturable": True}])
    optimizer = dp.Adam([{"params": [w]}, {"params": [b]}])
    optimizer.param_groups[0]["capturable"] = True
    w.grad, b.grad = torch.ones_like(w), torch.ones_like(b)
    kept = values([w, b])
    with pytest.raises(dp.ArgumentError, match="capturable must be the same"):
        optimizer.step()
    assert identical([w, b], kept)


@pytest.mark.parametrize("value", ["yes", 2, None])
def test_capturable_must_be_bool(value):
    with pytest.raises(dp.ArgumentError, match="Adam: capturable must be"):
        dp.Adam(parameters(), capturable=value)
    with pytest.raises(dp.ArgumentError, match="HeavyBall: capturable must be"):
        dp.HeavyBall(parameters(), capturable=value)


def check_rejected_during_capture(monkeypatch, optimizer, params, sentence, steps=0):
    run(optimizer, params, steps)
    kept = values(params)
    monkeypatch.setattr(cuda_graph, "capturing", lambda: True)
    with pytest.raises(dp.ArgumentError, match=sentence):
        run(optimizer, params, range(steps, steps + 1))
    assert identical(params, kept)


def test_capture_without_capturable_raises(monkeypatch):
    params = parameters()
    check_rejected_during_capture(monkeypatch, dp.Adam(params), params, "only if capturable=True")


def test_capture_of_first_step_raises(monkeypatch):
    params = parameters()
    optimizer = dp.Adam(params, capturable=True)
    check_rejected_during_capture(monkeypatch, optimizer, params, "cannot record the step that creates the state")
    assert not optimizer.state


def test_capture_with_schedule_raises(monkeypatch):
    params = parameters()
    optimizer = dp.Adam(params, capturable=True, schedule=dp.schedules.Cosine(10))
    check_rejected_during_capture(monkeypatch, optimizer, params, "a schedule is computed on the host", steps=1)


def test_capture_after_first_step_succeeds(monkeypatch):
    params = parameters()
    optimizer = dp.Adam(params, capturable=True)
    run(optimizer, params, 1)
    monkeypatch.setattr(cuda_graph, "capturing", lambda: True)
    run(optimizer, params, range(1, 2))
    assert optimizer.state[params[0]]["step"] == 2
