"""Advice for a different batch size, on synthetic records."""

import json
import math

import pytest
import torch

import dashpot as dp
from dashpot.analysis import scale_batch
from dashpot.errors import ArgumentError
from dashpot.schedules import Constant, Cosine, ExponentialWarmup, Linear, LinearWarmup, OneCycleMomentum, Sequence
from dashpot.watching.advice import advise
from dashpot.watching.series import WatchRecord


def record(*rows):
    made = WatchRecord({})
    for index, row in enumerate(rows):
        base = {"step": 100 * index, "batch": 64.0, "scale": 192.0, "low": 160.0, "high": 240.0, "reason": None}
        made.add("noise", {**base, **row})
    return made


def weight():
    return torch.nn.Parameter(torch.zeros(2))


class TestSettings:
    def test_sgd_rate_follows_optimum_of_noise_scale(self):
        advice = advise(record({}), dp.SGD([weight()], lr=0.1), 256)
        # lr_max/(1 + 192/256) over lr_max/(1 + 192/64)
        assert advice.settings == {"lr": pytest.approx(0.1 * 4 / 1.75)}
        assert advice.progress == pytest.approx(4 / 1.75)
        assert advice.examples == pytest.approx(4 / (4 / 1.75))
        assert advice.steps == pytest.approx(1.75 / 4)

    def test_momentum_covers_the_same_progress(self):
        advice = advise(record({}), dp.SGD([weight()], lr=0.1, momentum=0.9), 256)
        assert advice.settings["momentum"] == pytest.approx(1 - 0.1 * 4 / 1.75)
        # lr/(1 - momentum) is proportional to the progress
        assert advice.settings["lr"] == pytest.approx(0.1 * (4 / 1.75) ** 2)

    def test_momentum_of_steps_is_held(self):
        advice = advise(record({}), dp.SGD([weight()], lr=0.1, momentum=0.9), 256, momentum="steps")
        assert advice.settings == {"lr": pytest.approx(0.1 * 4 / 1.75)}

    def test_adamw_rate_follows_root_of_progress_and_averages_cover_it(self):
        advice = advise(record({}), dp.AdamW([weight()], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1), 256)
        advance = 4 / 1.75
        assert advice.settings == {
            "lr": pytest.approx(1e-3 * math.sqrt(advance)),
            "betas": (pytest.approx(1 - 0.1 * advance), pytest.approx(1 - 0.01 * advance)),
            "eps": pytest.approx(1e-8 / math.sqrt(advance)),
            "weight_decay": pytest.approx(0.1 * math.sqrt(advance)),
        }

    @pytest.mark.parametrize("scale", [1e-3, 1e9])
    def test_limits_are_unchanged_settings_and_plain_rule(self, scale):
        row = {"scale": scale, "low": scale, "high": scale}
        lr = advise(record(row), dp.SGD([weight()], lr=0.1), 256).settings["lr"]
        assert lr == pytest.approx(
            0.1 if scale < 1 else 0.4, rel=1e-4
        )  # progress differs from its limit by 3 scale/256

    def test_smaller_batch_is_inverse_of_larger(self):
        up = advise(record({}), dp.AdamW([weight()], lr=1e-3), 256)
        down = advise(record({}), dp.AdamW([weight()], lr=up.settings["lr"]), 64, old=256)
        assert down.settings["lr"] == pytest.approx(1e-3)

    def test_preconditioned_scale_is_used_by_methods_with_denominator_only(self):
        rows = record({"preconditioned": {"scale": 500.0, "low": 450.0, "high": 550.0, "reason": None}})
        assert advise(rows, dp.AdamW([weight()]), 256).noise.scale == 500
        assert advise(rows, dp.SGD([weight()], lr=0.1), 256).noise.scale == 192

    def test_recipe_with_schedule_divides_its_steps_by_batch_ratio(self):
        recipe = dp.AdamW.recipe_for(lr=1e-3).with_settings(schedule=dp.schedules.Cosine(400))
        assert advise(record({}), recipe, 256).schedule == {"lr": dp.schedules.Cosine(100)}

    def test_newest_row_with_estimate_is_used(self):
        rows = record({"scale": 1.0}, {"scale": 300.0}, {"scale": None, "low": None, "high": None, "reason": "No."})
        assert advise(rows, dp.SGD([weight()], lr=0.1), 256).noise.scale == 300

    def test_unbounded_estimate_uses_lower_bound(self):
        advice = advise(record({"scale": None, "low": 1e4, "high": None}), dp.SGD([weight()], lr=0.1), 256)
        assert advice.settings["lr"] == pytest.approx(0.4, rel=0.02)  # 3/157 below the plain rule
        assert "noise scale of at least 10 000" in advice.summary()

    def test_interval_of_rate_contains_advice(self):
        advice = advise(record({}), dp.AdamW([weight()], lr=1e-3), 256)
        low, high = advice.lr_interval
        assert low < advice.settings["lr"] < high
        assert high == pytest.approx(1e-3 * math.sqrt((1 + 240 / 64) / (1 + 240 / 256)))
        first, last = advice.examples_interval
        assert first < advice.examples < last


