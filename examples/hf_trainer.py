"""Three ways to use dashpot with the Trainer of Hugging Face transformers.

A GPT-2 with one small layer, created from a configuration without download, learns sequences in which each token is the
sum of the previous two, modulo 5. All tokens except the first two are predictable.

1. `optimizers=(opt, scheduler)` passes instances. A second Trainer resumes from a checkpoint written halfway and ends
   with bit-identical weights.
2. With `optimizer_cls_and_kwargs=(dp.AutoSGM, {...})`, the Trainer creates the parameter groups, where biases and norms
   have no weight decay.
3. A subclass overrides `create_optimizer` and, because Sophia needs the loss, `training_step`.
Requires `pip install 'dashpot[loops]'`. Run: python examples/hf_trainer.py
"""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no network access

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import dashpot as dp

MODULUS, LENGTH, EXAMPLES, BATCH, EPOCHS = 5, 12, 768, 24, 5
STEPS = EPOCHS * EXAMPLES // BATCH
SCHEDULE = dp.schedules.OneCycle(STEPS)


def sequences():
    """Return EXAMPLES rows whose first two tokens are random and determine the rest."""
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
    """Return the fraction of correct predictions, excluding the first two tokens."""
    rows = torch.stack([item["input_ids"] for item in sequences()[:128]])
    with torch.no_grad():
        predicted = model.eval()(input_ids=rows).logits[:, 1:-1].argmax(-1)
    return (predicted == rows[:, 2:]).float().mean().item()


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


def by_instance(folder):
    """1. Pass instances; the Trainer steps the scheduler once per optimizer step."""

    def trainer(**options):
        model = network()
        # In the eager engine, rounding is the same on machines with and without a C++ compiler.
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
    """2. Pass a class, and use two micro-batches per step.

    The optimizer has its own schedule, so the Trainer's scheduler must be "constant": its default
    multiplies the learning rate by a linear decay.
    """
    options = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    trainer = Trainer(
        network(),
        arguments(folder, lr_scheduler_type="constant", weight_decay=0.01, **options),
        train_dataset=sequences(),
        optimizer_cls_and_kwargs=(dp.AutoSGM, {"lr": 1e-2, "schedule": SCHEDULE}),
    )
    train(trainer)
    opt = trainer.optimizer.optimizer  # unwrap Accelerate's optimizer
    decays = [group["weight_decay"] for group in opt.param_groups]
    result = accuracy(trainer.model)
    print(f"AutoSGM: accuracy {result:.3f} after {opt.steps_done()} steps, weight_decay of the groups {decays}")
    return result, opt.steps_done(), decays


class SophiaTrainer(Trainer):
    """3. Subclass that creates the optimizer and computes a Hessian-vector product every tenth step."""

    def create_optimizer(self, *args, **kwargs):
        if self.optimizer is None:
            self.optimizer = dp.Sophia(self.model.parameters(), lr=1e-2, gamma=3.0, weight_decay=0.0, schedule=SCHEDULE)
        return self.optimizer

    def training_step(self, model, inputs, num_items_in_batch=None):
        opt = self.optimizer.optimizer
        if self.accelerator.sync_gradients and opt.should_create_graph():  # last micro-batch of a step

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
        return {variant.__name__: variant(folder) for variant in (by_instance, by_class, by_subclass)}


if __name__ == "__main__":
    results = main()
    assert all(result[0] > 0.8 for result in results.values())  # chance is 0.2; the last digits depend on the machine
    assert results["by_instance"][1]
    assert results["by_class"][1:] == (STEPS, [0.01, 0.0])
    assert results["by_subclass"][1] == STEPS // 10
