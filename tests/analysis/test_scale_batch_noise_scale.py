"""`scale_batch` with a noise scale: optimal rates and denominators of gradients with signal and noise."""

import math

import pytest

import dashpot as dp
from dashpot.analysis import scale_batch

OLD, NEW, NOISE = 64, 256, 192.0
PROGRESS = (1 + NOISE / OLD) / (1 + NOISE / NEW)


def scaled(recipe, **options):
    return scale_batch(recipe, OLD, NEW, noise_scale=NOISE, **options)


def test_plain_sgd_keeps_ratio_to_optimal_rate():
    result = scaled(dp.SGD.recipe_for(lr=0.1))
    optimum = [1 / (1 + NOISE / batch) for batch in (OLD, NEW)]
    assert result.settings["lr"] / 0.1 == pytest.approx(optimum[1] / optimum[0])
    assert result.progress == pytest.approx(PROGRESS)


def test_adam_keeps_ratio_of_rate_and_root_mean_square_to_progress():
    result = scaled(dp.Adam.recipe_for(lr=1e-3))
    root = [math.sqrt(1 + NOISE / batch) for batch in (OLD, NEW)]  # sqrt(E[g^2]) for |G| = 1
    before, after = 1e-3 / root[0], result.settings["lr"] / root[1]
    assert after / before == pytest.approx(PROGRESS)
    assert result.groups[0].shrink == pytest.approx(root[0] / root[1])


def test_averages_cover_the_same_progress():
    result = scaled(dp.AdamW.recipe_for(betas=(0.9, 0.99)))
    assert result.settings["pole"] == pytest.approx(1 - 0.1 * PROGRESS)
    assert result.settings["beta"] == pytest.approx(1 - 0.01 * PROGRESS)
    assert "the same progress" in next(change.reason for change in result.changes if change.name == "beta")


def test_decoupled_decay_keeps_ratio_to_mean_step():
    result = scaled(dp.AdamW.recipe_for(lr=1e-3, weight_decay=0.1))
    before, after = 1e-3 * 0.1, result.settings["lr"] * result.settings["weight_decay"]
    assert after / before == pytest.approx(PROGRESS)


def test_schedule_covers_the_same_examples():
    recipe = dp.SGD.recipe_for(lr=0.1).with_settings(schedule=dp.schedules.Cosine(400))
    assert scaled(recipe).schedule == {"lr": dp.schedules.Cosine(100)}


@pytest.mark.parametrize("method", [dp.SGD, dp.Adam, dp.Adagrad, dp.RMSprop])
def test_infinite_noise_scale_is_default(method):
    recipe = method.recipe_for(lr=0.01)
    assert scale_batch(recipe, 8, 32, noise_scale=math.inf).settings == scale_batch(recipe, 8, 32).settings


def test_batch_far_above_noise_scale_keeps_settings():
    result = scale_batch(dp.Adam.recipe_for(lr=1e-3), 64, 256, noise_scale=1e-6)
    assert result.settings["lr"] == pytest.approx(1e-3, rel=1e-6)  # progress - 1 is 1.2e-8
    assert result.settings["beta"] == pytest.approx(0.999, rel=1e-6)


def test_temperature_follows_rate_and_noise_of_new_batch():
    result = scaled(dp.SGD.recipe_for(lr=1e-3))
    # lr sigma^2/B for small rates; the curvature term (2 - lr h) changes it by 1e-6
    assert result.temperature_ratio(1e-3) == pytest.approx(PROGRESS / 4, rel=1e-5)


def test_quantities_and_figure_state_noise_scale():
    result = scaled(dp.SGD.recipe_for(lr=1e-3))
    found = {row.name: row.value for row in result.quantities()}
    assert (found["noise_scale"], found["progress"]) == (NOISE, pytest.approx(PROGRESS))
    line = result.plot().axes[0].lines[0]
    assert line.get_ydata()[-1] == pytest.approx(PROGRESS / 4)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "64", None])
def test_noise_scale_out_of_range_raises(value):
    with pytest.raises(dp.errors.ArgumentError, match="noise_scale must be a number in"):
        scale_batch(dp.SGD.recipe_for(lr=0.1), 64, 256, noise_scale=value)
