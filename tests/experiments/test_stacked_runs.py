"""Stacked networks at several rates: independence of rows, skip connections, divergence and choices."""

import pytest
import torch

from dashpot.data import fashion_mnist
from dashpot.errors import DataError
from dashpot.experiments.image_vectors import clothes_or_digits, digit_images
from dashpot.experiments.stacked_runs import TUNING_SEEDS, Plan, SkipNetwork, StackedRuns, best_rate, maker, train


def plan(*seeds, **given):
    return Plan(digit_images(), seeds, **{"hidden": (4,), "epochs": 1, **given})


@pytest.mark.parametrize(
    ("method", "separate"), [("adam", False), pytest.param("autosgm-1", True, marks=pytest.mark.slow)]
)
def test_runs_of_a_seed_do_not_depend_on_the_other_seeds(method, separate):
    both, alone = (train(plan(*seeds, separate=separate), maker(method, 0.01)) for seeds in ((0, 1), (1,)))
    assert both.test[1] == alone.test[0]
    assert both.loss[1] == pytest.approx(alone.loss[0], rel=1e-5)  # rounding of batched products
    assert both.tuning == alone.tuning


def test_separate_parameters_do_not_change_runs_of_elementwise_methods():
    found = [train(plan(0, separate=separate), maker("adamw", 0.01)) for separate in (False, True)]
    assert found[0] == found[1]


def test_curve_has_evaluations_of_all_seeds_from_the_start():
    found = train(plan(0, evaluations=3), maker("sgd", 0.1))
    assert found.steps == [0, 8, 16, 24]
    assert [len(values) for values in found.losses] == [len(TUNING_SEEDS) + 1] * 4
    assert found.loss == [found.losses[-1][-1]]
    assert found.losses[-1][-1] < found.losses[0][-1]
    assert found.distance[0] > 0


def test_diverged_network_has_results_of_its_untrained_state():
    start = train(plan(0), maker("sgd", 0.0))
    found = train(plan(0), maker("sgd", 1e38))
    assert (found.test, found.loss, found.tuning) == (start.test, start.loss, start.tuning)


def test_skip_network_adds_hidden_layers_to_their_input():
    network = SkipNetwork((3, 4, 4, 2), [0])
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    first, second, third = (weight[0] for weight in network.weights)
    hidden = x @ first
    hidden = hidden + torch.tanh(hidden) @ second
    torch.testing.assert_close(network(x[None])[0], torch.tanh(hidden) @ third)


def test_best_rate_is_the_lowest_of_equal_ones():
    runs = [StackedRuns(value, [], [], [], []) for value in (0.5, 0.9, 0.9)]
    assert best_rate(runs) == 1


def test_clothes_without_fashion_mnist_are_the_digits_with_a_reason(monkeypatch):
    def missing():
        raise DataError("Fashion-MNIST was not found.")

    monkeypatch.setattr(fashion_mnist, "load", missing)
    found = clothes_or_digits(quick=False)
    assert found.name == "digits"
    assert found.remark == "digits instead of Fashion-MNIST: Fashion-MNIST was not found."


def test_pixels_are_normalized_and_parts_are_those_of_the_task():
    found = digit_images()
    assert [len(part[1]) for part in (found.train, found.validation, found.test)] == [1200, 300, 297]
    assert float(found.train[0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.train[0].std()) == pytest.approx(1, abs=1e-5)
