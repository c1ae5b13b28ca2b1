"""The experiment `batch-invariance`: runs over the same examples, the stated range, and the findings."""

import math

import pytest
import torch
from outcome_checks import check_outcome, check_page

from dashpot import SGD, experiments
from dashpot.data.seeding import generator
from dashpot.experiments import batch_invariance
from dashpot.experiments.batch_runs import LARGEST, BatchRun, Phase, largest_curvatures, train
from dashpot.experiments.image_vectors import digit_images
from dashpot.experiments.stacked_network import StackedNetwork, index_batches


@pytest.fixture(scope="module")
def data():
    return digit_images(held_out=False, each_pixel=True)


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("batch-invariance", seeds=2, quick=True)


@pytest.mark.slow
def test_every_claim_has_findings_and_names_are_unique(outcome):
    check_outcome(outcome)


def test_batches_of_all_sizes_have_the_same_examples_in_the_same_order():
    orders = []
    for batch in (32, 256):
        sources = [generator("batch-invariance", seed) for seed in (0, 1)]
        orders.append(torch.cat([index for _ in range(2) for index in index_batches(sources, LARGEST, batch)], dim=1))
    assert orders[0].shape == (2, 2 * LARGEST)
    assert torch.equal(*orders)


def test_train_equals_a_loop_over_one_network(data):
    phases = [Phase(1, 512), Phase(1, 1024, 0.5)]
    run = train([3, 4], data, lambda parameters: SGD(parameters, lr=0.1), phases)
    model = StackedNetwork((64, 64, 10), [4])
    source = generator("batch-invariance", 4)
    inputs, labels = data.train
    for batch, lr in ((512, 0.1), (1024, 0.05)):
        for index in torch.randperm(1024, generator=source).split(batch):
            loss = torch.nn.functional.cross_entropy(model(inputs[None, index])[0], labels[index])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= lr * gradient
    expected = torch.nn.functional.cross_entropy(model(inputs[None])[0], labels).item()
    assert run.examples == [0, 1024, 2048]
    assert run.final[1].item() == pytest.approx(expected, rel=1e-5)  # float32


@pytest.mark.slow
def test_curvature_of_a_seed_does_not_depend_on_the_other_seeds(data):
    def create(parameters):
        return SGD(parameters, lr=0.01)

    both, one = (train(seeds, data, create, [Phase(1, 1024)], keep=True) for seeds in ([5, 6], [6]))
    found = largest_curvatures(both, data, [0, 1])
    assert found[1] == pytest.approx(largest_curvatures(one, data, [0, 1])[0], rel=1e-4)  # float32
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_final_loss_of_a_diverged_run_is_that_of_the_initial_network():
    run = BatchRun([0, 1024], torch.tensor([[2.5, math.nan], [2.4, 0.5]]))
    assert run.final.tolist() == pytest.approx([2.5, 0.5])


@pytest.mark.slow
def test_stated_range_has_a_product_of_a_fifth(outcome):
    measured = {finding.name: finding.measured for finding in outcome.findings}
    product = batch_invariance.LOW / 32 * measured["range"] * outcome.data["curvature"]
    assert product == pytest.approx(0.2)
    assert measured["curvature"] <= outcome.data["curvature"]


@pytest.mark.parametrize(
    ("values", "is_stated", "holds", "has_limits"),
    [
        ([1.01, 1.011], True, True, False),
        ([1.03, 1.04], True, False, False),
        ([1.03, 1.04], False, True, True),
        ([0.9, 1.1], True, False, False),  # the interval is wider than the margin
    ],
)
def test_agreement_requires_the_interval_inside_the_margin(values, is_stated, holds, has_limits):
    run = BatchRun([0, 1], torch.tensor([[2.0, value] for value in values]))
    base = BatchRun([0, 1], torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
    found = batch_invariance._agreement("a", "a", run, base, is_stated)
    assert (found.holds, bool(found.limits)) == (holds, has_limits)


@pytest.mark.slow
def test_batch_invariance_full_run(tmp_path):
    outcome = experiments.run("batch-invariance")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert all(finding.holds for finding in outcome.findings)
    check_page(outcome, tmp_path)
