"""dashpot's optimizers in the Hugging Face Trainer."""

from __future__ import annotations

import pytest
import torch
from loop_frameworks import needs
from other_loops_support import adamw, autosgm, weights

import dashpot as dp
from dashpot.errors import CurvatureError
from dashpot.schedules import Cosine, Scheduler

pytestmark = pytest.mark.usefixtures("clean_frameworks")


def gpt(**options):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 5}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, **options))


def rows():
    drawn = torch.randint(5, (24, 8), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": row, "labels": row} for row in drawn]


def trainer(folder, model, accumulate=2, **options):
    """Return a Trainer for two epochs of 24 rows, in micro-batches of four; two per step give STEPS steps."""
    import transformers

    named = {name: options.pop(name) for name in ("optimizers", "optimizer_cls_and_kwargs") if name in options}
    settings = {"report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=2,
        use_cpu=True,
        **{**settings, **options},
    )
    result = transformers.Trainer(model, arguments, train_dataset=rows(), **named)
    result.remove_callback(transformers.PrinterCallback)
    return result


STEPS = 6


@needs("transformers", "accelerate")
class TestTransformers:
    @pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
    def test_adamw_class_equals_torch_adamw(self, accumulate, tmp_path):
        """The test uses the Trainer's parameter groups, linear schedule and clipping.

        The tolerance of 1e-6 allows for float32 sums in a different order, over twelve steps with weights of size 1.
        eps is large because the gradients of attention key biases are pure rounding errors (softmax is invariant to
        these biases), which Adam would amplify.
        """
        settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-4}
        ends = []
        for cls in (dp.AdamW, torch.optim.AdamW):
            model = gpt()
            run = trainer(tmp_path, model, accumulate, weight_decay=0.1, optimizer_cls_and_kwargs=(cls, settings))
            run.train()
            assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.1, 0.0]
            assert run.lr_scheduler.get_last_lr() == [0.0, 0.0]
            ends.append(weights(model))
        torch.testing.assert_close(*ends, rtol=0, atol=1e-6)
        assert (ends[0] - weights(gpt())).abs().max() > 1e-2

    @pytest.mark.parametrize("make", [pytest.param(adamw, marks=pytest.mark.slow), autosgm])
    def test_resumed_run_equals_uninterrupted_run(self, make, tmp_path):
        """The model has dropout, so the Trainer must also restore the RNG state."""

        def run(**options):
            model = gpt()
            pair = make(model.parameters())
            return trainer(tmp_path, model, optimizers=pair, lr_scheduler_type="constant", **options)

        whole = run(save_strategy="steps", save_steps=STEPS // 2)
        whole.train()
        resumed = run()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert whole.optimizer.optimizer.steps_done() == resumed.optimizer.optimizer.steps_done() == STEPS
        assert torch.equal(weights(whole.model), weights(resumed.model))

    def test_scheduler_steps_once_per_step_and_is_logged(self, tmp_path):
        model = gpt()
        opt = dp.AdamW(model.parameters(), lr=0.01)
        scheduler = Scheduler(opt, lr=Cosine(STEPS))
        run = trainer(tmp_path, model, optimizers=(opt, scheduler), logging_strategy="steps", logging_steps=1)
        run.train()
        assert scheduler.last_epoch == STEPS
        logged = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
        assert logged == pytest.approx([Cosine(STEPS).value(0.01, k) for k in range(STEPS)], rel=1e-12)

    def test_default_schedule_multiplies_optimizer_schedule(self, tmp_path):
        """Without a scheduler, the Trainer adds a linear decay to zero, as docs/other-loops.md describes."""
        rates = {}
        for name in ("linear", "constant"):
            model = gpt()
            opt = dp.AdamW(model.parameters(), lr=0.01, schedule=Cosine(100))
            trainer(tmp_path, model, optimizers=(opt, None), lr_scheduler_type=name).train()
            rates[name] = opt.current_lr()
        assert rates["linear"] == 0
        assert rates["constant"] == pytest.approx(Cosine(100).value(0.01, STEPS), rel=1e-12)

    def test_second_order_backward_requires_eager_attention(self):
        """torch's fused attention, which is used without dropout, does not support double backward.

        A closure falls back to finite differences; `opt.backward(loss)` requires `attn_implementation="eager"`.
        """
        batch = {name: value[None] for name, value in rows()[0].items()}
        fused = {"attn_pdrop": 0.0, "attn_implementation": "sdpa"}
        model = gpt(**fused)
        opt = dp.Sophia(model.parameters(), lr=0.01)
        with pytest.raises(CurvatureError, match="no double backward"):
            opt.backward(model(**batch).loss)
        opt.curvature_step(lambda: model(**batch).loss)
        assert opt.curvature_stats.route == "differences"
        model = gpt(**{**fused, "attn_implementation": "eager"})
        opt = dp.Sophia(model.parameters(), lr=0.01)
        opt.backward(model(**batch).loss)
        opt.step()
        assert opt.curvature_stats[:3] == ("closure", "a loss was passed", 1)
