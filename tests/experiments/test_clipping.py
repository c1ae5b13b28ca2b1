"""The experiment `clipping`: the recurrent network, the cliff, and the findings."""

import math
from itertools import pairwise

import pytest
import torch
from outcome_checks import check_findings, check_page

from dashpot import experiments
from dashpot.experiments import cliff, recurrent_net


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("clipping", seeds=2, quick=True)


def test_every_claim_has_findings_and_names_are_unique(outcome):
    check_findings(outcome)


def test_network_equals_a_loop_over_examples():
    model = recurrent_net.RecurrentNet(0, 1.2)
    x, _ = next(recurrent_net.adding_problem(0, length=4, batch=2))
    for example in range(2):
        h = torch.zeros(recurrent_net.UNITS)
        for value in x[:, example]:
            h = torch.relu(value @ model.inputs + h @ model.recurrent + model.bias)
        expected = h @ model.output + model.offset
        assert model(x)[example].item() == pytest.approx(expected.item(), abs=1e-5)  # float32, outputs of order 1


def test_training_without_clipping_diverges_and_with_clipping_does_not():
    assert recurrent_net.train(1, 2.0, 10, 0.2).diverged
    result = recurrent_net.train(1, 2.0, 10, 0.2, max_norm=0.1)
    assert not result.diverged
    assert len(result.losses) == len(result.norms) == 10


def test_first_nonfinite_gradient_is_named():
    stop = recurrent_net.first_nonfinite(1, 2.0, 10, 0.2)
    assert stop is not None
    assert "parameter" in stop[1]


def test_gradient_through_time_equals_autograd_of_the_state():
    sizes = recurrent_net.growth(3, 1.2)
    assert sizes[0] == 1.0
    assert len(sizes) == recurrent_net.LENGTH
    assert sizes[-1] ** (1 / 29) == pytest.approx(1.2, rel=0.5)  # one network of 16 units


def test_clipped_step_across_the_cliff_has_the_length_of_the_limit(outcome):
    steps = {f.name: f.measured for f in outcome.findings if f.name.startswith("step")}
    path = cliff.descend_the_cliff(3, max_norm=1e-3)
    lengths = [math.dist(a[:2], b[:2]) for a, b in pairwise(path)]
    assert lengths == pytest.approx([0.5e-3] * 3, rel=0.01)  # norm + 1e-6 in the factor, relative 1e-3
    assert steps["step-norm"] <= 0.05


def test_clipping_by_value_changes_the_direction():
    assert recurrent_net.angles(0, 1.2, 0.01) < 0.99
    assert recurrent_net.angles(0, 1.2, 1e30) == pytest.approx(1, rel=1e-6)  # no element is clipped


@pytest.mark.slow
def test_clipping_full_run(tmp_path):
    outcome = experiments.run("clipping")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert all(finding.holds for finding in outcome.findings)
    check_page(outcome, tmp_path)
