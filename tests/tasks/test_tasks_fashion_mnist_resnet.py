from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dashpot as dp
from dashpot.data import Batches, Images, fashion_mnist
from dashpot.errors import ArgumentError
from dashpot.stats.differences import mean_interval
from dashpot.tasks import Problem, Target, evaluate, get
from dashpot.tasks.fashion_mnist import statistics
from dashpot.tasks.fashion_mnist_resnet import network, smoothed_cross_entropy

EXAMPLES, EVALUATION = 96, 40


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    count = EXAMPLES + EVALUATION
    pixels, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)
    return Images(pixels[:EXAMPLES], labels[:EXAMPLES], pixels[EXAMPLES:], labels[EXAMPLES:])


@pytest.fixture
def task(images, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "load", lambda data_dir: images)
    return get("fashion-mnist-resnet", validation_size=0)


def test_network_matches_documented_architecture():
    model = network()
    assert sum(p.numel() for p in model.parameters()) == 464_874
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    sizes = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            layer.register_forward_hook(lambda module, args, output: sizes.append((output.shape[1], output.shape[2])))
    model(torch.zeros(2, 1, 28, 28))
    assert sizes == [(32, 28)] + [(64, 14)] * 3 + [(128, 7)] * 3


def test_network_output_depends_on_every_pixel():
    model = network().eval()
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model(image).square().sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.9  # a few pixels may have a zero gradient because of ReLU


def test_network_averages_mirror_images_in_evaluation_mode_only():
    torch.manual_seed(0)
    model, x = network(), torch.randn(4, 1, 28, 28)
    plain = nn.Sequential(*model)
    assert torch.equal(model(x), plain(x))  # both in training mode, with statistics of the same batch
    model.eval()
    expected = (plain(x) + plain(x.flip(-1))) / 2
    assert torch.equal(model(x), expected)
    assert torch.equal(model(x.flip(-1)), expected), "addition of two numbers is commutative"
    assert not torch.equal(plain(x), expected)


def test_residual_blocks_are_initialized_to_identity():
    """The input of a block is not negative, so that the ReLU after the sum does not change it."""
    blocks = [layer for layer in network() if hasattr(layer, "branch")]
    assert len(blocks) == 2
    for block, channels in zip(blocks, (64, 128), strict=True):
        x = torch.rand(2, channels, 5, 5)
        assert torch.equal(block(x), x)


def test_pool_concatenates_max_and_mean():
    pool = network()[-2]
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    expected = torch.cat([x.flatten(2).max(2).values, x.flatten(2).sum(2) / 30], 1)
    torch.testing.assert_close(pool(x), expected, rtol=1e-12, atol=1e-12)  # float64, 30 terms


def test_smoothed_cross_entropy_matches_definition():
    output, labels = torch.randn(5, 10, dtype=torch.float64), torch.tensor([3, 0, 9, 1, 3])
    smoothed = torch.full((5, 10), 0.01, dtype=torch.float64)
    smoothed[torch.arange(5), labels] += 0.9
    expected = -(smoothed * output.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(output, labels), expected, rtol=1e-12, atol=0)  # float64


def test_task_trains_on_smoothed_loss_and_evaluates_plain_cross_entropy(task):
    problem = task.build(0)
    with torch.no_grad():
        # The two losses differ if a label is predicted confidently for more than a tenth of the images.
        problem.model[-1].bias[problem.evaluation.y.bincount().argmax()] += 20
    assert problem.loss is smoothed_cross_entropy
    problem.model.eval()
    with torch.no_grad():
        output = problem.model(problem.evaluation.x)
    plain = nn.functional.cross_entropy(output, problem.evaluation.y).item()
    assert abs(plain - problem.loss(output, problem.evaluation.y).item()) > 0.01
    result = evaluate(problem)
    assert result["loss"] == pytest.approx(plain, rel=1e-5)  # float32
    assert result["accuracy"] == pytest.approx((output.argmax(1) == problem.evaluation.y).double().mean().item())


def test_evaluation_loss_defaults_to_training_loss():
    model, x = nn.Linear(1, 1), torch.ones(4, 1)
    batches = Batches(x, x, 2)
    first = Problem(model, batches, nn.functional.mse_loss, batches)
    second = Problem(model, batches, nn.functional.l1_loss, batches, evaluation_loss=nn.functional.mse_loss)
    assert evaluate(first) == evaluate(second)
    with pytest.raises(
        ArgumentError, match=r"^Problem: evaluation_loss must be a function of \(output, target\), got 3\.$"
    ):
        Problem(model, batches, nn.functional.mse_loss, evaluation_loss=3)  # pyright: ignore[reportArgumentType]