class TestApply:
    @pytest.mark.parametrize("cls", [dp.AdamW, torch.optim.AdamW])
    def test_apply_writes_groups(self, cls):
        optimizer = cls([weight()], lr=1e-3)
        advice = advise(record({}), optimizer, 256)
        assert advice.apply() is optimizer
        assert optimizer.param_groups[0]["lr"] == advice.settings["lr"]
        assert tuple(optimizer.param_groups[0]["betas"]) == advice.settings["betas"]

    def test_scheduler_of_torch_gives_settings_of_initial_rate_but_apply_raises(self):
        optimizer = torch.optim.SGD([weight()], lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        optimizer.step()
        scheduler.step()
        advice = advise(record({}), optimizer, 256)
        assert advice.settings["lr"] == pytest.approx(0.1 * 4 / 1.75)
        with pytest.raises(ArgumentError, match="scheduler"):
            advice.apply()

    def test_watcher_advises_from_its_record(self):
        optimizer = dp.SGD([weight()], lr=0.1)
        with dp.watch(optimizer) as watcher:
            watcher.record.add("noise", record({}).rows("noise").last)
            assert watcher.advise(batch=128).settings == scale_batch(optimizer, 64, 128, noise_scale=192).settings


class TestInvalid:
    @pytest.mark.parametrize(
        ("rows", "make", "batch", "reason"),
        [
            ([], dp.SGD, 256, "has not been measured"),
            ([{"scale": None, "low": None, "high": None, "reason": "Negative."}], dp.SGD, 256, "Negative."),
            ([{"scale": math.nan, "low": None, "reason": "Not finite."}], dp.SGD, 256, "Not finite."),
            ([{"batch": None}], dp.SGD, 256, "present batch size is unknown"),
            ([{"low": 1.0, "high": 1e9}], dp.SGD, 1024, "uncertain"),
            ([{}], dp.SGD, 64 * 65, "exceeds 64"),
            ([{}], dp.ESGD, 256, "no rule covers the stage Curvature"),
            ([{}], torch.optim.LBFGS, 256, "update rule of torch.optim.lbfgs.LBFGS is unknown"),
        ],
    )
    def test_missing_facts_give_reason_and_no_settings(self, rows, make, batch, reason):
        advice = advise(record(*rows), make([weight()], lr=0.1), batch)
        assert reason in advice.reason
        assert advice.settings == {}
        assert advice.summary().startswith(f"No advice for a batch of {batch}: ")
        assert advice.to_dict()["reason"] == advice.reason
        with pytest.raises(ArgumentError, match="no settings to apply"):
            advice.apply()

    @pytest.mark.parametrize(
        ("batch", "options", "message"),
        [
            (0, {}, "batch must be"),
            (1.5, {}, "batch must be"),
            (64, {}, "must differ from the present batch size, got 64"),
            (256, {"old": -1}, "old must be"),
            (256, {"momentum": "none"}, "momentum must be"),
        ],
    )
    def test_invalid_argument_raises(self, batch, options, message):
        with pytest.raises(ArgumentError, match=message):
            advise(record({}), dp.SGD([weight()], lr=0.1), batch, **options)

    def test_object_without_settings_raises(self):
        with pytest.raises(ArgumentError, match="recipe_or_optimizer must be"):
            advise(record({}), "adamw", 256)


class TestFigure:
    def test_plot_shows_cost_at_new_batch(self):
        advice = advise(record({}), dp.SGD([weight()], lr=0.1), 256)
        axes = advice.plot().axes[0]
        steps = next(line for line in axes.lines if line.get_label() == "steps")
        # 65 logarithmic points resolve the batch to 5 %
        index = min(range(65), key=lambda i: abs(steps.get_xdata()[i] - 256))
        assert steps.get_ydata()[index] == pytest.approx(advice.steps, rel=0.05)

    def test_plot_without_noise_scale_states_reason(self):
        axes = advise(record(), dp.SGD([weight()], lr=0.1), 256).plot().axes[0]
        assert "unknown" in axes.texts[0].get_text()


class TestSchedule:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (
                Sequence((LinearWarmup(32), Cosine(288)), (32,)),
                Sequence((LinearWarmup(32), Cosine(48)), (32,)),
            ),
            (  # at most half of the steps
                Sequence((LinearWarmup(100), Cosine(100)), (100,)),
                Sequence((LinearWarmup(25), Cosine(25)), (25,)),
            ),
            (
                Sequence((LinearWarmup(32), Constant()), (32,)),
                Sequence((LinearWarmup(32), Constant()), (32,)),
            ),
            (
                Sequence((LinearWarmup(20), Constant(), Linear(1.0, 0.0, steps=80)), (20, 320)),
                Sequence((LinearWarmup(20), Constant(), Linear(1.0, 0.0, steps=17)), (20, 83)),
            ),
            (LinearWarmup(32) * Cosine(320), LinearWarmup(32) * Cosine(80)),
            (ExponentialWarmup(0.9) * Cosine(320), ExponentialWarmup(0.9) * Cosine(80)),
            (LinearWarmup(32), LinearWarmup(32)),
            (Cosine(320), Cosine(80)),
        ],
        ids=["sequence", "long", "no end", "three parts", "product", "exponential", "only warm-up", "no warm-up"],
    )
    def test_larger_batch_keeps_steps_of_warmup(self, old, new):
        recipe = dp.AdamW.recipe_for(lr=1e-3).with_settings(schedule=old)
        assert advise(record({}), recipe, 256).schedule == {"lr": new}

    def test_absolute_schedule_keeps_factor_of_rate(self):
        old = LinearWarmup(32) * OneCycleMomentum(steps=320)
        recipe = dp.SGD.recipe_for(lr=1e-2).with_settings(schedule=old)
        new = advise(record({}), recipe, 256).schedule["lr"]
        assert new(40) == pytest.approx(old(160) * 4 / 1.75, rel=0.01)  # 1/79 and 1/319 of the run a step

    def test_schedule_too_short_for_ratio_gives_reason(self):
        old = Sequence((LinearWarmup(2), Constant(), Linear(1.0, 0.0, steps=2), Constant(0.0)), (2, 3, 4))
        recipe = dp.SGD.recipe_for(lr=1e-2).with_settings(schedule=old)
        assert "milestones must be distinct" in advise(record({}), recipe, 256).reason

    def test_smaller_batch_lengthens_warmup(self):
        recipe = dp.AdamW.recipe_for(lr=1e-3).with_settings(schedule=Sequence((LinearWarmup(8), Cosine(72)), (8,)))
        new = advise(record({}), recipe, 16).schedule["lr"]
        assert new == Sequence((LinearWarmup(26), Cosine(294)), (26,))  # progress of a step: 4/13


class TestHeader:
    @pytest.mark.parametrize("cls", [dp.AdamW, torch.optim.AdamW])
    def test_record_alone_gives_settings_of_its_header(self, cls):
        optimizer = cls([weight()], lr=1e-3, betas=(0.9, 0.99))
        with dp.watch(optimizer) as watcher:
            watcher.record.add("noise", record({}).rows("noise").last)
        stored = WatchRecord.of_dict(json.loads(json.dumps(watcher.record.to_dict())))
        advice = advise(stored, None, 256)
        assert advice.settings == watcher.advise(batch=256).settings
        with pytest.raises(ArgumentError, match="an optimizer is required"):
            advice.apply()

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ({}, "update rule of .None is unknown"),
            ({"optimizer": "AdamW", "module": "other.library", "groups": []}, "other.library.AdamW is unknown"),
            ({"optimizer": "AdamW", "module": "torch.optim.adamw", "groups": [{"lr": -1.0}]}, "lr must be"),
            ({"optimizer": "AdamW", "module": "torch.optim.adamw", "groups": []}, "settings in the record are invalid"),
        ],
    )
    def test_header_without_known_settings_gives_reason(self, header, reason):
        stored = record({})
        stored.header = header
        assert reason in advise(stored, None, 256).reason
