"""dashpot inside the loops of Lightning, Fabric, Accelerate and transformers: each against a loop of plain PyTorch.

Equal means bit for bit unless a tolerance is given: the frameworks do the same sums in the same order, so the first
wrong call (a scheduler moved at a micro-batch, a gradient clipped twice, a state not restored) shows.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from loop_frameworks import LIGHTNING_WARNINGS, forget_accelerate, needs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.errors import CurvatureError
from dashpot.schedules import Cosine, LinearWarmup, OneCycle, OneCycleMomentum, Scheduler

MICRO, SIZE, EPOCHS = 7, 8, 3
"""Seven micro-batches an epoch: with two for a step, the fourth step has one only, in every framework."""


@pytest.fixture(autouse=True)
def swept(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    forget_accelerate()


# ---- the loop to compare with ---------------------------------------------------------------------------------------


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def micro_batches():
    drawn = torch.Generator().manual_seed(2)
    x, y = torch.randn(MICRO * SIZE, 5, generator=drawn), torch.randint(3, (MICRO * SIZE,), generator=drawn)
    return DataLoader(TensorDataset(x, y), batch_size=SIZE)


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def adamw(params):
    """The schedules are for the steps with two micro-batches: 4 an epoch."""
    opt = dp.AdamW(params, lr=0.05, weight_decay=0.1)
    return opt, Scheduler(opt, lr=OneCycle(4 * EPOCHS), momentum=OneCycleMomentum(4 * EPOCHS))


def autosgm(params):
    """The schedule in the optimizer, which nobody has to move."""
    return dp.AutoSGM(params, lr=0.05, numerator=1, schedule=Cosine(4 * EPOCHS), max_norm=0.5), None


METHODS = {"adamw": adamw, "autosgm": autosgm}
methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
parts = pytest.mark.parametrize("accumulate", [1, 2])


def plain(make, accumulate=1, clip=None, epochs=EPOCHS):
    """The weights of a plain loop, which steps after `accumulate` micro-batches and at the end of an epoch."""
    model = network()
    opt, scheduler = make(model.parameters())
    for _ in range(epochs):
        for k, batch in enumerate(micro_batches()):
            (loss_of(model, batch) / accumulate).backward()
            if (k + 1) % accumulate == 0 or k + 1 == MICRO:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                opt.step()
                if scheduler is not None:
                    scheduler.step()
                opt.zero_grad()
    return weights(model)


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def test_the_plain_loop_tells_everything_apart():
    """The comparisons below can fail: accumulation, clipping, either schedule and an epoch all change the weights."""
    without = {name: lambda params, make=make: (make(params)[0], None) for name, make in METHODS.items()}
    ends = [plain(adamw), plain(adamw, 2), plain(adamw, 2, 0.1), plain(autosgm, 2), plain(without["adamw"], 2)]
    ends += [plain(adamw, 2, epochs=1), plain(lambda params: (dp.AutoSGM(params, lr=0.05, numerator=1), None), 2)]
    for i, a in enumerate(ends):
        assert all((a - b).abs().max() > 1e-3 for b in ends[:i])


# ---- Lightning ------------------------------------------------------------------------------------------------------

lightning = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def module(make, manual=None):
    """A LightningModule around the network; `manual` is its training step where it optimizes by itself."""
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
@lightning
class TestLightning:
    @methods
    @parts
    @pytest.mark.parametrize("clip", [None, 0.1])
    def test_automatic_optimization_is_the_plain_loop(self, make, accumulate, clip):
        model = module(make)
        fit(model, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
        assert torch.equal(weights(model), plain(make, accumulate, clip))

    @methods
    def test_a_resumed_run_is_the_uninterrupted_one(self, make, tmp_path):
        fit(module(make), epochs=1, accumulate_grad_batches=2).save_checkpoint(tmp_path / "one.ckpt")
        model = module(make)
        trainer = fit(model, accumulate_grad_batches=2, ckpt_path=tmp_path / "one.ckpt")
        assert trainer.global_step == 4 * EPOCHS
        assert torch.equal(weights(model), plain(make, 2))

    def test_its_default_interval_moves_the_schedule_once_an_epoch(self):
        held = []

        def make(params):
            opt, scheduler = adamw(params)
            held.append(scheduler)
            return opt, scheduler

        model = module(make)
        model.configure_optimizers = lambda: [[item] for item in make(model.parameters())]
        fit(model)
        assert held[0].last_epoch == EPOCHS

    def test_second_order_by_its_own_closure(self):
        make = sophia()
        model = module(make)
        fit(model)
        assert torch.equal(weights(model), plain_closures(make))
        assert make.made[0].curvature_stats[:3] == ("closure", "a closure was passed", 3)

    def test_second_order_by_a_closure_of_all_micro_batches(self):
        """Manual optimization; each batch in two halves within the closure."""

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
        # Two halves add up to the batch but for rounding, which the average and the division carry on for 21 steps.
        torch.testing.assert_close(weights(model), plain_closures(make), rtol=0, atol=2e-6)

    def test_its_own_closure_holds_the_last_micro_batch_only(self):
        """What docs/other-loops.md warns of: a product of half the loss of one micro-batch, with accumulation."""
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

    def test_differences_run_the_training_step_again(self):
        calls = []

        def make(params):
            return dp.Sophia(params, lr=0.05, probe="differences"), None

        model = module(make)
        model.training_step = lambda batch, batch_idx: (calls.append(batch_idx), loss_of(model.net, batch))[1]
        fit(model, epochs=1)
        assert calls == [0, 0, 0, *range(1, MICRO)]

    def test_a_step_past_its_wrapper_is_not_counted(self):
        """What docs/other-loops.md warns of: it trains, and a Trainer with max_steps would not end."""

        def manual(self, batch):
            opt = self.optimizers().optimizer
            opt.zero_grad()
            opt.backward(loss_of(self.net, batch))
            opt.step()

        make = sophia()
        model = module(make, manual)
        assert fit(model).global_step == 0
        assert torch.equal(weights(model), plain_closures(make))

    def test_loss_scaling_clips_by_max_norm_only(self):
        """GradScaler leaves unscaling to our step, as to torch's fused optimizers; Lightning then refuses to clip."""

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


