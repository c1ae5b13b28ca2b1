"""Watching under accumulation, gradient scalers, skipped steps, compiled models and failing measurements."""

import json
import tracemalloc

import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.watching import watch
from dashpot.watching.probe import Probe
from dashpot.watching.series import Series, WatchRecord

SCALE = 1024.0
SCALED = {
    "torch": lambda params: torch.optim.Adam(params, lr=0.1),
    "torch-fused": lambda params: torch.optim.Adam(params, lr=0.1, fused=True),
    "torch-foreach": lambda params: torch.optim.Adam(params, lr=0.1, foreach=True),
    "dashpot": lambda params: dp.Adam(params, lr=0.1),
    "dashpot-capturable": lambda params: dp.Adam(params, lr=0.1, capturable=True),
}


def weight():
    return torch.tensor([3.0, 4.0], requires_grad=True)


def only_norms(watcher):
    watcher.probes[:] = [probe for probe in watcher.probes if probe.kind in ("pulse", "norms")]
    watcher.probes[-1].every = 1
    return watcher


@pytest.mark.parametrize("name", SCALED)
def test_gradient_scaler_is_divided_out_and_skipped_steps_have_no_rows(name):
    w = weight()
    optimizer = SCALED[name]([w])
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    with watch(optimizer, budget=1.0) as watcher:
        only_norms(watcher)
        for step in range(4):
            optimizer.zero_grad()
            loss = (w**2).sum() / 2 * (torch.inf if step == 1 else 1.0)
            expected = w.detach().norm().item()
            scaler.scale(loss).backward()
            watcher.observe(loss)
            scaler.step(optimizer)
            scaler.update()
        norms = watcher.record.rows("norms").rows
        assert len(norms) == len(watcher.record.rows("pulse")) == 3
        assert norms[-1]["grad"] == pytest.approx(expected, rel=1e-6)  # float32
        assert watcher.record.rows("pulse").last["grad"] == pytest.approx(expected, rel=1e-6)


def test_gradients_that_the_scaler_has_unscaled_are_used_as_they_are():
    w = weight()
    optimizer, scaler = dp.Adam([w], lr=0.1), torch.amp.GradScaler("cpu", init_scale=SCALE)
    with watch(optimizer, budget=1.0) as watcher:
        scaler.scale((w**2).sum() / 2).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        assert watcher.record.rows("norms").last["grad"] == pytest.approx(5.0)


