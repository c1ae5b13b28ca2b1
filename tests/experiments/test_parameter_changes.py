"""The experiment `parameter-changes`: its findings, and its problems."""

import pytest
import torch
from outcome_checks import check_page

from dashpot import experiments
from dashpot.experiments import parameter_changes


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("parameter-changes", seeds=2, quick=True)


def found(outcome, prefix):
    return [finding for finding in outcome.findings if finding.name.startswith(prefix)]


def test_recursion_holds_and_changes_stay_below_bound(outcome):
    assert [finding.name for finding in found(outcome, "residual")] == [
        f"residual-{problem}" for problem in ("quadratic", "logistic", "digits")
    ]
    assert all(finding.holds and finding.measured < 1e-12 for finding in found(outcome, "residual"))  # float64
    assert all(finding.holds for finding in found(outcome, "bound"))


def test_published_form_holds_only_without_debiasing(outcome):
    assert [finding.holds for finding in found(outcome, "published")] == [False, False, True]
    adamw, autosgm, _ = found(outcome, "published")
    assert adamw.measured == pytest.approx(0.9, abs=0.05)  # 1 - gain, apart from the decay
    assert autosgm.measured == pytest.approx(1 - 0.1 / (1 - 0.5528), abs=0.05)


def test_decay_rates_equal_closed_form_and_exceed_rate_without_decay(outcome):
    none, coupled, change = found(outcome, "decay")
    assert all(finding.holds for finding in (none, coupled, change))
    # To first order in lr, the rates are lr h, lr (h + rho) and lr (h + gain rho), here with unit DC gain.
    gain = (1 - parameter_changes.POLE) / (1 - parameter_changes.ZERO)
    h, rho, lr = parameter_changes.CURVATURE, parameter_changes.DECAY, parameter_changes.RATE
    assert none.measured == pytest.approx(lr * h, rel=0.05)
    assert coupled.measured == pytest.approx(lr * (h + rho), rel=0.11)
    assert change.measured == pytest.approx(lr * (h + gain * rho), rel=0.06)


def test_figures_have_every_series(outcome):
    drawn = {panel.key: panel.draw() for panel in outcome.panels}
    assert list(drawn) == ["residuals", "rates", "bound", "paths"]
    series = {key: [{line.get_gid() for line in ax.lines} for ax in figure.axes] for key, figure in drawn.items()}
    assert series["bound"] == [{"change", "bound"}]
    assert series["residuals"][1] == series["residuals"][0] - {"qhadam"}
    assert {"adamw", "nag", "autosgm"} < series["paths"][0]


def test_logistic_gradient_equals_formula():
    problem = parameter_changes._logistic(0)
    loss = problem.loss(problem.module, 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.69, abs=0.2)  # log 2 near the origin
    assert torch.isfinite(problem.module.weight.grad).all()


@pytest.mark.slow
def test_parameter_changes_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("parameter-changes")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert [finding.name for finding in outcome.findings if not finding.holds] == [
        "published-AdamW",
        "published-AutoSGM",
        "late-AutoSGM",
        "late-NAG",
    ]
    check_page(outcome, tmp_path)
