"""dashpot with Lightning's Trainer: first and second order, schedules, accumulation, clipping, checkpoints.

AdamW uses automatic optimization with two micro-batches per step, clipping, and a dashpot schedule stepped by the
Trainer.
The run is stopped halfway, resumes from the Trainer's checkpoint, and ends with bit-identical weights.
Sophia needs the loss: with `automatic_optimization = False`, its step receives a closure over both micro-batches.
Requires `pip install 'dashpot[loops]'`. Run: python examples/lightning_trainer.py
"""

import logging
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.data import digits

EPOCHS, BATCH, MICRO_BATCHES = 6, 50, 2
STEPS = EPOCHS * 1500 // (BATCH * MICRO_BATCHES)


def tensors():
    """Return the images and labels for training and for evaluation."""
    images = digits.load()
    pairs = (images.train_images, images.train_labels), (images.eval_images, images.eval_labels)
    return [(torch.tensor(x).float().flatten(1) / 16, torch.tensor(y).long()) for x, y in pairs]


def batches(size):
    return DataLoader(TensorDataset(*tensors()[0]), batch_size=size)


class Classifier(pl.LightningModule):
    """Network, loss and accuracy of both runs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))

    def loss(self, x, y):
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def accuracy(self):
        x, y = tensors()[1]
        with torch.no_grad():
            return (self.net(x).argmax(1) == y).float().mean().item()


class FirstOrder(Classifier):
    def training_step(self, batch, batch_idx):
        return self.loss(*batch)

    def configure_optimizers(self):
        # In the eager engine, rounding is the same on machines with and without a C++ compiler.
        opt = dp.AdamW(self.parameters(), lr=1e-2, engine="eager")
        scheduler = dp.schedules.Scheduler(
            opt, lr=dp.schedules.OneCycle(STEPS), momentum=dp.schedules.OneCycleMomentum(STEPS)
        )
        # "step" refers to optimizer steps, not micro-batches; by default, the Trainer makes one call per epoch.
        return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class SecondOrder(Classifier):
    """Manual optimization with a closure over the whole batch; Lightning's closure covers only the last micro-batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        micro_batches = list(zip(*(tensor.chunk(MICRO_BATCHES) for tensor in batch), strict=True))

        def closure():
            opt.zero_grad()
            total = 0.0
            for x, y in micro_batches:
                loss = self.loss(x, y) * (len(x) / len(batch[0]))
                self.manual_backward(loss)
                total += loss.detach()
            return total

        opt.step(closure=closure)

    def configure_optimizers(self):
        # max_norm clips inside the step, since the Trainer's gradient_clip_val requires automatic optimization. The
        # schedule depends on the optimizer's step count, so no scheduler has to be stepped.
        schedule = dp.schedules.Cosine(STEPS)
        return dp.Sophia(self.parameters(), lr=2e-2, max_norm=1.0, update_d_every=5, schedule=schedule)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet, **options)


def first_order(folder):
    options = {"accumulate_grad_batches": MICRO_BATCHES, "gradient_clip_val": 1.0}
    whole = FirstOrder()
    trainer(folder, max_epochs=EPOCHS, enable_checkpointing=False, **options).fit(whole, batches(BATCH))

    file = Path(folder) / "half.ckpt"
    half = trainer(folder, max_epochs=EPOCHS // 2, enable_checkpointing=False, **options)
    half.fit(FirstOrder(), batches(BATCH))
    half.save_checkpoint(file)
    resumed, rest = FirstOrder(), trainer(folder, max_epochs=EPOCHS, enable_checkpointing=False, **options)
    rest.fit(resumed, batches(BATCH), ckpt_path=file, weights_only=True)  # the state contains only tensors and numbers

    same = all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    print(f"AdamW: accuracy {whole.accuracy():.3f} after {rest.global_step} steps; resumed run identical: {same}")
    return whole.accuracy(), same


def second_order(folder):
    model = SecondOrder()
    run = trainer(folder, max_epochs=EPOCHS, enable_checkpointing=False)
    run.fit(model, batches(BATCH * MICRO_BATCHES))
    stats = model.optimizers().curvature_stats
    accuracy = model.accuracy()
    print(f"Sophia: accuracy {accuracy:.3f} after {run.global_step} steps, {stats.products} products by {stats.route}")
    return accuracy, stats.products


def main():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no hardware report or tips
    with tempfile.TemporaryDirectory() as folder:
        return {"first": first_order(folder), "second": second_order(folder)}


if __name__ == "__main__":
    results = main()
    (first, same), (second, products) = results["first"], results["second"]
    assert min(first, second) > 0.85
    assert same
    assert products == STEPS // 5
