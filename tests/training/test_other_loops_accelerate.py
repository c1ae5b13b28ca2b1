"""dashpot's optimizers in Accelerate, compared with a plain PyTorch loop: bit for bit unless a tolerance is given."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from loop_frameworks import forget_accelerate, needs
from other_loops_support import (
    EPOCHS,
    MICRO,
    accumulations,
    loss_of,
    methods,
    micro_batches,
    network,
    plain,
    resumed_methods,
    sophia,
    weights,
)

import dashpot as dp
from dashpot.schedules import Cosine, LinearWarmup, Scheduler

pytestmark = pytest.mark.usefixtures("clean_frameworks")


def prepared(make, **options):
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True, **options), network()
    opt, scheduler = make(model.parameters())
    items = [model, opt, micro_batches()] + ([] if scheduler is None else [scheduler])
    return accelerator, *accelerator.prepare(*items)


def accelerated(accelerator, model, opt, batches, scheduler=None, epochs=EPOCHS, clip=0.1):
    for _ in range(epochs):
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                opt.step()
                if scheduler is not None:
                    scheduler.step()
                opt.zero_grad()


@needs("accelerate")
class TestAccelerate:
    @pytest.mark.diagonal
    @methods
    @accumulations
    def test_equals_plain_loop(self, make, accumulate):
        run = prepared(make, gradient_accumulation_steps=accumulate)
        accelerated(*run)
        assert torch.equal(weights(run[1]), plain(make, accumulate, 0.1))

    @resumed_methods
    def test_resumed_run_equals_uninterrupted_run(self, make, tmp_path):
        run = prepared(make, gradient_accumulation_steps=2)
        accelerated(*run, epochs=1)
        run[0].save_state(tmp_path)
        forget_accelerate()
        run = prepared(make, gradient_accumulation_steps=2)
        run[0].load_state(tmp_path)
        accelerated(*run, epochs=EPOCHS - 1)
        assert torch.equal(weights(run[1]), plain(make, 2, 0.1))

    def test_prepare_preserves_optimizer_state(self):
        """`prepare` saves and loads the state, which must preserve counts, dtypes and groups."""
        from accelerate import Accelerator

        model = network()
        named = [{"params": [pair], "weight_decay": 0.1 * k} for k, pair in enumerate(model.named_parameters())]
        opt = dp.Sophia(named, lr=0.05, schedule=LinearWarmup(10), state_dtype=torch.bfloat16)
        for batch in list(micro_batches())[:3]:
            opt.zero_grad()
            opt.backward(loss_of(model, batch))
            opt.step()
        before = copy.deepcopy(opt.state_dict())
        wrapped = Accelerator(cpu=True).prepare(opt)
        after = wrapped.optimizer.state_dict()
        assert wrapped.optimizer is opt
        assert opt.steps_done() == 3
        assert after["param_groups"] == before["param_groups"]
        for index, state in before["state"].items():
            for key, value in state.items():
                assert after["state"][index][key].dtype == value.dtype
                assert torch.equal(after["state"][index][key], value)

    @pytest.mark.parametrize(("options", "calls"), [({}, 3), ({"step_scheduler_with_optimizer": False}, 1)])
    def test_prepared_scheduler_steps_once_per_process(self, options, calls, monkeypatch):
        """This is the default of Accelerate; a schedule in the optimizer advances once per step instead."""
        held = []

        def make(params):
            opt = dp.AdamW(params, lr=0.05, schedule=Cosine(100))
            held.extend((opt, Scheduler(opt, weight_decay=Cosine(100))))
            return held

        run = prepared(make, **options)
        monkeypatch.setattr("accelerate.scheduler.AcceleratorState", lambda: SimpleNamespace(num_processes=3))
        accelerated(*run, epochs=1)
        assert held[1].last_epoch == calls * MICRO
        assert held[0].current_lr() == pytest.approx(Cosine(100).value(0.05, MICRO), rel=1e-15)

    def test_skipped_step_advances_prepared_scheduler(self):
        """The wrapper does not detect a step that is skipped inside the optimizer, as in torch's fused optimizers."""
        from accelerate import Accelerator
        from accelerate.optimizer import AcceleratedOptimizer
        from accelerate.scheduler import AcceleratedScheduler

        Accelerator(cpu=True)
        w = torch.ones(2, requires_grad=True)
        ours = dp.AdamW([w], lr=0.05, schedule=Cosine(100))
        opt = AcceleratedOptimizer(ours, scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
        scheduler = Scheduler(ours, weight_decay=Cosine(100))
        for factor in (float("inf"), 1.0):
            opt.zero_grad()
            opt.scaler.scale((w * factor).sum()).backward()
            opt.step()
            assert not opt.step_was_skipped
            AcceleratedScheduler(scheduler, opt).step()
        assert scheduler.last_epoch == 2
        assert ours.steps_done() == 1
        assert w.isfinite().all()
        assert (w < 1).all()

    @pytest.mark.parametrize("route", ["closure", "graph", "separate"])
    @pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
    def test_second_order_with_accumulation(self, route):
        """On every route, two micro-batches equal one batch of both, up to rounding errors over four steps."""
        accelerator, model, opt, batches = prepared(sophia(), gradient_accumulation_steps=2)
        ours = opt.optimizer
        assert not hasattr(opt, "backward")  # the wrapper has only torch's methods
        half = None
        for batch in batches:
            with accelerator.accumulate(model):
                if route == "closure":
                    ours.backward(loss_of(model, batch) / 2)
                elif route == "graph":
                    accelerator.backward(loss_of(model, batch), create_graph=ours.should_create_graph())
                else:
                    if accelerator.sync_gradients and ours.should_create_graph():
                        both = [item for item in (half, batch) if item is not None]
                        ours.curvature_step(lambda both=both: sum(loss_of(model, item) / 2 for item in both))
                    accelerator.backward(loss_of(model, batch))
                opt.step()
                opt.zero_grad()
            half = batch
        reference = network()
        whole, _ = sophia()(reference.parameters())
        loaded = list(micro_batches())
        for pair in (loaded[:2], loaded[2:4], loaded[4:6], loaded[6:]):
            whole.zero_grad()
            whole.backward(sum(loss_of(reference, item) / 2 for item in pair))
            whole.step()
        torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=1e-6)
        assert ours.curvature_stats.products == 1