def test_task_flips_only_training_images_from_second_epoch(task, images):
    problem = task.build(0)
    mean, std = statistics(images.train_images)
    expected = (torch.tensor(images.eval_images).double() / 255 - mean) / std
    torch.testing.assert_close(problem.evaluation.x[:, 0].double(), expected, rtol=1e-5, atol=1e-6)  # float32
    plain, mirrored = 0, 0
    labels = []
    known = {image.numpy().tobytes(): index for index, image in enumerate(problem.train.x)}
    assert all(image.contiguous().numpy().tobytes() in known for x, _ in problem.train.epoch(0) for image in x)
    for x, y in problem.train.epoch(1):
        for image, label in zip(x, y.tolist(), strict=True):
            index = known.get(image.contiguous().numpy().tobytes())
            plain += index is not None
            if index is None:
                index = known[image.flip(-1).contiguous().numpy().tobytes()]
                mirrored += 1
            assert label == images.train_labels[index]
            labels.append(index)
    assert sorted(labels) == list(range(EXAMPLES)), "every image must occur once"
    assert abs(plain - mirrored) <= 4 * math.sqrt(EXAMPLES), "half of them, within four standard deviations"


def test_task_batches_are_pure_function_of_seed_and_epoch(task):
    def first(seed, epoch):
        return next(task.build(seed).train.epoch(epoch))[0]

    assert torch.equal(first(0, 2), first(0, 2))
    assert not torch.equal(first(0, 2), first(0, 3))
    assert not torch.equal(first(0, 2), first(1, 2))


def test_validation_images_are_those_of_the_smaller_network(task):
    one, two = (get(name, validation_size=20, shuffle=False) for name in ("fashion-mnist", "fashion-mnist-resnet"))
    first, second = one.build(0), two.build(0)
    assert first.test is not None
    assert second.test is not None
    assert torch.equal(first.evaluation.y, second.evaluation.y)
    assert torch.equal(first.train.y, second.train.y)
    assert torch.equal(first.test.y, second.test.y)


def test_task_weights_depend_on_seed(task):
    one, two, other = (task.build(seed).model.state_dict() for seed in (42, 42, 43))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["1.weight"], other["1.weight"])


def test_dashpot_optimizer_overfits_one_batch(task):
    """The model memorizes random labels of random pixels within 8 steps."""
    problem = task.build(0)
    optimizer = dp.AdamW(problem.model.parameters(), lr=3e-3)
    x, y = problem.train.x[:8], problem.train.y[:8]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = problem.loss(problem.model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_task_target_and_config_match_documentation(task):
    assert (task.epochs, task.target) == (6, Target("accuracy", 0.935, "max"))
    expected = {"batch_size": 64, "shuffle": True, "mirror": 0.5, "mirror_from": 1, "label_smoothing": 0.1}
    assert {name: task.config[name] for name in expected} == expected
    assert set(task.config["data_sha256"]) == {file.name for file in fashion_mnist.DATASET.files.values()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"^fashion-mnist-resnet: batch_size must be an integer in \[1, inf\), got 0\.$"),
        ({"shuffle": 1}, r"^fashion-mnist-resnet: shuffle must be one of False, True, got 1\.$"),
        ({"batchsize": 4}, "^Unknown option of the task fashion-mnist-resnet 'batchsize': did you mean 'batch_size'"),
    ],
)
def test_task_with_invalid_option_raises_before_loading(monkeypatch, options, message):
    def fail(data_dir):
        raise AssertionError

    monkeypatch.setattr(fashion_mnist, "load", fail)
    with pytest.raises(ArgumentError, match=message):
        get("fashion-mnist-resnet", **options)


def test_documented_accuracies_are_those_of_the_committed_figures():
    docs = Path(__file__).parents[2] / "docs"
    lines = (docs / "results/fashion-mnist-resnet.jsonl").read_text(encoding="utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    assert [(run["seed"], run["status"]) for run in runs] == [(0, "done"), (1, "done"), (2, "done")]
    epochs = np.array([run["accuracy"] for run in runs])
    page = (docs / "data.md").read_text(encoding="utf-8")
    for label, values in (
        ("accuracy, mean", epochs.mean(0)),
        ("lowest seed", epochs.min(0)),
        ("highest seed", epochs.max(0)),
    ):
        assert f"| {label} | " + " | ".join(f"{value:.3f}".lstrip("0") for value in values) + " |" in page
    interval = mean_interval(list(epochs[:, -1]))
    figures = (f"{value:.4f}".lstrip("0") for value in (interval.estimate, interval.low, interval.high))
    assert "The mean after six epochs is {} (95 % interval {} to {}).".format(*figures) in page