def sophia():
    """A maker that remembers what it made: a product at steps 0, 10, 20."""

    def make(params):
        made.append(dp.Sophia(params, lr=0.05))
        return made[-1], None

    make.made = made = []
    return make


def plain_closures(make):
    model = network()
    opt, _ = make(model.parameters())
    for _ in range(EPOCHS):
        for batch in micro_batches():

            def closure(batch=batch):
                opt.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                return loss

            opt.step(closure)
    return weights(model)


# ---- Fabric ---------------------------------------------------------------------------------------------------------


@needs("lightning_fabric")
@lightning
class TestFabric:
    def set_up(self, make):
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
    def test_it_is_the_plain_loop(self, make):
        run = self.set_up(make)
        self.train(*run)
        assert torch.equal(weights(run[1]), plain(make, 2, 0.1))

    @methods
    def test_a_resumed_run_is_the_uninterrupted_one(self, make, tmp_path):
        fabric, model, opt, scheduler = self.set_up(make)
        self.train(fabric, model, opt, scheduler, epochs=1)
        saved = {"model": model, "opt": opt} | ({} if scheduler is None else {"scheduler": scheduler})
        fabric.save(tmp_path / "one.ckpt", saved)
        fabric, model, opt, scheduler = self.set_up(make)
        fresh = {"model": model, "opt": opt} | ({} if scheduler is None else {"scheduler": scheduler})
        fabric.load(tmp_path / "one.ckpt", fresh, weights_only=True)
        self.train(fabric, model, opt, scheduler, epochs=EPOCHS - 1)
        assert torch.equal(weights(model), plain(make, 2, 0.1))

    @pytest.mark.parametrize("route", ["wrapper", "apart"])
    def test_second_order_through_the_wrapper(self, route):
        make = sophia()
        fabric, model, opt, _ = self.set_up(make)
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

    def test_loss_scaling_clips_by_max_norm_only(self):
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


