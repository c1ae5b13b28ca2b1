"""dashpot inside the Trainer of Hugging Face transformers, by each of its three doors.

A GPT-2 of one small layer, made from a configuration on the spot (no download), learns sequences in which a token is
the sum of the two before it, modulo 5: from the third token on it can know every one.

1. `optimizers=(opt, scheduler)`: both ready-made. A second Trainer goes on from the checkpoint that the first one wrote
   half way, to the same weights bit for bit.
2. `optimizer_cls_and_kwargs=(dp.AutoSGM, {...})`: the Trainer makes the groups, without decay for biases and norms.
3. A subclass with `create_optimizer`, and here with `training_step`, as Sophia has to see the loss.
Needs `pip install 'dashpot[loops]'`. Run: python examples/hf_trainer.py
"""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is looked up

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import dashpot as dp

MODULUS, LENGTH, EXAMPLES, BATCH, EPOCHS = 5, 12, 768, 24, 5
STEPS = EPOCHS * EXAMPLES // BATCH
SCHEDULE = dp.schedules.OneCycle(STEPS)


def sequences():
    """EXAMPLES rows; the first two tokens are random, and the rest follow."""
    rows = torch.randint(MODULUS, (EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    for k in range(2, LENGTH):
        rows[:, k] = (rows[:, k - 1] + rows[:, k - 2]) % MODULUS
    return [{"input_ids": row, "labels": row} for row in rows]


def network():
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": LENGTH, "vocab_size": MODULUS}
    without_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**size, **without_dropout, bos_token_id=0, eos_token_id=0))


def accuracy(model):
    """The share of right guesses from the third token on."""
    rows = torch.stack([item["input_ids"] for item in sequences()[:128]])
    with torch.no_grad():
        guesses = model.eval()(input_ids=rows).logits[:, 1:-1].argmax(-1)
    return (guesses == rows[:, 2:]).float().mean().item()


def arguments(folder, **options):
    settings = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "use_cpu": True,
        "save_strategy": "no",
    }
    quiet = {"report_to": "none", "logging_strategy": "no", "disable_tqdm": True}
    return TrainingArguments(output_dir=folder, **{**settings, **quiet, **options})


def train(trainer, **options):
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(**options)


def ready_made(folder):
    """1. The Trainer moves the scheduler, once for each step of the optimizer."""

    def trainer(**options):
        model = network()
        # Not the default "auto", which may go over to compiled kernels on the way: those round differently.
        opt = dp.AdamW(model.parameters(), lr=1e-2, engine="eager")
        pair = opt, dp.schedules.Scheduler(opt, lr=SCHEDULE)
        return Trainer(model, arguments(folder, **options), train_dataset=sequences(), optimizers=pair)

    whole = trainer(save_strategy="steps", save_steps=STEPS // 2)
    train(whole)
    resumed = trainer()
    train(resumed, resume_from_checkpoint=f"{folder}/checkpoint-{STEPS // 2}")
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    print(f"AdamW: accuracy {accuracy(whole.model):.3f} after {STEPS} steps; resumed run identical: {same}")
    return accuracy(whole.model), same


def by_class(folder):
    """2. Two micro-batches a step. The schedule is in the optimizer, so the Trainer's own has to be "constant": it
    would otherwise multiply the rate by its straight line as well."""
    options = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    trainer = Trainer(
        network(),
        arguments(folder, lr_scheduler_type="constant", weight_decay=0.01, **options),
        train_dataset=sequences(),
        optimizer_cls_and_kwargs=(dp.AutoSGM, {"lr": 1e-2, "schedule": SCHEDULE}),
    )
    train(trainer)
    opt = trainer.optimizer.optimizer  # Accelerate's wrapper, then ours
    decays = [group["weight_decay"] for group in opt.param_groups]
    result = accuracy(trainer.model)
    print(f"AutoSGM: accuracy {result:.3f} after {opt.steps_done()} steps, weight_decay {decays} of the groups")
    return result, opt.steps_done(), decays


class SophiaTrainer(Trainer):
    """3. An optimizer of its own, and a Hessian-vector product every tenth step."""

    def create_optimizer(self, *args, **kwargs):
        if self.optimizer is None:
            self.optimizer = dp.Sophia(self.model.parameters(), lr=1e-2, gamma=3.0, weight_decay=0.0, schedule=SCHEDULE)
        return self.optimizer

    def training_step(self, model, inputs, num_items_in_batch=None):
        opt = self.optimizer.optimizer
        if self.accelerator.sync_gradients and opt.should_create_graph():  # at the last micro-batch of a step

            def loss():
                with self.compute_loss_context_manager():
                    return self.compute_loss(model, self._prepare_inputs(inputs))

            opt.curvature_step(loss)
        return super().training_step(model, inputs, num_items_in_batch)


def by_subclass(folder):
    trainer = SophiaTrainer(network(), arguments(folder, lr_scheduler_type="constant"), train_dataset=sequences())
    train(trainer)
    stats, result = trainer.optimizer.optimizer.curvature_stats, accuracy(trainer.model)
    print(f"Sophia: accuracy {result:.3f}, {stats.products} products by {stats.route} ({stats.reason})")
    return result, stats.products, stats.route


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        return {way.__name__: way(folder) for way in (ready_made, by_class, by_subclass)}


if __name__ == "__main__":
    results = main()
    assert all(result[0] > 0.8 for result in results.values())  # guessing gives 0.2; the last digits vary by machine
    assert results["ready_made"][1]
    assert results["by_class"][1:] == (STEPS, [0.01, 0.0])
    assert results["by_subclass"][1] == STEPS // 10
