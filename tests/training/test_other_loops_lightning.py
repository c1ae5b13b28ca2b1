"""dashpot's optimizers in Lightning, compared with a plain PyTorch loop: bit for bit unless a tolerance is given."""

from __future__ import annotations

import pytest
import torch
from loop_frameworks import needs
from other_loops_support import (
    EPOCHS,
    MICRO,
    accumulations,
    adamw,
    lightning_warnings,
    loss_of,
    methods,
    micro_batches,
    network,
    plain,
    plain_closures,
    resumed_methods,
    sophia,
    weights,
)

import dashpot as dp

pytestmark = pytest.mark.usefixtures("clean_frameworks")

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def module(make, manual=None):
    """Return a LightningModule of the network; `manual` is its training step under manual optimization."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.automatic_optimization = network(), manual is None

        def training_step(self, batch, batch_idx):
            return loss_of(self.net, batch) if manual is None else manual(self, batch)

        def configure_optimizers(self):
            opt, scheduler = make(self.parameters())
            return opt if scheduler is None else ([opt], [{"scheduler": scheduler, "interval": "step"}])

    return Module()


def fit(model, *, epochs=EPOCHS, ckpt_path=None, **options):
    import lightning.pytorch as pl

    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **QUIET, **options)
    trainer.fit(model, micro_batches(), ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True)
    return trainer


@needs("lightning")
@lightning_warnings
class TestLightning:
    @pytest.mark.diagonal
    @methods
    @accumulations
    @pytest.mark.parametrize("clip", [None, 0.1])
    def test_automatic_optimization_equals_plain_loop(self, make, accumulate, clip):
        model = module(make)
        fit(model, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
        assert torch.equal(weights(model), plain(make, accumulate, clip))

    @resumed_methods
    def test_resumed_run_equals_uninterrupted_run(self, make, tmp_path):
        fit(module(make), epochs=1, accumulate_grad_batches=2).save_checkpoint(tmp_path / "one.ckpt")
        model = module(make)
        trainer = fit(model, accumulate_grad_batches=2, ckpt_path=tmp_path / "one.ckpt")
        assert trainer.global_step == 4 * EPOCHS
        assert torch.equal(weights(model), plain(make, 2))

    def test_default_interval_steps_schedule_once_per_epoch(self):
        held = []

        def make(params):
            opt, scheduler = adamw(params)
            held.append(scheduler)
            return opt, scheduler

        model = module(make)
        model.configure_optimizers = lambda: [[item] for item in make(model.parameters())]
        fit(model)
        assert held[0].last_epoch == EPOCHS

    def test_second_order_with_lightning_closure(self):
        make = sophia()
        model = module(make)
        fit(model)
        assert torch.equal(weights(model), plain_closures(make))
        assert make.made[0].curvature_stats[:3] == ("closure", "a closure was passed", 3)

    def test_second_order_with_closure_over_all_microbatches(self):
        """With manual optimization, the closure splits each batch into two halves."""

        def manual(self, batch):
            opt = self.optimizers()

            def closure():
                opt.zero_grad()
                losses = [loss_of(self.net, half) / 2 for half in zip(*(t.chunk(2) for t in batch), strict=True)]
                for loss in losses:
                    self.manual_backward(loss)
                return sum(loss.detach() for loss in losses)

            opt.step(closure=closure)

        make = sophia()
        model = module(make, manual)
        trainer = fit(model)
        assert trainer.global_step == MICRO * EPOCHS
        assert make.made[0].curvature_stats.products == 3
        # The sum of the two halves equals the batch up to rounding errors, which propagate over 21 steps.
        torch.testing.assert_close(weights(model), plain_closures(make), rtol=0, atol=2e-6)

    def test_lightning_closure_covers_last_microbatch_only(self):
        """With accumulation, the product uses half the loss of one micro-batch, as docs/other-loops.md describes."""
        make = sophia()
        fit(module(make), epochs=1, accumulate_grad_batches=2, limit_train_batches=2)
        model, ours = network(), sophia()
        opt, _ = ours(model.parameters())
        first, last = list(micro_batches())[:2]
        (loss_of(model, first) / 2).backward()

        def closure():
            loss = loss_of(model, last) / 2
            loss.backward()
            return loss

        opt.step(closure)
        for a, b in zip(make.made[0].state.values(), opt.state.values(), strict=True):
            assert torch.equal(a["hess"], b["hess"])
            assert a["hess"].any()

    def test_finite_differences_repeat_training_step(self):
        calls = []

        def make(params):
            return dp.Sophia(params, lr=0.05, probe="differences"), None

        model = module(make)
        model.training_step = lambda batch, batch_idx: (calls.append(batch_idx), loss_of(model.net, batch))[1]
        fit(model, epochs=1)
        assert calls == [0, 0, 0, *range(1, MICRO)]

    def test_step_outside_the_wrapper_is_not_counted(self):
        """Training works, but a Trainer with max_steps does not end, as docs/other-loops.md describes."""

        def manual(self, batch):
            opt = self.optimizers().optimizer
            opt.zero_grad()
            opt.backward(loss_of(self.net, batch))
            opt.step()

        make = sophia()
        model = module(make, manual)
        assert fit(model).global_step == 0
        assert torch.equal(weights(model), plain_closures(make))

    def test_loss_scaling_supports_max_norm_only(self):
        """Unscaling happens within the step, as in torch's fused optimizers, so Lightning rejects gradient clipping."""

        def make(params):
            return dp.AdamW(params, lr=0.05, max_norm=0.1), None

        with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
            fit(module(make), epochs=1, gradient_clip_val=0.1, plugins=[scaled()])
        model, reference = module(make), network()
        fit(model, epochs=1, plugins=[scaled()])
        opt, scaler = make(reference.parameters())[0], torch.amp.GradScaler("cpu", init_scale=1024.0)
        for batch in micro_batches():
            with torch.autocast("cpu", torch.half, cache_enabled=False):
                loss = loss_of(reference, batch)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
        assert torch.equal(weights(model), weights(reference))
        assert opt.last_step == "clipped"


def scaled():
    from lightning.pytorch.plugins import MixedPrecision

    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
