"""The experiment `initialisation`: deep networks, their statistics, and the findings."""

import math

import pytest
import torch
from outcome_checks import check_outcome, check_page
from torch import nn

from dashpot import experiments
from dashpot.experiments.deep_network import DeepNetwork, layer_statistics, scale_layers
from dashpot.experiments.initialisation import _unnecessary
from dashpot.training.callbacks.activation_sums import measure


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("initialisation", seeds=2, quick=True)


def inputs(features=6):
    return torch.randn(1, 40, features, generator=torch.Generator().manual_seed(1))


def reference(network, row):
    """Return one network of the stack as modules of torch."""
    layers = []
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        layer.weight.data, layer.bias.data = weight[row].detach().T.clone(), bias[row, 0].detach().clone()
        layers.append(layer)
        if index < len(network.means):
            layers += [nn.BatchNorm1d(weight.shape[2])] * network.normalized + [nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.slow
def test_every_claim_has_findings_and_names_are_unique(outcome):
    check_outcome(outcome)


@pytest.mark.parametrize("normalized", [False, True])
def test_deep_network_equals_modules_of_torch(normalized):
    network = DeepNetwork((6, 8, 8, 3), [0, 1], "kaiming", normalized)
    expected = reference(network, 1)
    x = inputs()
    for _ in range(3):  # running statistics
        torch.testing.assert_close(network(x)[1], expected(x[0]))
    if normalized:
        # torch's running variance is unbiased
        torch.testing.assert_close(network.means[1][1, 0], expected[4].running_mean)
        network.variances = [1 + (variance - 0.9**3) * 40 / 39 - (1 - 0.9**3) for variance in network.variances]
        torch.testing.assert_close(network.variances[1][1, 0], expected[4].running_var)
    network.eval(), expected.eval()
    torch.testing.assert_close(network(x)[1], expected(x[0]))


@pytest.mark.parametrize(("initialization", "variance"), [("kaiming", 2), ("large", 8), ("default", 1 / 3)])
def test_initialization_has_the_stated_variance(initialization, variance):
    weight = DeepNetwork((200, 300, 2), [0], initialization, normalized=False).weights[0]
    assert float(weight.detach().var()) * 200 == pytest.approx(variance, rel=0.02)  # 60 000 draws
    if initialization == "default":
        assert float(weight.detach().abs().max()) <= 1 / math.sqrt(200)


def test_scaled_layers_have_unit_outputs_with_every_scale():
    network = DeepNetwork((6, 16, 16, 3), [0, 1], "large", normalized=False)
    scale_layers(network, inputs())
    assert network(inputs()).detach().std((1, 2)).tolist() == pytest.approx([1, 1], rel=1e-4)


def test_layer_statistics_count_units_without_output():
    network = DeepNetwork((6, 8, 8, 3), [0, 1], "kaiming", normalized=False)
    with torch.no_grad():
        network.biases[1][0, 0, :2] = -100
    sizes, dead = layer_statistics(network, inputs())
    layer = network.layers(inputs())[1]
    assert dead[0, 1].item() >= 0.25
    assert dead[1, 1].item() == pytest.approx((layer[1].amax(0) <= 1e-3).double().mean().item())
    assert sizes[1, 1].item() == pytest.approx(layer[1].square().mean().sqrt().item())


def test_dead_units_equal_those_of_the_callback():
    network = DeepNetwork((6, 8, 8, 3), [0, 1], "default", normalized=False)
    with torch.no_grad():
        network.biases[0] -= 1.4  # some units are never active
        layers = network.layers(inputs())
    _, dead = layer_statistics(network, inputs())
    for layer in (0, 1):
        row = measure(layers[layer][1], "layer", 1e-3, 2, (0.0, 1.0)).row()
        assert dead[1, layer].item() == pytest.approx(float(row[4]))  # number, sum, squares, zeros, dead
    assert 0 < dead[1, 0].item() < 1


@pytest.mark.parametrize(
    ("differences", "initialization", "holds", "has_limits"),
    [
        ([0.0, -0.001], "kaiming", True, False),
        ([-0.05, -0.051], "lsuv", False, False),
        ([-0.05, -0.051], "default", True, False),
        ([-0.1, 0.1], "kaiming", True, True),
    ],
)
def test_technique_is_unnecessary_if_it_gains_at_most_the_margin(differences, initialization, holds, has_limits):
    found = _unnecessary("a", "a", torch.tensor(differences), initialization, claim=1)
    assert (found.holds, bool(found.limits)) == (holds, has_limits)


@pytest.mark.slow
def test_initialisation_full_run(tmp_path):
    outcome = experiments.run("initialisation")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    check_page(outcome, tmp_path)
