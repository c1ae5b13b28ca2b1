from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dashpot.data import Images, cifar10
from dashpot.data.hold_out import drawn_rows
from dashpot.errors import ArgumentError, DataError
from dashpot.tasks import evaluate, get
from dashpot.tasks.cifar10 import TIERS, Normalization, statistics
from dashpot.tasks.resnet import ResNetSize

TRAIN, TEST = 700, 40


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (TRAIN + TEST, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, TRAIN + TEST, dtype=np.uint8)
    return Images(pixels[:TRAIN], labels[:TRAIN], pixels[TRAIN:], labels[TRAIN:])


@pytest.fixture(autouse=True)
def data(images, monkeypatch):
    def load(data_dir, *, checksum):
        return images, {"data_batch_1.bin": "PUBLISHED" if checksum else "ACTUAL"}

    monkeypatch.setattr(cifar10, "load_with_checksums", load)


def test_statistics_equal_those_of_pixels(images):
    pixels = images.train_images.astype(np.float64)
    mean, std = statistics(images.train_images)
    assert mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-12)  # float64
    assert std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-10)  # float64, a difference of squares


def test_normalization_gives_unit_statistics_per_channel(images):
    layer = Normalization(*statistics(images.train_images))
    pixels = layer(torch.tensor(images.train_images))
    assert pixels.dtype == torch.float32
    assert pixels.mean((0, 2, 3)).abs().max() < 1e-4  # float32
    assert (pixels.std((0, 2, 3)) - 1).abs().max() < 1e-4  # float32
    assert not list(layer.parameters())


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_task_trains_and_evaluates_from_initial_loss_near_chance(network):
    problem = get("cifar10", network=network, tier="smoke").build(0)
    assert abs(evaluate(problem)["loss"] - math.log(10)) < 0.5
    x, y = next(problem.train.epoch(0))
    optimizer = torch.optim.AdamW(problem.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = problem.loss(problem.model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], "a batch is memorized"


def test_task_divides_published_training_images(images):
    task = get("cifar10", tier="cpu", validation_size=100, shuffle=False)
    problem = task.build(0)
    held = drawn_rows("cifar10", TRAIN, 100)
    kept = [row for row in range(TRAIN) if row not in set(held.tolist())]
    assert problem.evaluation.y.tolist() == images.train_labels[held].tolist()
    assert problem.train.y.tolist() == images.train_labels[kept].tolist()
    assert problem.test is not None
    assert problem.test.y.tolist() == images.eval_labels.tolist()
    assert torch.equal(problem.test.x, torch.tensor(images.eval_images)), "evaluation uses the original images"
    assert task.config["mean"] == list(statistics(images.train_images[kept])[0])
    assert (task.config["validation_size"], task.config["train_size"]) == (100, 600)


def test_task_without_validation_images_evaluates_test_images(images):
    problem = get("cifar10", tier="gpu", network="vit", validation_size=0).build(0)
    assert problem.test is None
    assert problem.evaluation.y.tolist() == images.eval_labels.tolist()
    assert len(problem.train.y) == TRAIN
    assert problem.train.batch_size == 100


def test_smoke_tier_uses_the_first_training_images(images):
    tier = TIERS["resnet"]["smoke"]
    task = get("cifar10", tier="smoke", validation_size=50)
    held = set(drawn_rows("cifar10", TRAIN, 50).tolist())
    kept = [row for row in range(TRAIN) if row not in held][: tier.train]
    assert task.build(0).train.y.tolist() == images.train_labels[kept].tolist()
    assert (task.epochs, task.config["tier"], task.config["batch_size"]) == (tier.epochs, "smoke", tier.batch_size)


def test_training_images_are_flipped_and_shifted_within_black_pixels(images):
    problem = get("cifar10", tier="smoke").build(0)
    padded = nn.functional.pad(problem.train.x, (4,) * 4)
    x, y = next(problem.train.epoch(0))
    assert (x.dtype, x.shape) == (torch.uint8, (64, 3, 32, 32))
    flips, shifts = 0, set()
    order = {label: [row for row, each in enumerate(problem.train.y.tolist()) if each == label] for label in range(10)}
    for image, label in zip(x[:8], y[:8].tolist(), strict=True):
        matches = [
            (mirrored, top, left)
            for row in order[label]
            for mirrored in (False, True)
            for top in range(9)
            for left in range(9)
            if torch.equal(
                (padded[row].flip(-1) if mirrored else padded[row])[:, top : top + 32, left : left + 32], image
            )
        ]
        assert len(matches) == 1
        flips += matches[0][0]
        shifts.add(matches[0][1:])
    assert 0 < flips < 8
    assert len(shifts) > 4


def test_batches_and_weights_depend_only_on_seed_and_epoch():
    task = get("cifar10", tier="smoke")
    before = torch.get_rng_state()
    one, two, other = (task.build(seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert one.train.x.data_ptr() == other.train.x.data_ptr(), "problems share the images"
    first = [next(problem.train.epoch(2))[0] for problem in (one, two, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    states = [problem.model.state_dict() for problem in (one, two, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["1.stem.0.weight"], states[2]["1.stem.0.weight"])


def test_config_records_checksums_of_the_files_in_use():
    assert get("cifar10", tier="smoke").config["data_sha256"] == {"data_batch_1.bin": "PUBLISHED"}
    assert get("cifar10", tier="smoke", checksum=False).config["data_sha256"] == {"data_batch_1.bin": "ACTUAL"}


def test_gpu_tiers_are_the_published_settings():
    """391 x 200 steps of 128 images for ResNet-18, and 500 x 150 of 100 images for the vision transformer."""
    resnet, vit = TIERS["resnet"]["gpu"], TIERS["vit"]["gpu"]
    assert (math.ceil(50_000 / resnet.batch_size), resnet.epochs) == (391, 200)
    assert (math.ceil(50_000 / vit.batch_size), vit.epochs) == (500, 150)
    assert resnet.size == ResNetSize((64, 128, 256, 512), blocks=2)
    assert {tier.train for tier in (resnet, vit)} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "mlp"}, r"^cifar10: network must be one of 'resnet', 'vit', got 'mlp'\.$"),
        ({"tier": "tpu"}, r"^cifar10: tier must be one of 'smoke', 'cpu', 'gpu', got 'tpu'\.$"),
        ({"checksum": 0}, r"^cifar10: checksum must be one of False, True, got 0\.$"),
        ({"batch_size": 0}, r"^cifar10: batch_size must be an integer in \[1, inf\), got 0\.$"),
        ({"validation_size": TRAIN}, r"^cifar10: validation_size must be an integer in \[0, 700\), got 700\.$"),
        ({"device": "cudda"}, "^cifar10: device must be available to torch, got 'cudda' "),
        ({"size": 4}, "^Unknown option of the task cifar10 'size'"),
    ],
)
def test_task_with_invalid_option_raises(options, message):
    with pytest.raises(ArgumentError, match=message):
        get("cifar10", **options)


def test_task_passes_data_dir_to_loading(tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        get("cifar10", data_dir=tmp_path / "missing")
