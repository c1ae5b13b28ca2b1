"""dashpot with Accelerate: gradient accumulation, clipping, a schedule, `save_state` and `load_state`.

The optimizer is a custom combination of stages: `dp.Filter` with a pole and a zero, a second moment, and a user-defined
stage that bounds each element of the step. `prepare` wraps the optimizer; methods that the wrapper lacks are available
on `opt.optimizer`.
A run saved by Accelerate halfway and resumed ends with bit-identical weights.
Requires `pip install 'dashpot[loops]'`. Run: python examples/accelerate_loop.py
"""

import tempfile
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.data import digits

EPOCHS, BATCH, MICRO_BATCHES = 6, 50, 2
STEPS = EPOCHS * 1500 // (BATCH * MICRO_BATCHES)


@dataclass(frozen=True)
class SoftSign(dp.Stage):
    """Soft bound on each element, v <- v/(1 + |v|/limit), which hardly changes small elements."""

    limit: float = 2.0
    position = 4

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v / (1 + x.v.abs() / c.limit)), s


def tensors():
    """Return the images and labels for training and for evaluation."""
    images = digits.load()
    pairs = (images.train_images, images.train_labels), (images.eval_images, images.eval_labels)
    return [(torch.tensor(x).float().flatten(1) / 16, torch.tensor(y).long()) for x, y in pairs]


def build(accelerator):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    opt = dp.SGM(
        model.parameters(),
        lr=2e-2,
        filter=dp.Filter(pole=0.9, zero=0.5),
        rate=dp.SecondMoment(beta=0.99),
        robust=SoftSign(),
        decay=dp.DecoupledDecay(0.01),
        engine="eager",  # rounding is the same on machines with and without a C++ compiler
    )
    # The schedule counts optimizer steps: Accelerate ignores scheduler calls between micro-batches. With n processes,
    # it makes n calls per step, unless Accelerator(step_scheduler_with_optimizer=False) is used. A schedule passed to
    # the optimizer as schedule=... depends only on the optimizer's step count.
    scheduler = dp.schedules.Scheduler(
        opt, lr=dp.schedules.Cosine(STEPS), zero=dp.schedules.Linear(start=1.0, end=0.2, steps=STEPS)
    )
    batches = DataLoader(TensorDataset(*tensors()[0]), batch_size=BATCH, shuffle=True)
    return accelerator.prepare(model, opt, scheduler, batches)


def train(accelerator, prepared, epochs):
    model, opt, scheduler, batches = prepared
    for epoch in epochs:
        batches.set_epoch(epoch)  # the order depends on the sampler's seed and the epoch
        for x, y in batches:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)  # divides the loss by the number of micro-batches
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()
                scheduler.step()
                opt.zero_grad()


def accuracy(model):
    x, y = tensors()[1]
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main():
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=MICRO_BATCHES,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=0),
    )
    whole = build(accelerator)
    print(whole[1].optimizer.recipe)
    train(accelerator, whole, range(EPOCHS))
    model, opt, scheduler, _ = whole

    # save_state and load_state cover all objects prepared since the last free_memory.
    accelerator.free_memory()
    with tempfile.TemporaryDirectory() as folder:
        half = build(accelerator)
        train(accelerator, half, range(EPOCHS // 2))
        accelerator.save_state(folder)
        accelerator.free_memory()
        resumed = build(accelerator)
        accelerator.load_state(folder)
    train(accelerator, resumed, range(EPOCHS // 2, EPOCHS))

    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed[0].parameters(), strict=True))
    steps, lr = opt.optimizer.steps_done(), scheduler.get_last_lr()[0]
    result = accuracy(model)
    print(f"accuracy {result:.3f} after {steps} steps, final lr {lr:.2g}; resumed run identical: {same}")
    return result, steps, lr, same


if __name__ == "__main__":
    result, steps, lr, same = main()
    assert result > 0.85
    assert steps == STEPS
    assert lr == 0
    assert same
