"""dashpot's optimizers in Fabric, compared with a plain PyTorch loop: bit for bit unless a tolerance is given."""

from __future__ import annotations

import pytest
import torch
from loop_frameworks import needs
from other_loops_support import (
    EPOCHS,
    MICRO,
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


@needs("lightning_fabric")
@lightning_warnings
class TestFabric:
    def setup_fabric(self, make):
        from lightning_fabric import Fabric

        fabric, model = Fabric(accelerator="cpu", devices=1), network()
        opt, scheduler = make(model.parameters())
        return fabric, *fabric.setup(model, opt), scheduler

    def train(self, fabric, model, opt, scheduler, epochs=EPOCHS):
        for _ in range(epochs):
            for k, batch in enumerate(micro_batches()):
                fabric.backward(loss_of(model, batch) / 2)
                if k % 2 or k + 1 == MICRO:
                    fabric.clip_gradients(model, opt, max_norm=0.1, error_if_nonfinite=False)
                    opt.step()
                    if scheduler is not None:
                        scheduler.step()
                    opt.zero_grad()

    @methods
    def test_equals_plain_loop(self, make):
        run = self.setup_fabric(make)
        self.train(*run)
        assert torch.equal(weights(run[1]), plain(make, 2, 0.1))

    @resumed_methods
    def test_resumed_run_equals_uninterrupted_run(self, make, tmp_path):
        fabric, model, opt, scheduler = self.setup_fabric(make)
        self.train(fabric, model, opt, scheduler, epochs=1)
        saved = {"model": model, "opt": opt} | ({} if scheduler is None else {"scheduler": scheduler})
        fabric.save(tmp_path / "one.ckpt", saved)
        fabric, model, opt, scheduler = self.setup_fabric(make)
        fresh = {"model": model, "opt": opt} | ({} if scheduler is None else {"scheduler": scheduler})
        fabric.load(tmp_path / "one.ckpt", fresh, weights_only=True)
        self.train(fabric, model, opt, scheduler, epochs=EPOCHS - 1)
        assert torch.equal(weights(model), plain(make, 2, 0.1))

    @pytest.mark.parametrize("route", ["wrapper", "separate"])
    def test_second_order_with_wrapped_optimizer(self, route):
        make = sophia()
        fabric, model, opt, _ = self.setup_fabric(make)
        for _ in range(EPOCHS):
            for batch in micro_batches():
                opt.zero_grad()
                if route == "wrapper":
                    opt.backward(loss_of(model, batch))
                else:
                    if opt.should_create_graph():
                        opt.optimizer.curvature_step(lambda batch=batch: loss_of(model, batch))
                    fabric.backward(loss_of(model, batch))
                opt.step()
        assert torch.equal(weights(model), plain_closures(make))

    def test_loss_scaling_supports_max_norm_only(self):
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision

        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        fabric, bare = Fabric(accelerator="cpu", devices=1, plugins=[precision]), network()
        model, opt = fabric.setup(bare, dp.AdamW(bare.parameters(), lr=0.05, max_norm=0.1))
        fabric.backward(loss_of(model, next(iter(micro_batches()))))
        with pytest.raises(NotImplementedError, match="clipping"):
            fabric.clip_gradients(model, opt, max_norm=0.1)
        opt.step()
        assert opt.last_step == "clipped"
        assert 0.1 < float(opt.last_grad_norm) < 10