def test_scale_of_gradient_scaler_is_known_before_and_after_the_step():
    class Scales(Probe):
        kind = "scales"
        found = ()

        def before_step(self, watcher, moment):
            self.found += (watcher.grad_scale,)

        after_step = before_step

    w, scaler, probe = weight(), torch.amp.GradScaler("cpu", init_scale=SCALE), Scales()
    optimizer = dp.Adam([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        watcher.probes[:] = [probe]
        scaler.scale(w.sum()).backward()
        scaler.step(optimizer)
        assert (probe.found, watcher.grad_scale) == ((SCALE, SCALE), 1.0)


def test_step_that_the_optimizer_skips_has_only_a_pulse():
    w = weight()
    optimizer = dp.Adam([w], lr=0.1, nonfinite="skip")
    with watch(optimizer, budget=1.0) as watcher:
        only_norms(watcher)
        for grad in (1.0, torch.inf, 1.0):
            w.grad = torch.full((2,), grad)
            optimizer.step()
        assert [row["step"] for row in watcher.record.rows("norms")] == [1, 3]
        assert [row.get("skipped", False) for row in watcher.record.rows("pulse")] == [False, True, False]


def test_step_that_raises_does_not_affect_the_next_measurement():
    w = weight()
    optimizer = dp.Adam([w], lr=0.1, nonfinite="raise")
    with watch(optimizer, budget=1.0) as watcher:
        only_norms(watcher)
        w.grad = torch.full((2,), torch.nan)
        with pytest.raises(dp.NonFiniteError):
            optimizer.step()
        w.grad = torch.ones(2)
        optimizer.step()
        assert [row["step"] for row in watcher.record.rows("norms")] == [2]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_accumulated_gradients_are_measured_at_the_step(set_to_none):
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        for _ in range(2):
            optimizer.zero_grad(set_to_none=set_to_none)
            for factor in (1.0, 2.0):
                (factor * w).sum().backward()
            optimizer.step()
        assert [row["grad"] for row in watcher.record.rows("pulse")] == pytest.approx([3 * 2**0.5] * 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # raised within Inductor
def test_compiled_model_and_compiled_step_are_watched():
    model = torch.compile(nn.Linear(2, 1), backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    with watch(optimizer, model, budget=1.0) as watcher:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            step()
        assert [row["step"] for row in watcher.record.rows("pulse")] == [1, 2, 3]
        assert list(watcher.record.rows("norms").last["tensors"]) == ["weight", "bias"]


def test_measurement_that_fails_becomes_a_reason_and_is_removed():
    class Failing(Probe):
        kind = "failing"

        def before_step(self, watcher, moment):
            raise ValueError("no")

    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        watcher.probes.append(Failing())
        for _ in range(5):
            w.grad = torch.ones(2)
            optimizer.step()
        assert [row["reason"] for row in watcher.record.rows("failing")] == [
            "The measurement failed: ValueError: no."
        ] * 3
        assert watcher.status()["notes"] == ["failing is no longer measured: The measurement failed: ValueError: no."]


def test_status_and_cost_row_show_the_measured_shares():
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        for _ in range(3):
            w.grad = torch.ones(2)
            optimizer.step()
    status, row = watcher.status(), watcher.record.rows("cost").last
    assert (status["steps"], row["steps"], row["step"]) == (3, 3, 3)
    assert status["measurements"]["pulse"] == 3
    assert status["share"] == pytest.approx(sum(status["by_kind"].values()))
    assert {"pulse", "norms", "hooks"} <= row["by_kind"].keys()


def test_closed_watcher_does_not_measure():
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        pass
    w.grad = torch.ones(2)
    optimizer.step()
    assert watcher.step == 0
    watcher.close()


def test_observed_batch_is_released_after_the_step():
    w = weight()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(optimizer, budget=1.0) as watcher:
        released = []

        class Batch:
            def __del__(self):
                released.append(True)

        batch = Batch()
        watcher.observe(closure=lambda batch=batch: batch)
        del batch
        w.grad = torch.ones(2)
        optimizer.step()
        assert released == [True]


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_of_long_run_is_bounded():
    params = [torch.ones(1, requires_grad=True) for _ in range(20)]
    optimizer = torch.optim.SGD(params, lr=0.0)
    with watch(optimizer, budget=1.0) as watcher:
        only_norms(watcher)

        def train(steps):
            for _ in range(steps):
                for p in params:
                    p.grad = torch.ones(1)
                optimizer.step()
            watcher.record.flush()

        train(600)  # both series are full
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            train(300)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert len(watcher.record.rows("norms")) <= 512
    assert len(watcher.record.rows("pulse")) == 512
    # Rows are replaced by new ones, which the tracer alone counts: at most those of both full series, 2 KiB per row of
    # pulses and 10 KiB per row of norms of 20 tensors; without a limit of rows, the growth would continue.
    assert grown < 300 * 12 * 1024


def test_series_with_many_tensors_has_fewer_rows():
    series = Series()
    for step in range(200):
        series.add({"step": step, "tensors": dict.fromkeys(range(1000))})
    assert len(series) <= 64
    assert series.rows[0]["step"] == 0
    assert [row["step"] for row in series.rows[-16:]] == list(range(184, 200))


def test_rows_of_numbers_that_are_not_finite_have_a_reason():
    record = WatchRecord({})
    record.add("noise", {"step": 1, "scale": torch.inf, "parts": [1.0, torch.nan], "reason": None})
    row = record.rows("noise").last
    assert row == {"step": 1, "scale": None, "parts": [1.0, None], "reason": "Not finite: scale, parts."}
    json.dumps(record.to_dict(), allow_nan=False)


def test_rows_are_read_in_order_and_only_when_needed():
    record, read = WatchRecord({}), []
    for step in (1, 2):
        record.add_later("pulse", lambda step=step: read.append(step) or {"step": step})
    record.add_later("norms", lambda: None)
    assert record.rows("norms").last is None
    assert read == []
    assert [row["step"] for row in record.rows("pulse")] == read == [1, 2]
    assert "pulse" not in record.to_dict()["series"]