# ---- Accelerate -----------------------------------------------------------------------------------------------------


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
    @methods
    @parts
    def test_it_is_the_plain_loop(self, make, accumulate):
        run = prepared(make, gradient_accumulation_steps=accumulate)
        accelerated(*run)
        assert torch.equal(weights(run[1]), plain(make, accumulate, 0.1))

    @methods
    def test_a_resumed_run_is_the_uninterrupted_one(self, make, tmp_path):
        run = prepared(make, gradient_accumulation_steps=2)
        accelerated(*run, epochs=1)
        run[0].save_state(tmp_path)
        forget_accelerate()
        run = prepared(make, gradient_accumulation_steps=2)
        run[0].load_state(tmp_path)
        accelerated(*run, epochs=EPOCHS - 1)
        assert torch.equal(weights(run[1]), plain(make, 2, 0.1))

    def test_prepare_loads_the_state_back_as_it_was(self):
        """`prepare` saves the state and loads it: counts, dtypes and groups must come out as they went in."""
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

    @pytest.mark.parametrize(("options", "moves"), [({}, 3), ({"step_scheduler_with_optimizer": False}, 1)])
    def test_in_several_processes_it_calls_the_scheduler_once_for_each(self, options, moves, monkeypatch):
        """Unless it is told otherwise; a schedule in the optimizer follows its steps."""
        held = []

        def make(params):
            opt = dp.AdamW(params, lr=0.05, schedule=Cosine(100))
            held.extend((opt, Scheduler(opt, weight_decay=Cosine(100))))
            return held

        run = prepared(make, **options)
        monkeypatch.setattr("accelerate.scheduler.AcceleratorState", lambda: SimpleNamespace(num_processes=3))
        accelerated(*run, epochs=1)
        assert held[1].last_epoch == moves * MICRO
        assert held[0].current_lr() == pytest.approx(Cosine(100).value(0.05, MICRO), rel=1e-15)

    def test_a_step_that_loss_scaling_skips_still_moves_a_prepared_scheduler(self):
        """Skipping happens within our step, as in torch's fused ones, and the wrapper does not hear of it."""
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

    @pytest.mark.parametrize("route", ["closure", "graph", "apart"])
    @pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
    def test_second_order_with_accumulation(self, route):
        """All three against one batch of both micro-batches: equal but for the rounding of halves, over four steps."""
        accelerator, model, opt, batches = prepared(sophia(), gradient_accumulation_steps=2)
        ours = opt.optimizer
        assert not hasattr(opt, "backward")  # the wrapper has torch's methods only
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


# ---- transformers ---------------------------------------------------------------------------------------------------


def gpt(**options):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 5}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, **options))


def rows():
    drawn = torch.randint(5, (24, 8), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": row, "labels": row} for row in drawn]


def trainer(folder, model, accumulate=2, **options):
    """Two epochs of 24 rows, four in a micro-batch; with two of these for a step, STEPS steps."""
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
    @parts
    def test_adamw_by_class_is_torchs_in_the_same_trainer(self, accumulate, tmp_path):
        """The Trainer's groups, linear schedule and clipping. 1e-6: float32 rounds in another order, for weights of
        size 1 and twelve steps. eps is large as biases of attention keys have gradients of nothing but rounding errors
        (softmax does not see them), which Adam's ratio would blow up."""
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

    @methods
    def test_a_resumed_run_is_the_uninterrupted_one(self, make, tmp_path):
        """With dropout: the Trainer restores the random state as well."""

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

    def test_our_scheduler_moves_once_a_step_and_reaches_the_log(self, tmp_path):
        model = gpt()
        opt = dp.AdamW(model.parameters(), lr=0.01)
        scheduler = Scheduler(opt, lr=Cosine(STEPS))
        run = trainer(tmp_path, model, optimizers=(opt, scheduler), logging_strategy="steps", logging_steps=1)
        run.train()
        assert scheduler.last_epoch == STEPS
        logged = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
        assert logged == pytest.approx([Cosine(STEPS).value(0.01, k) for k in range(STEPS)], rel=1e-12)

    def test_its_own_schedule_comes_on_top_of_ours(self, tmp_path):
        """What docs/other-loops.md warns of: without a scheduler the Trainer adds a straight line to zero."""
        rates = {}
        for name in ("linear", "constant"):
            model = gpt()
            opt = dp.AdamW(model.parameters(), lr=0.01, schedule=Cosine(100))
            trainer(tmp_path, model, optimizers=(opt, None), lr_scheduler_type=name).train()
            rates[name] = opt.current_lr()
        assert rates["linear"] == 0
        assert rates["constant"] == pytest.approx(Cosine(100).value(0.01, STEPS), rel=1e-12)

    def test_second_order_needs_eager_attention_for_a_loss(self):
        """torch's fused attention, which it takes here without dropout, cannot be differentiated twice: a closure goes
        over to differences by itself, and `opt.backward(loss)` works with `attn_implementation="eager"`."""
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
