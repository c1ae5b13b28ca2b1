"""Studies of experiments: findings, joint intervals, progress and errors."""

import numpy as np
import pytest
import torch

from dashpot import tasks
from dashpot.data import digits
from dashpot.errors import DataError, RunError
from dashpot.experiments import training_study
from dashpot.experiments.progress import listening
from dashpot.runs.entries import Entry
from dashpot.runs.signals import Interrupted
from dashpot.runs.study import Study


def study(*entries, epochs=1):
    return Study(tasks.get("noisy-quadratic"), entries, (0, 1, 2), epochs)


SGD = Entry("sgd", torch.optim.SGD, 0.1)
SLOW = Entry("slow", torch.optim.SGD, 0.001)


@pytest.fixture(scope="module")
def found():
    lines = []
    with listening(lines.append):
        return training_study.study_findings(study(SGD, SLOW), "rates"), lines


def test_findings_have_scores_and_joint_differences(found):
    findings, _ = found
    first, second = (np.array(training_study.scores(findings, name)) for name in ("sgd", "slow"))
    interval = training_study.difference(findings, "sgd", "slow")
    assert interval.estimate == pytest.approx(float((first - second).mean()))
    assert training_study.difference(findings, "slow", "sgd").low == -interval.high
    assert training_study.score(findings, "slow").estimate == pytest.approx(float(second.mean()))
    assert interval.high < 0  # the slow rate has the higher loss


def test_progress_names_each_run(found):
    assert found[1][:2] == ["rates 1/6: sgd seed 0", "rates 2/6: slow seed 0"]
    assert found[1][-1] == "statistics"


def test_joint_differences_equal_those_of_a_study(found):
    findings, _ = found
    scores = {name: training_study.scores(findings, name) for name in ("sgd", "slow")}
    assert training_study.joint_differences(scores)["sgd", "slow"] == training_study.difference(findings, "sgd", "slow")


def test_interval_finding_has_the_limits_of_the_interval(found):
    interval = training_study.score(found[0], "sgd")
    finding = training_study.interval_finding("a", "loss of sgd", interval, predicted=0.0, holds=False, claim=2)
    assert (finding.measured, finding.low, finding.high) == (interval.estimate, interval.low, interval.high)
    assert (finding.predicted, finding.holds, finding.limits, finding.claim) == (0.0, False, "", 2)


def test_failed_run_raises_with_its_error():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise ValueError("no step")

    with pytest.raises(RunError, match=r"The run of failing with seed 0 has failed: .*no step"):
        training_study.study_findings(study(Entry("failing", Failing, 0.1)))


def test_interrupt_does_not_advise_to_resume(monkeypatch):
    def interrupted(*_, **__):
        raise Interrupted("Resume with: ...", 143)

    monkeypatch.setattr("dashpot.comparison.runner.run_study", interrupted)
    with pytest.raises(Interrupted, match=r"^Stopped\. An experiment cannot be resumed\.$") as stop:
        training_study.study_findings(study(SGD))
    assert stop.value.code == 143


def test_image_task_without_fashion_mnist_is_the_digits_with_a_reason(monkeypatch):
    from dashpot.data import fashion_mnist

    def missing(_):
        raise DataError("Fashion-MNIST was not found.")

    monkeypatch.setattr(fashion_mnist, "load", missing)
    task, sentence = training_study.image_task(quick=False, batch_size=100)
    assert task.name == "digits"
    assert task.config["data_sha256"] == digits.SHA256
    assert sentence == "digits instead of Fashion-MNIST: Fashion-MNIST was not found."
    assert training_study.image_task(quick=True)[1] == "digits."
